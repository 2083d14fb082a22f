"""Find ops and tensors of a model by what a user calls them.

::

    conv1            the op or the tensor of that name; * and ? stand for any characters
    op:conv1         the op                           type:MatMul          all ops of that type
    tensor:x         the tensor                       path:encoder.layer1  all ops of that module
    re:^.*norm.*$    by regular expression            between:a..b         all ops on the way from tensor a to b

A name that the model has wins over everything that it might mean otherwise. The bare path of a module that ops are
named after means all of its ops, as with ``path:``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from qgraph.errors import NotFoundError, UsageError
from qgraph.ir.elements import Op, Structure
from qgraph.ir.slots import graph_constant, graph_input, output_slot

SHOWN = 12
"""Types of ops that an error lists."""

KINDS = ("op", "tensor", "type", "re", "path", "between")


@dataclass(frozen=True, slots=True)
class Selection:
    """Names of ops and tensors, each sorted."""

    ops: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selector:
    """A model's names, ready to be searched."""

    structure: Structure

    @cached_property
    def ops(self) -> dict[str, Op]:
        """By name, those that folding took into another one too."""
        folded = {origin: op for op in self.structure.ops for origin in op.origins}
        return folded | {op.name: op for op in self.structure.ops}

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Names of the float tensors."""
        return frozenset(tensor.name for tensor in self.structure.tensors if tensor.is_float)

    @cached_property
    def _makers(self) -> dict[str, str]:
        ops = self.structure.ops
        return {name: output_slot(op.name, index) for op in ops for index, name in enumerate(op.outputs) if name}

    def made_at(self, tensor: str) -> str:
        """The slot where a tensor is made."""
        if tensor in self._makers:
            return self._makers[tensor]
        return graph_input(tensor) if tensor in self.structure.inputs else graph_constant(tensor)

    def select(self, text: str) -> Selection:
        """The ops and tensors that a selector means.

        Raises:
            NotFoundError: it means nothing; the cure has near matches.
            UsageError: it is not well formed.
        """
        named = Selection(*self._named(text, self.ops, self.tensors))
        if named.ops or named.tensors:
            return named
        kind, colon, rest = text.partition(":")
        if not colon or kind not in KINDS:
            if self._has_module(text):
                return self._of_module(text)
            return self._matching(text, _glob(text), self.ops, self.tensors, "op or tensor")
        return {
            "op": lambda: self._matching(rest, _glob(rest), self.ops, (), "op"),
            "tensor": lambda: self._matching(rest, _glob(rest), (), self.tensors, "tensor"),
            "re": lambda: self._matching(rest, _regex(rest), self.ops, self.tensors, "op or tensor"),
            "type": lambda: self._of_type(rest),
            "path": lambda: self._of_module(rest),
            "between": lambda: self._between(rest),
        }[kind]()

    def _named(self, name: str, *known: Iterable[str]) -> Iterator[tuple[str, ...]]:
        for names in known:
            found = name in names
            yield ((self.ops[name].name if names is self.ops else name),) if found else ()

    def _matching(
        self, text: str, pattern: re.Pattern[str], ops: Iterable[str], tensors: Iterable[str], kind: str
    ) -> Selection:
        found = Selection(
            tuple(sorted({self.ops[name].name for name in ops if pattern.fullmatch(name)})),
            tuple(sorted(name for name in tensors if pattern.fullmatch(name))),
        )
        if not found.ops and not found.tensors:
            raise _unknown(kind, text, (*ops, *tensors))
        return found

    def _of_type(self, kind: str) -> Selection:
        known = {op.type for op in self.structure.ops}
        pattern = _glob(kind)
        found = tuple(sorted(op.name for op in self.structure.ops if pattern.fullmatch(op.type)))
        if not found:
            raise _unknown("op type", kind, known)
        return Selection(found)

    def _has_module(self, path: str) -> bool:
        """Whether ops are named after this module: then its bare path is enough to name it."""
        prefix = f"{_dotted(path)}."
        return len(prefix) > 1 and any(_dotted(name).startswith(prefix) for name in self.ops)

    def _of_module(self, path: str) -> Selection:
        """Ops whose name, or that of something they make or of a constant they read, lies in the module."""
        prefix = _dotted(path)
        constants = {tensor.name for tensor in self.structure.tensors if tensor.constant}
        modules: set[str] = set()
        found = []
        for op in self.structure.ops:
            own = (op.name, *op.origins, *(name for name in op.outputs if name))
            names = [_dotted(name) for name in (*own, *(name for name in op.inputs if name in constants))]
            modules.update(name.rpartition(".")[0] for name in names if "." in name)
            if any(name == prefix or name.startswith(f"{prefix}.") for name in names):
                found.append(op.name)
        if not found or not prefix:
            raise _unknown("module path", path, modules)
        return Selection(tuple(sorted(found)))

    def _between(self, text: str) -> Selection:
        """Ops that read, at any distance, what is behind `a`, and make, at any distance, `b`."""
        start, dots, end = text.partition("..")
        if not dots:
            raise UsageError("between: takes two tensors", text, "write between:a..b")
        for name in (start, end):
            if name not in self.tensors:
                raise NotFoundError.among("tensor", name, self.tensors, "see qgraph scales")
        behind, reached = {start}, set[str]()
        for op in self.structure.ops:
            if any(name in behind for name in op.inputs):
                reached.add(op.name)
                behind.update(name for name in op.outputs if name is not None)
        needed, found = {end}, []
        for op in reversed(self.structure.ops):
            if any(name in needed for name in op.outputs):
                if op.name in reached:
                    found.append(op.name)
                needed.update(name for name in op.inputs if name is not None and name != start)
        if not found:
            raise NotFoundError("nothing leads from one tensor to the other", text, "name the earlier one first")
        return Selection(tuple(sorted(found)))


def _dotted(name: str) -> str:
    """A module path whatever separates its parts: ``/encoder/layer1/Conv`` is ``encoder.layer1.Conv``."""
    return name.replace("/", ".").strip(".")


def _glob(text: str) -> re.Pattern[str]:
    """``*`` and ``?`` only: brackets are common in names."""
    return re.compile("".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in text))


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError("not a regular expression", f"{text} ({error})", "correct it") from error


def _unknown(kind: str, text: str, known: Iterable[str]) -> NotFoundError:
    """The error for a selector that means nothing; near matches are sought for its letters, not for its wildcards."""
    literal = re.sub(r"\\.|[*?^$()\[\]{}|+]", "", text) or text
    names = sorted(set(known))
    cure = f"the model has {', '.join(names[:SHOWN]) or 'none'}{', …' if len(names) > SHOWN else ''}"
    error = NotFoundError.among(kind, literal, names, cure)
    return NotFoundError(error.what, text, error.cure)
