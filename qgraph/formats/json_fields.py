"""JSON that somebody else wrote, read field by field: what is missing or of another kind is one clear line."""

from __future__ import annotations

import json
from typing import Any

from qgraph.errors import ModelError

REPAIR = "repair the file, or export it again"


def parsed(text: str, source: str) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        ModelError: it is no JSON, no object, or has one name twice in an object.
    """
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, source))
    except (ValueError, RecursionError) as error:
        raise ModelError("not JSON", f"{source}: {str(error) or 'nested too deeply'}", REPAIR) from error
    if not isinstance(found, dict):
        raise ModelError("not a JSON object", source, REPAIR)
    return found


def _unique(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ModelError("a name twice in one object", f"{source}: {twice}", REPAIR)
    return found


class Fields:
    """One object of a file. Its methods raise `ModelError`, naming the file and the way to the field."""

    def __init__(self, values: object, place: str) -> None:
        self.place = place
        if not isinstance(values, dict):
            raise ModelError("not an object", place, REPAIR)
        self._values = values

    @property
    def names(self) -> tuple[str, ...]:
        """Of all fields, in the order of the file."""
        return tuple(self._values)

    def has(self, name: str) -> bool:
        """Whether a field is there, and not null."""
        return self._values.get(name) is not None

    def _get(self, name: str, kinds: tuple[type, ...], what: str) -> Any:
        if name not in self._values:
            raise ModelError(f"no {name}", self.place, REPAIR)
        value = self._values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelError(f"{name} is not {what}", f"{self.place}: {ascii(value)[:60]}", REPAIR)
        return value

    def refuse_another(self, first: Fields, *names: str) -> None:
        """Refuse a channel that says another thing of itself than the first channel of its tensor.

        Raises:
            ModelError: one of the fields differs.
        """
        for name in names:
            if self._values.get(name) != first._values.get(name):
                raise ModelError(f"channels of one tensor with another {name}", self.place, REPAIR)

    def text(self, name: str) -> str:
        """A text."""
        return str(self._get(name, (str,), "a text"))

    def integer(self, name: str) -> int:
        """A whole number."""
        return int(self._get(name, (int,), "a whole number"))

    def optional_integer(self, name: str) -> int | None:
        """A whole number, or None where there is none."""
        return self.integer(name) if self.has(name) else None

    def number(self, name: str) -> float:
        """A number."""
        return _as_float(self._get(name, (int, float), "a number"))

    def flag(self, name: str) -> bool:
        """True or false, also as the text ``"True"`` or ``"False"``."""
        value = self._get(name, (bool, str), "true or false")
        if isinstance(value, str) and value.lower() not in ("true", "false"):
            raise ModelError(f"{name} is not true or false", f"{self.place}: {ascii(value)[:60]}", REPAIR)
        return value if isinstance(value, bool) else value.lower() == "true"

    def numbers(self, name: str) -> tuple[float, ...]:
        """One number, or a list of some."""
        found = self._get(name, (int, float, list), "a number or a list of numbers")
        values = found if isinstance(found, list) else [found]
        if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
            raise ModelError(f"{name} is not a list of numbers", f"{self.place}: {ascii(found)[:60]}", REPAIR)
        return tuple(map(_as_float, values))

    def integers(self, name: str) -> tuple[int, ...]:
        """One whole number, or a list of some; ``-128.0`` is one, too."""
        found = self._get(name, (int, float, list), "a whole number or a list of them")
        values = found if isinstance(found, list) else [found]
        if not all(isinstance(one, int | float) and not isinstance(one, bool) and one % 1 == 0 for one in values):
            raise ModelError(f"{name} is not a list of whole numbers", f"{self.place}: {ascii(found)[:60]}", REPAIR)
        return tuple(map(int, values))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._get(name, (list,), "a list of texts")
        if not all(isinstance(one, str) for one in found):
            raise ModelError(f"{name} is not a list of texts", f"{self.place}: {ascii(found)[:60]}", REPAIR)
        return tuple(found)

    def child(self, name: str) -> Fields:
        """An object."""
        return Fields(self._get(name, (dict,), "an object"), f"{self.place}: {name}")

    def children(self, name: str) -> list[Fields]:
        """A list of objects."""
        found = self._get(name, (list,), "a list of objects")
        return [Fields(one, f"{self.place}: {name}[{index}]") for index, one in enumerate(found)]


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
