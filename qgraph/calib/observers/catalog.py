"""Which observers there are and what they can be told, without loading any of them.

A shipped observer is one module of this room, one entry here and one line in `qgraph.calib.observers.observe`.
No third-party import, so that the list costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.errors import NotFoundError, UsageError

Parameter = int | float | str | bool


@dataclass(frozen=True, slots=True)
class ObserverEntry:
    """One shipped observer.

    Attributes:
        summary: what it optimises, for a list that people read.
        parameters: what it can be told, with defaults. A parameter has the type of its default.
        limits: the least and the greatest value of a parameter that is a number.
        aliases: other spellings of its name; what is stored has its name.
    """

    name: str
    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()


OBSERVERS: Mapping[str, ObserverEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            ObserverEntry("minmax", "the whole range: nothing is clipped"),
            ObserverEntry(
                "mse",
                "the least expected squared error of quantization",
                MappingProxyType({"octaves": 24}),
                MappingProxyType({"octaves": (1, 126)}),
            ),
            ObserverEntry(
                "percentile",
                "the range without the outermost values at either end",
                MappingProxyType({"percentile": 0.9999}),
                MappingProxyType({"percentile": (0.5, 1.0)}),
                aliases=("precentile",),
            ),
            ObserverEntry(
                "kl",
                "the least divergence of the quantized from the original distribution",
                MappingProxyType({"zeros": False}),
            ),
        )
    }
)
"""The shipped observers by name."""


_NAMES: Mapping[str, str] = MappingProxyType(
    {name: entry.name for entry in OBSERVERS.values() for name in (entry.name, *entry.aliases)}
)


def entry_of(name: str) -> ObserverEntry:
    """The observer of that name or alias, in any mixture of upper and lower case.

    >>> entry_of("MinMax").name, entry_of("precentile").name
    ('minmax', 'percentile')

    Raises:
        NotFoundError: there is none; near matches are suggested.
    """
    try:
        return OBSERVERS[_NAMES[name.lower()]]
    except KeyError:
        raise NotFoundError.among("observer", name, OBSERVERS, "see qgraph observers") from None


def resolve_parameters(entry: ObserverEntry, given: Mapping[str, Parameter] | None = None) -> Mapping[str, Parameter]:
    """All parameters of an observer, sorted by name: the given ones and the defaults of the others.

    >>> dict(resolve_parameters(entry_of("mse"), {"octaves": 12}))
    {'octaves': 12}

    Raises:
        NotFoundError: the observer has no parameter of that name.
        UsageError: the value is not of the default's type, or outside its limits.
    """
    checked = {name: _checked(entry, name, value) for name, value in sorted((given or {}).items())}
    merged = {**entry.parameters, **checked}
    return MappingProxyType({name: merged[name] for name in sorted(merged)})


def parse_parameters(entry: ObserverEntry, assignments: Iterable[str]) -> dict[str, Parameter]:
    """Parameters written as ``NAME=VALUE``, each of the type of its default. A name's last value counts.

    >>> parse_parameters(entry_of("percentile"), ["percentile=0.999"])
    {'percentile': 0.999}

    Raises:
        NotFoundError: the observer has no parameter of that name.
        UsageError: one is not written as ``NAME=VALUE``, or the value cannot be read or is outside its limits.
    """
    parsed: dict[str, Parameter] = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not (name and equals and text):
            raise UsageError("not a parameter", repr(assignment), "write NAME=VALUE")
        expected = type(_default(entry, name))
        try:
            value = _BOOLEANS[text.lower()] if expected is bool else expected(text)
        except (KeyError, ValueError):
            raise _wrong_type(entry, name, text) from None
        parsed[name] = _checked(entry, name, value)
    return parsed


_BOOLEANS: Mapping[str, bool] = MappingProxyType({"true": True, "false": False})


def _default(entry: ObserverEntry, name: str) -> Parameter:
    if name not in entry.parameters:
        known = ", ".join(sorted(entry.parameters)) or "none"
        kind = f"parameter of observer {entry.name}"
        raise NotFoundError.among(kind, name, entry.parameters, f"its parameters: {known}")
    return entry.parameters[name]


def _checked(entry: ObserverEntry, name: str, value: Parameter) -> Parameter:
    """The value, if the parameter can have it; an integer may stand for a float."""
    expected = type(_default(entry, name))
    if type(value) is not expected and not (expected is float and type(value) is int):
        raise _wrong_type(entry, name, repr(value))
    least, greatest = entry.limits.get(name, (-math.inf, math.inf))
    if not isinstance(value, str) and not least <= value <= greatest:
        what = f"parameter of observer {entry.name} out of its limits"
        raise UsageError(what, f"{name}={value}", f"pass a value from {least} to {greatest}")
    return expected(value)


def _wrong_type(entry: ObserverEntry, name: str, value: str) -> UsageError:
    what = f"parameter of observer {entry.name} has the wrong type"
    expected = type(entry.parameters[name])
    cure = "pass true or false" if expected is bool else f"pass a value of type {expected.__name__}"
    return UsageError(what, f"{name}={value}", cure)
