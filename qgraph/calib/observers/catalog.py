"""Which observers there are and what they can be told, without loading any of the shipped ones.

A shipped observer is one module of this room, one entry here and one line in `qgraph.calib.observers.observe`.
No third-party import, so that the list costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from qgraph.calib.observers import registry
from qgraph.calib.observers.entry import ObserverEntry as ObserverEntry
from qgraph.calib.observers.entry import Parameter as Parameter
from qgraph.calib.own import Statistic
from qgraph.errors import NotFoundError, QgraphError, UsageError

AUTO = "auto"
"""The observer that picks one of several for each group; see `qgraph.solve.choose`."""

SEPARATOR = ","
"""Between the names of `candidates`."""

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
            ObserverEntry(
                "isotone",
                "most rows whose largest element stays the largest, then the least squared error",
                MappingProxyType({"octaves": 24}),
                MappingProxyType({"octaves": (1, 126)}),
            ),
            ObserverEntry(
                AUTO,
                "for each group the one of several with the least predicted noise",
                MappingProxyType({"candidates": "minmax,percentile,kl,mse"}),
            ),
        )
    }
)
"""The shipped observers by name."""


_NAMES: Mapping[str, str] = MappingProxyType(
    {name: entry.name for entry in OBSERVERS.values() for name in (entry.name, *entry.aliases)}
)


def entry_of(name: str) -> ObserverEntry:
    """The observer of that name or alias, in any mixture of upper and lower case: shipped, registered or installed.

    >>> entry_of("MinMax").name, entry_of("precentile").name
    ('minmax', 'percentile')

    Raises:
        NotFoundError: there is none; near matches are suggested.
        UsageError: an installed package names one that will not do.
    """
    if name.lower() in _NAMES:
        return OBSERVERS[_NAMES[name.lower()]]
    found = registry.registered(name)
    if found is not None:
        return found.entry
    known = [*OBSERVERS, *(one.entry.name for one in registry.REGISTRY), *(one.name for one in registry.installed())]
    raise NotFoundError.among("observer", name, known, "see qgraph observers")


def register_calibration_observer(name: str, observer: registry.RangeFunction, *, replace: bool = False) -> None:
    """Add an observer under a name, usable at once wherever an observer is named.

    Args:
        name: compared without regard to case.
        observer: ``observer(statistics, scheme, *, parameter=default, …)`` that answers ``(low, high)``, see
            `qgraph.calib.observers.registry`; it is tried at once, and so is the ``statistic`` that it may bring.
        replace: let it take the place of another registered one.

    Raises:
        UsageError: the name or the observer will not do, or the name is taken; it says what is missing.
    """
    _check_free(name)
    registry.REGISTRY.add(registry.checked(name, observer), replace=replace)


def _check_free(name: object) -> None:
    if isinstance(name, str) and name.lower() in _NAMES:
        raise UsageError("a shipped observer has this name", name, "choose another name")


def entries() -> Iterator[ObserverEntry]:
    """All observers: the shipped ones, then those of the user. One that will not do says so as its summary."""
    yield from OBSERVERS.values()
    own = {one.entry.name: one.entry for one in registry.REGISTRY}
    for point in registry.installed():
        try:
            _check_free(point.name)
            own.setdefault(point.name.lower(), registry.load(point).entry)
        except QgraphError as error:
            own.setdefault(point.name.lower(), ObserverEntry(point.name.lower(), f"cannot be used: {error}"))
    yield from (entry for _, entry in sorted(own.items()))


def observer_digest(name: str, parameters: Mapping[str, Parameter]) -> str | None:
    """Tells a user's own observer, or those among the candidates of ``auto``, from edited ones; None without any.

    Args:
        name: as `entry_of` gives it.
        parameters: as `resolve_parameters` gives them.
    """
    names = candidates_of(parameters) if name == AUTO else (name,)
    found = [own.digest for one in names if one not in OBSERVERS and (own := registry.registered(one)) is not None]
    return SEPARATOR.join(found) or None


def needed_statistics(name: str, parameters: Mapping[str, Parameter]) -> tuple[Statistic, ...]:
    """The statistics that a user's own observer, or those among the candidates of ``auto``, bring; sorted by name.

    Args:
        name, parameters: as for `observer_digest`.
    """
    names = candidates_of(parameters) if name == AUTO else (name,)
    own = [registry.registered(one) for one in names if one not in OBSERVERS]
    found = {one.statistic.name: one.statistic for one in own if one is not None and one.statistic is not None}
    return tuple(found[one] for one in sorted(found))


def candidates_of(parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The observers that ``auto`` picks from, in the order in which equal ones are preferred."""
    return tuple(str(parameters["candidates"]).split(SEPARATOR))


def _named_candidates(given: Parameter) -> str:
    """The candidates under their own names, each once.

    Raises:
        NotFoundError: there is no such observer.
        UsageError: there is none, or ``auto`` itself.
    """
    names = [name.strip() for name in str(given).split(SEPARATOR) if name.strip()]
    found = list(dict.fromkeys(entry_of(name).name for name in names))
    if not found or AUTO in found:
        cure = f"name observers with a comma between them, other than {AUTO}"
        raise UsageError("not what auto can pick from", f"candidates={given}", cure)
    return SEPARATOR.join(found)


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
    if entry.name == AUTO:
        merged["candidates"] = _named_candidates(merged["candidates"])
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
