"""What a user asks for against the target's word, as plain data: read from options, from a file, and from a run.

::

    option                          in a file                             meaning
    --float SELECTOR                float = ["SELECTOR"]                  leave in float
    --bits SELECTOR=16              [bits]   "SELECTOR" = 16              other bits
    --pin TENSOR=SCALE,OFFSET       [pin]    "TENSOR" = [SCALE, OFFSET]   prescribe the parameters
    --share A=B                     share = [["A", "B"]]                  one scale for two tensors
    --unshare SELECTOR, or A=B      unshare = ["SELECTOR", ["A", "B"]]    none, where the target only prefers it
    --force-unshare …               force_unshare = […]                   none, even where the target requires it

What a selector can be is said by `qgraph.constraints.selectors`. The options come after the file; of two that ask
different things of one tensor the later one holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qgraph.constraints.pack_document import parse
from qgraph.errors import NotFoundError, PackError, UsageError
from qgraph.tqc import to_float32


class Action(StrEnum):
    """What is done with what a selector names."""

    FLOAT = "float"
    BITS = "bits"
    PIN = "pin"
    SHARE = "share"
    UNSHARE = "unshare"
    FORCE_UNSHARE = "force-unshare"


WIDTHS = (4, 8, 16)
"""Bits that can be asked for."""


@dataclass(frozen=True, slots=True)
class Override:
    """One wish.

    Attributes:
        selector: what it is about.
        other: the second tensor of a pair; None where there is none.
        bits: for `Action.BITS`.
        scale: for `Action.PIN`; a float32.
        offset: for `Action.PIN`; None stands for that of zero, on a symmetric target.
    """

    action: Action
    selector: str
    other: str | None = None
    bits: int | None = None
    scale: float | None = None
    offset: int | None = None

    def __str__(self) -> str:
        """As one line, which `parse_override` reads; runs keep it.

        >>> str(Override(Action.PIN, "tensor:x", scale=0.5, offset=-128))
        'pin tensor:x=0.5,-128'
        """
        if self.action == Action.BITS:
            return f"{self.action} {self.selector}={self.bits}"
        if self.action == Action.PIN:
            scale = None if self.scale is None else shortest(self.scale)
            return f"{self.action} {self.selector}={scale}{'' if self.offset is None else f',{self.offset}'}"
        return f"{self.action} {self.selector}{'' if self.other is None else f'={self.other}'}"


Overrides = tuple[Override, ...]


def shortest(scale: float) -> str:
    """A float32 in the fewest digits that mean it, as a user would type it.

    >>> shortest(to_float32(0.02))
    '0.02'
    """
    return next(text for digits in range(1, 10) if to_float32(float(text := f"{scale:.{digits}g}")) == scale)


def parse_override(text: str) -> Override:
    """Read what ``str`` of an override wrote.

    Raises:
        UsageError: it is no override.

    >>> parse_override("bits type:MatMul=16")
    Override(action=<Action.BITS: 'bits'>, selector='type:MatMul', other=None, bits=16, scale=None, offset=None)
    """
    action, _, rest = text.partition(" ")
    if action not in tuple(Action):
        raise NotFoundError.among("override", action, Action, f"use {', '.join(Action)}")
    return read_option(Action(action), rest)


def read_option(action: Action, text: str) -> Override:
    """Read the value of an option.

    Raises:
        UsageError: it is not of the form that the action needs.
    """
    if action == Action.FLOAT:
        return Override(action, _named(action, text))
    if action in (Action.UNSHARE, Action.FORCE_UNSHARE) and "=" not in text:
        return Override(action, _named(action, text))
    if action in (Action.SHARE, Action.UNSHARE, Action.FORCE_UNSHARE):
        if text.count("=") != 1:
            raise UsageError(f"--{action} takes two tensors", text, "write A=B; names with = go into a file")
        a, b = text.split("=")
        return Override(action, _named(action, a), _named(action, b))
    selector, _, value = text.rpartition("=")
    if action == Action.BITS:
        if not value.strip().isdecimal() or not selector:
            raise UsageError("--bits takes a selector and a number", text, "write SELECTOR=16")
        return _bits(selector.strip(), int(value))
    scale, _, offset = value.partition(",")
    try:
        return _pin(selector.strip(), float(scale), int(offset) if offset.strip() else None)
    except ValueError:
        raise UsageError("--pin takes a tensor, a scale and an offset", text, "write TENSOR=0.0078125,0") from None


def read_overrides(path: Path) -> Overrides:
    """Read a file of overrides.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is not TOML, or holds something else than overrides.
    """
    try:
        document = parse(path.read_bytes(), str(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotFoundError("cannot read the overrides", f"{path} ({reason})", "check the path") from error
    except PackError as error:
        raise UsageError("overrides that are not TOML", error.which, "correct the file at that place") from error
    return from_mapping(document, str(path))


def as_toml(overrides: Iterable[Override]) -> str:
    """Overrides as the text of a file that `read_overrides` reads.

    >>> print(as_toml([Override(Action.BITS, "tensor:x", bits=16), Override(Action.FLOAT, "type:Add")]), end="")
    float = ["type:Add"]
    <BLANKLINE>
    [bits]
    "tensor:x" = 16
    """
    lists: dict[Action, list[str]] = {}
    tables: dict[Action, dict[str, str]] = {}
    for one in overrides:
        if one.action == Action.BITS:
            tables.setdefault(one.action, {})[one.selector] = str(one.bits)
        elif one.action == Action.PIN:
            offset = [] if one.offset is None else [one.offset]
            tables.setdefault(one.action, {})[one.selector] = json.dumps([one.scale, *offset])
        else:
            entry = one.selector if one.other is None else [one.selector, one.other]
            lists.setdefault(one.action, []).append(json.dumps(entry))
    lines = [f"{action.replace('-', '_')} = [{', '.join(entries)}]" for action, entries in lists.items()]
    for action, table in tables.items():
        lines += ["", f"[{action}]", *(f"{json.dumps(selector)} = {value}" for selector, value in table.items())]
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def from_mapping(document: Mapping[str, object], origin: str = "overrides") -> Overrides:
    """Overrides from a mapping of the form that a file has; `origin` is what the messages call it.

    Raises:
        UsageError: a key or a value is wrong.
    """
    found: list[Override] = []
    for key, value in document.items():
        if not isinstance(key, str):
            raise UsageError(
                "the name of an override must be a text", f"{key!r} in {origin}", f"use {', '.join(Action)}"
            )
        name = key.replace("_", "-")
        if name not in tuple(Action):
            error = NotFoundError.among("override", name, Action, f"use {', '.join(Action)}")
            raise NotFoundError(error.what, f"{key} in {origin}", error.cure)
        try:
            found += _entries(Action(name), value)
        except (TypeError, ValueError, OverflowError):
            wrong = UsageError(f"a wrong value for {key}", f"{origin}: {value!r}", f"write {_FORMS[Action(name)]}")
            raise wrong from None
    return tuple(found)


_FORMS = {
    Action.FLOAT: 'float = ["SELECTOR"]',
    Action.BITS: '[bits] "SELECTOR" = 16',
    Action.PIN: '[pin] "TENSOR" = [SCALE, OFFSET]',
    Action.SHARE: 'share = [["A", "B"]]',
    Action.UNSHARE: 'unshare = ["SELECTOR", ["A", "B"]]',
    Action.FORCE_UNSHARE: 'force_unshare = ["SELECTOR", ["A", "B"]]',
}


def _entries(action: Action, value: object) -> list[Override]:
    """The overrides of one key. Raises TypeError or ValueError where the value has not the form of `_FORMS`."""
    if action == Action.BITS:
        return [_bits(selector, _whole(bits)) for selector, bits in _mapping(value)]
    if action == Action.PIN:
        return [_pin(selector, *_scale_and_offset(given)) for selector, given in _mapping(value)]
    if not isinstance(value, (list, tuple)):
        raise TypeError
    entries = []
    for entry in value:
        if isinstance(entry, str) and action != Action.SHARE:
            entries.append(Override(action, _named(action, entry)))
        elif isinstance(entry, (list, tuple)) and action != Action.FLOAT:
            a, b = entry
            if not isinstance(a, str) or not isinstance(b, str):
                raise TypeError
            entries.append(Override(action, _named(action, a), _named(action, b)))
        else:
            raise TypeError
    return entries


def _mapping(value: object) -> Iterable[tuple[str, object]]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return value.items()


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _scale_and_offset(value: object) -> tuple[float, int | None]:
    """A scale, or a list of a scale and an offset."""
    given = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(given) <= 2 or isinstance(given[0], bool) or not isinstance(given[0], (int, float)):
        raise TypeError
    return float(given[0]), _whole(given[1]) if len(given) == 2 else None


def _named(action: Action, text: str) -> str:
    if not text.strip():
        raise UsageError(f"--{action} without a selector", repr(text), "name an op, a tensor or a type")
    return text.strip()


def _bits(selector: str, bits: int) -> Override:
    if bits not in WIDTHS:
        raise UsageError("no such width", f"{selector}={bits}", f"choose {', '.join(map(str, WIDTHS))}")
    return Override(Action.BITS, _named(Action.BITS, selector), bits=bits)


def _pin(selector: str, scale: float, offset: int | None) -> Override:
    try:
        rounded = to_float32(scale)
    except OverflowError:
        rounded = 0.0
    if not 0 < rounded < float("inf"):
        raise UsageError("a pinned scale must be a positive number", f"{selector}={scale}", "give one that float32 has")
    return Override(Action.PIN, _named(Action.PIN, selector), scale=rounded, offset=offset)


Given = Mapping[str, object] | str | Path | tuple[Override, ...] | None
"""Overrides as Python callers pass them: a mapping of the form of a file, the path of one, or overrides."""


def given_overrides(given: Given) -> Overrides:
    """Read what a Python caller passes.

    Raises:
        UsageError, NotFoundError: as `from_mapping` and `read_overrides`.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Path)):
        return read_overrides(Path(given))
    if isinstance(given, Mapping):
        return from_mapping(given)
    if not isinstance(given, tuple) or not all(isinstance(entry, Override) for entry in given):
        raise UsageError("overrides must be a mapping or a path", repr(given)[:60], "see docs/overrides.md")
    return given


def collect(options: Mapping[Action, Iterable[str] | None], file: Path | None = None) -> Overrides:
    """The overrides of a command: those of the file, then those of the options.

    Raises:
        UsageError, NotFoundError: as `read_overrides` and `read_option`.
    """
    given = () if file is None else read_overrides(file)
    return (*given, *(read_option(action, text) for action, texts in options.items() for text in texts or ()))
