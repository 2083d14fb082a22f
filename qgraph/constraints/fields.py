"""Typed reading of a parsed TOML table that collects every mistake instead of stopping at the first."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from qgraph.constraints.pack_document import Source, Table

_MISSING = object()

T = TypeVar("T")


class Fields:
    """One table of a file. Each method reads a field; what is wrong with it is added to `mistakes`.

    A field that is missing or has the wrong type reads as a harmless value of the right type, so that reading can go
    on; `broken` then says not to trust this table's values.

    `reported` says what a rule is whose table does not say so itself: known only from reports.

    Args:
        values: the parsed table.
        path: how messages name it, as ``same[3]``; empty for the top of the file.
        mistakes: shared by all tables of a file.
        source: the file, where `values` does not know it.
    """

    def __init__(
        self, values: Mapping[str, object], path: str, mistakes: list[str], source: Source | None = None
    ) -> None:
        self.mistakes = mistakes
        self.broken = False
        self.path = path
        self.source = source
        if isinstance(values, Table):
            self.path, self.source = values.path, values.source
        self.reported = False
        self._values = values
        self._known: list[str] = []

    def mistake(self, key: str, problem: str, cure: str) -> None:
        """Add a mistake about a field."""
        self.broken = True
        path = f"{self.path}.{key}" if self.path else key
        place = path if self.source is None else self.source.place(path)
        self.mistakes.append(f"{place}: {problem}, {cure}")

    def refuse_unknown(self) -> None:
        """Add a mistake for every field that was never asked for."""
        for key in sorted(set(self._values) - set(self._known)):
            near = difflib.get_close_matches(key, self._known, n=1)
            self.mistake(key, "unknown field", f"did you mean {near[0]}?" if near else "remove it")

    def text(self, key: str) -> str:
        """A required string that is not empty."""
        value = self._take(key)
        if isinstance(value, str) and value.strip():
            return value
        return self._wrong(key, value, "a text", "")

    def optional_text(self, key: str) -> str | None:
        """A string, or None where the field is left out."""
        return self.text(key) if self._has(key) else None

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; required unless there is a default."""
        value = self._take(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        return self._wrong(key, value, "an integer", 0)

    def optional_integer(self, key: str) -> int | None:
        """An integer, or None where the field is left out."""
        return self.integer(key) if self._has(key) else None

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        """True or false; required unless there is a default."""
        value = self._take(key, default)
        if isinstance(value, bool):
            return value
        return self._wrong(key, value, "true or false", instead=False)

    def optional_boolean(self, key: str) -> bool | None:
        """True or false, or None where the field is left out."""
        return self.boolean(key) if self._has(key) else None

    def scalar(self, key: str) -> str | float:
        """A required text or number."""
        value = self._take(key)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return value
        return self._wrong(key, value, "a number or a text", 0.0)

    def optional_scalar(self, key: str) -> str | float | None:
        """A text or number, or None where the field is left out."""
        return self.scalar(key) if self._has(key) else None

    def scalars(self, key: str) -> tuple[str | float, ...] | None:
        """A list of texts and numbers, or None where the field is left out."""
        if not self._has(key):
            return None
        value = self._take(key)
        if isinstance(value, list) and value and all(_is_scalar(item) for item in value):
            return tuple(value)
        return self._wrong(key, value, "a list of numbers or texts", ())

    def choice(self, key: str, options: Iterable[str]) -> str:
        """A required text that is one of the options; the first of them where it is not."""
        options = tuple(str(option) for option in options)
        value = self._take(key)
        if isinstance(value, str) and value in options:
            return value
        return self._wrong(key, value, f"one of {', '.join(options)}", options[0])

    def optional_choice(self, key: str, options: Iterable[str]) -> str | None:
        """As `choice`, or None where the field is left out."""
        return self.choice(key, options) if self._has(key) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """A required list of distinct strings that is not empty."""
        value = self._take(key)
        if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
            repeated = sorted({item for item in value if value.count(item) > 1})
            if repeated:
                self.mistake(key, f"{', '.join(repeated)} stands there twice", "name each once")
            return tuple(value)
        return self._wrong(key, value, "a list of texts", ())

    def optional_texts(self, key: str) -> tuple[str, ...]:
        """As `texts`, empty where the field is left out."""
        return self.texts(key) if self._has(key) else ()

    def texts_or_all(self, key: str) -> tuple[str, ...] | None:
        """As `texts`, or None where the field is the text "all"."""
        return None if self._take(key) == "all" else self.texts(key)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of integers; required unless there is a default."""
        value = self._take(key, default)
        if isinstance(value, (list, tuple)) and all(isinstance(i, int) and not isinstance(i, bool) for i in value):
            return tuple(value)
        return self._wrong(key, value, "a list of integers", ())

    def integers_or_all(self, key: str) -> tuple[int, ...] | None:
        """As `integers`, or None where the field is the text "all"."""
        return None if self._take(key) == "all" else self.integers(key)

    def table(self, key: str) -> Fields:
        """A required table."""
        value = self._take(key)
        path = f"{self.path}.{key}" if self.path else key
        if isinstance(value, dict):
            return Fields(value, path, self.mistakes, self.source)
        empty: dict[str, object] = self._wrong(key, value, "a table", {})
        return Fields(empty, path, [], self.source)  # what it lacks is no mistake besides

    def optional_table(self, key: str) -> Fields | None:
        """A table, or None where it is left out."""
        return self.table(key) if self._has(key) else None

    def tables(self, key: str) -> list[Fields]:
        """A list of tables, empty where the field is left out. Messages count them from 1."""
        value = self._take(key, [])
        if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            value = self._wrong(key, value, "a list of tables", [])
        path = f"{self.path}.{key}" if self.path else key
        return [
            Fields(item, f"{path}[{number}]", self.mistakes, self.source) for number, item in enumerate(value, start=1)
        ]

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None where the field is left out."""
        if not self._has(key):
            return None
        value = self._take(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
            return float(value)
        return self._wrong(key, value, "a number", 0.0)

    def has(self, key: str) -> bool:
        """Whether the field is there."""
        return self._has(key)

    def _take(self, key: str, default: object = None) -> object:
        self._known.append(key)
        return self._values.get(key, _MISSING if default is None else default)

    def _has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._values

    def _wrong(self, key: str, value: object, wanted: str, instead: T) -> T:
        problem = "missing" if value is _MISSING else f"{value!r} is not {wanted}"
        self.mistake(key, problem, f"write {wanted}")
        return instead


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
