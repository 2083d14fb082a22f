"""Parse rule packs, keep in mind at which line everything stands, and lay a pack over the one that it inherits from.

::

    tflite.toml            mine.toml                        what is read
    [[same]] concat        [pack] inherits = "tflite"       [[same]] concat      (of mine.toml)
    [[same]] split         [[same]] concat                  [[same]] split       (of tflite.toml)
    [[fixed]] tanh         [pack] without = ["tanh"]

A table of settings takes the fields that it lacks from its parent. A rule replaces the one of the same name. A
``[[quantizable]]`` table replaces what the parent says of the same ops; a ``[[no_value]]`` one is asked first.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qgraph.errors import PackError

SETTINGS = ("pack", "activation", "weight", "bias", "merge_methods")
NAMED_RULES = ("same", "fixed", "weighted", "fusion", "ratio", "composite")
OWN_FIELDS = ("name", "version", "status", "inherits", "without", "not_quantized")
"""Fields of ``[pack]`` that a pack has for itself only."""

_HEADER = re.compile(r"\s*\[(\[?)\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Source:
    """A file, as messages speak of it.

    Attributes:
        lines: by path (``same[2]``, ``same[2].inputs``), the line, counted from 1.
        inherited: the file that the user named inherits from this one.
    """

    file: str
    lines: Mapping[str, int]
    inherited: bool = False

    def place(self, path: str) -> str:
        """How a message begins: file (if not the one that the user named), line, path.

        >>> Source("mine.toml", {"same[1]": 7}).place("same[1].strength")
        'line 7: same[1].strength'
        """
        line, known = None, path
        while known and line is None:
            line = self.lines.get(known)
            known = known.rpartition(".")[0]
        file = f"{self.file}: " if self.inherited else ""
        return f"{file}{'' if line is None else f'line {line}: '}{path}"


class Table(dict[str, object]):
    """A parsed table that knows where it stands."""

    def __init__(self, values: Mapping[str, object], path: str, source: Source) -> None:
        super().__init__(values)
        self.path = path
        self.source = source


def parse(content: bytes, file: str, *, inherited: bool = False) -> Document:
    """Parse a file; its tables are `Table`.

    Raises:
        PackError: it is not TOML.
    """
    try:
        text = content.decode("utf-8")
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError("a rule pack that is not TOML", f"{file}: {error}", "correct the file at that place") from error
    except RecursionError:
        raise PackError("a rule pack that is not TOML", f"{file}: nested too deeply", "write a rule pack") from None
    source = Source(file, _lines(text), inherited)
    return Table({key: _located(value, key, source) for key, value in values.items()}, "", source)


def _located(value: object, path: str, source: Source) -> object:
    if isinstance(value, dict):
        return Table(value, path, source)
    if isinstance(value, list):
        return [
            Table(item, f"{path}[{number}]", source) if isinstance(item, dict) else item
            for number, item in enumerate(value, start=1)
        ]
    return value


def _lines(text: str) -> dict[str, int]:
    """Where tables and their fields begin. Arrays may run over lines; none of those looks like a field."""
    lines: dict[str, int] = {}
    count: dict[str, int] = {}
    path = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            path = header[2]
            if header[1]:
                count[path] = count.get(path, 0) + 1
                path = f"{path}[{count[path]}]"
            lines.setdefault(path, number)
        elif key := _KEY.match(line):
            lines.setdefault(f"{path}.{key[1]}" if path else key[1], number)
    return lines


def inherit(parent: Document, child: Document) -> Document:
    """The child laid over its parent. What is malformed stays as it is, for the reader to refuse."""
    merged = dict(parent)
    header = child.get("pack")
    settings: Mapping[str, object] = header if isinstance(header, Mapping) else {}
    without, floats = _texts(settings.get("without")), _texts(settings.get("not_quantized"))
    for key in NAMED_RULES:
        own = _tables(child.get(key, []))
        dropped = {*without, *(str(table.get("name")) for table in own or ())}
        merged[key] = [
            left
            for table in _tables(parent.get(key, [])) or ()
            if table.get("name") not in dropped
            and (quantized := _for_other_ops(table, floats, "ops")) is not None
            and (left := _for_other_ops(quantized, floats, "read_by")) is not None
        ]
    named = {op for table in _tables(child.get("quantizable", [])) or () for op in _texts(table.get("ops"))}
    merged["quantizable"] = [
        left
        for table in _tables(parent.get("quantizable", [])) or ()
        if (left := _for_other_ops(table, named | floats, "ops")) is not None
    ]
    for key, value in child.items():
        merged[key] = _laid_over(merged.get(key), key, value)
    return merged


def _laid_over(below: object, key: str, value: object) -> object:
    if key in SETTINGS and isinstance(value, Table) and isinstance(below, Mapping):
        kept = {field: given for field, given in below.items() if not (key == "pack" and field in OWN_FIELDS)}
        return Table({**kept, **value}, value.path, value.source)
    if isinstance(value, list) and isinstance(below, list):
        return [*value, *below] if key == "no_value" else [*below, *value]
    return value


def _for_other_ops(table: Table, ops: Iterable[str], field: str) -> Table | None:
    """The table for other ops than these; None where none is left."""
    given = table.get(field)
    dropped = frozenset(ops)
    if not isinstance(given, list) or dropped.isdisjoint(_texts(given)):
        return table
    left = [op for op in given if op not in dropped]
    return Table({**table, field: left}, table.path, table.source) if left else None


def _tables(value: object) -> list[Table] | None:
    if isinstance(value, list) and all(isinstance(item, Table) for item in value):
        return value
    return None


def _texts(value: object) -> frozenset[str]:
    return frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()


def rule_names(document: Document) -> frozenset[str]:
    """The names of all rules."""
    return frozenset(str(table.get("name")) for key in NAMED_RULES for table in _tables(document.get(key, [])) or ())


def listed_ops(document: Document) -> frozenset[str]:
    """The op types of all ``[[quantizable]]`` tables."""
    return frozenset(op for table in _tables(document.get("quantizable", [])) or () for op in _texts(table.get("ops")))
