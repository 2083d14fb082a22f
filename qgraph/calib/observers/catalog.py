"""Which observers there are and what they can be told, without loading any of them.

A shipped observer is one module of this room, one entry here and one line in `qgraph.calib.observers.observe`.
No third-party import, so that the list costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    name: str
    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))


OBSERVERS: Mapping[str, ObserverEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            ObserverEntry("minmax", "the whole range: nothing is clipped"),
            ObserverEntry(
                "mse",
                "the least expected squared error of quantization",
                MappingProxyType({"octaves": 24}),
            ),
        )
    }
)
"""The shipped observers by name."""


def entry_of(name: str) -> ObserverEntry:
    """The observer of that name, in any mixture of upper and lower case.

    >>> entry_of("MinMax").name
    'minmax'

    Raises:
        NotFoundError: there is none; near matches are suggested.
    """
    try:
        return OBSERVERS[name.lower()]
    except KeyError:
        raise NotFoundError.among("observer", name, OBSERVERS, "see qgraph observers") from None


def resolve_parameters(entry: ObserverEntry, given: Mapping[str, Parameter] | None = None) -> Mapping[str, Parameter]:
    """All parameters of an observer, sorted by name: the given ones and the defaults of the others.

    >>> dict(resolve_parameters(entry_of("mse"), {"octaves": 12}))
    {'octaves': 12}

    Raises:
        NotFoundError: the observer has no parameter of that name.
        UsageError: the value is not of the default's type.
    """
    given = given or {}
    for name, value in sorted(given.items()):
        if name not in entry.parameters:
            known = ", ".join(sorted(entry.parameters)) or "none"
            raise NotFoundError.among(
                f"parameter of observer {entry.name}", name, entry.parameters, f"its parameters: {known}"
            )
        expected = type(entry.parameters[name])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise UsageError(
                f"parameter of observer {entry.name} has the wrong type",
                f"{name}={value!r}",
                f"pass a value of type {expected.__name__}",
            )
    merged = {**entry.parameters, **given}
    return MappingProxyType(
        {name: type(entry.parameters.get(name, merged[name]))(merged[name]) for name in sorted(merged)}
    )
