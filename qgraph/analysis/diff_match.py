"""Which tensors and ops of two versions of a model are the same: by name, then by what stands around them.

From every pair that is known, others follow: what makes both tensors, what reads them at the same place, what an op
reads and makes at the same position. Only like is paired with like (the same type of op, the same element type), so a
layer that one version lacks ends a chain and is not skipped over. Where several readers are alike, they are paired in
the order of the graph once nothing else follows, and only if there are as many on both sides.

The pairing does not depend on which model is the first.

>>> from qgraph.ir.elements import Op, Tensor
>>> def chain(*names):  # an input, then what each Relu makes
...     ops = tuple(Op(f"r{y}", "Relu", "", (x,), (y,)) for x, y in zip(names, names[1:]))
...     tensors = tuple(Tensor(name, "float32", None) for name in sorted(names))
...     return Structure("m", "", 17, ops, tensors, (names[0],), (names[-1],))
>>> sorted(match(chain("x", "u", "v"), chain("x", "p", "q")).tensors.items())
[('p', 'u'), ('q', 'v'), ('x', 'x')]
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qgraph.ir.elements import Structure


@dataclass(frozen=True, slots=True)
class Matching:
    """Names in a, by names in b; what is missing has no counterpart."""

    tensors: Mapping[str, str]
    ops: Mapping[str, str]


Origin = tuple[str, ...]
Reader = tuple[str, int]
"""An op's name and the position at which it reads."""


class _Side:
    """One of the two models, with what is asked about it."""

    def __init__(self, structure: Structure) -> None:
        self.ops = {op.name: op for op in structure.ops}
        self.dtypes = {tensor.name: tensor.dtype for tensor in structure.tensors}
        self.inputs, self.outputs = structure.inputs, structure.outputs
        self.maker: dict[str, str] = {}
        self.origins: dict[str, Origin] = dict.fromkeys(structure.inputs, ("input",))
        self.readers: dict[str, list[Reader]] = defaultdict(list)
        self.origins |= {tensor.name: ("constant",) for tensor in structure.tensors if tensor.constant}
        for op in structure.ops:
            for position, tensor in enumerate(op.outputs):
                if tensor is not None:
                    self.maker[tensor] = op.name
                    self.origins[tensor] = ("op", op.domain, op.type, str(position))
            for position, tensor in enumerate(op.inputs):
                if tensor is not None:
                    self.readers[tensor].append((op.name, position))
        self.tensor_of: dict[str, str] = {}  # counterparts
        self.op_of: dict[str, str] = {}

    def like(self, tensor: str) -> tuple[Origin | None, str | None]:
        """What another tensor must equal to be paired with this one."""
        return self.origins.get(tensor), self.dtypes.get(tensor)

    def free_readers(self, tensor: str) -> dict[tuple[str, str, int], list[str]]:
        """Ops without a counterpart that read a tensor, by what they are and where they read it."""
        found: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        for name, position in self.readers.get(tensor, ()):
            if name not in self.op_of:
                found[self.ops[name].domain, self.ops[name].type, position].append(name)
        return found


def match(a: Structure, b: Structure) -> Matching:
    """Pair the tensors and ops of two models."""
    matcher = _Matcher(_Side(a), _Side(b))
    matcher.run()
    return Matching(matcher.b.tensor_of, matcher.b.op_of)


class _Matcher:
    """The pairs so far, and those whose surroundings were not looked at yet."""

    def __init__(self, a: _Side, b: _Side) -> None:
        self.a, self.b = a, b
        self.pending: deque[tuple[str, str]] = deque()  # pairs of tensors
        self.unclear: deque[tuple[str, str]] = deque()  # pairs of tensors with several readers alike

    def run(self) -> None:
        """Pair by name, then by place, until nothing follows any more."""
        for name in sorted(self.a.dtypes.keys() & self.b.dtypes.keys()):
            self.pair_tensors(name, name)
        for name in sorted(self.a.ops.keys() & self.b.ops.keys()):
            self.pair_ops(name, name)
        for x, y in [
            *zip(self.a.inputs, self.b.inputs, strict=False),
            *zip(self.a.outputs, self.b.outputs, strict=False),
        ]:
            self.pair_tensors(x, y)
        while self.pending or self.unclear:
            if self.pending:
                self.look_around(*self.pending.popleft(), ordered=False)
            else:
                self.look_around(*self.unclear.popleft(), ordered=True)

    def pair_tensors(self, x: str, y: str) -> None:
        """Pair two tensors if they are alike and neither has a counterpart."""
        if x in self.a.tensor_of or y in self.b.tensor_of or self.a.like(x) != self.b.like(y):
            return
        self.a.tensor_of[x], self.b.tensor_of[y] = y, x
        self.pending.append((x, y))

    def pair_ops(self, x: str, y: str) -> None:
        """Pair two ops if they are alike and nothing that they make is paired with something else."""
        one, other = self.a.ops[x], self.b.ops[y]
        if x in self.a.op_of or y in self.b.op_of or (one.domain, one.type) != (other.domain, other.type):
            return
        made = list(_both(one.outputs, other.outputs))
        if any(self.a.tensor_of.get(t, u) != u or self.b.tensor_of.get(u, t) != t for t, u in made):
            return
        self.a.op_of[x], self.b.op_of[y] = y, x
        for t, u in [*made, *_both(one.inputs, other.inputs)]:
            self.pair_tensors(t, u)

    def look_around(self, x: str, y: str, *, ordered: bool) -> None:
        """Pair what makes and what reads two tensors that are paired."""
        if x in self.a.maker and y in self.b.maker:
            self.pair_ops(self.a.maker[x], self.b.maker[y])
        readers_a, readers_b = self.a.free_readers(x), self.b.free_readers(y)
        for key in sorted(readers_a.keys() & readers_b.keys()):
            ones, others = readers_a[key], readers_b[key]
            if len(ones) == len(others) == 1 or (ordered and len(ones) == len(others)):
                for one, other in zip(ones, others, strict=True):
                    self.pair_ops(one, other)
            elif not ordered and len(ones) == len(others):
                self.unclear.append((x, y))


def _both(ones: Iterable[str | None], others: Iterable[str | None]) -> Iterable[tuple[str, str]]:
    pairs = zip(ones, others, strict=False)
    return ((one, other) for one, other in pairs if one is not None and other is not None)
