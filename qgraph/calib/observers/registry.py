"""Observers that users bring: checked when they are registered, found by name like the shipped ones.

An observer is a function from the statistics of one group to the range that should be representable; scale and
offset follow from the range and the scheme as for every observer::

    def three_sigma(statistics, scheme, *, sigmas: float = 3.0):
        "The mean, plus and minus some standard deviations."
        values, counts = weighted_values(statistics)
        …
        return low, high

    qgraph.register_calibration_observer("three_sigma", three_sigma)

It is called once per group (per channel, where a scheme is per channel) with the merged statistics of all values in
it, of which at least one is neither zero nor denormal. One with an attribute ``statistic`` (see `qgraph.calib.own`)
brings a statistic and is called with its state, too: ``observer(statistics, scheme, state)``; the state is None where
nothing was recorded, in a group of constants and for single channels. Its keyword arguments with defaults are its
parameters; the first line of its docstring is its summary. The command line finds observers that an installed package
names as entry points of the group ``qgraph.observers``, each under its entry point's name.

The one `REGISTRY` is what this process registered: a name given in one call has to mean something in the next.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from qgraph.calib.observers.entry import ObserverEntry, Parameter
from qgraph.calib.own import OwnState, Statistic, call, packed, state_in
from qgraph.errors import QgraphError, UsageError
from qgraph.tqc import Scheme

if TYPE_CHECKING:
    from qgraph.calib.statistics import TensorStatistics

RangeFunction = Callable[..., tuple[float, float]]
"""``(statistics: TensorStatistics, scheme: Scheme, *, parameter=default, …) -> (low, high)``"""

LONGEST_NAME = 64
"""Letters of a statistic's name."""

ENTRY_POINTS = "qgraph.observers"
"""The entry point group in which packages name their observers."""

WANTED = "an observer is called as observer(statistics, scheme, *, parameter=default) and returns (low, high)"

WANTED_WITH_STATE = WANTED.replace("scheme,", "scheme, state,")
"""Of one that brings a statistic."""

WANTED_OF_A_STATISTIC = "a statistic has name, version, record(values), merge(a, b), to_bytes(state), from_bytes(data)"

TRIALS = (
    Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127),
    Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
)
"""The schemes for which an observer is tried when it is registered."""

TRIAL_VALUES = (-1.0, -0.25, 0.0, 0.0, 0.5, 3.0)
"""The values on which it is tried."""

TRIAL_ACTIVATIONS: tuple[tuple[float, ...], ...] = (
    TRIAL_VALUES,
    (0.1, 1e8, -0.3),
    (-1e8, 0.7, 1e-3),
    (),
    (math.nan, math.inf, -math.inf, 1.0),
)
"""The activations on which a statistic is tried; floats that are simply added up give them away."""


@dataclass(frozen=True, slots=True)
class Registered:
    """An observer of a user's own.

    Attributes:
        digest: of its source and of all that it was made with, so that a run of an edited one is not taken for its.
        statistic: that it brings; None where it works on what is collected anyway.
    """

    entry: ObserverEntry
    function: RangeFunction
    digest: str
    statistic: Statistic | None = None


class Registry:
    """What this process registered, by name in lower case."""

    def __init__(self) -> None:
        self._registered: dict[str, Registered] = {}

    def add(self, one: Registered, *, replace: bool) -> None:
        """Keep an observer.

        Raises:
            UsageError: the name is another's, and `replace` is not set.
        """
        _check_statistics([one, *(other for other in self if other.entry.name != one.entry.name)])
        known = self._registered.get(one.entry.name)
        if known is not None and known.function is not one.function and not replace:
            cure = "choose another name, or pass replace=True"
            raise UsageError("an observer of this name is registered already", one.entry.name, cure)
        self._registered[one.entry.name] = one

    def remove(self, name: str) -> None:
        """Forget an observer; nothing happens if there is none."""
        self._registered.pop(name.lower(), None)

    def get(self, name: str) -> Registered | None:
        """The observer that was registered under a name."""
        return self._registered.get(name)

    def __iter__(self) -> Iterator[Registered]:
        """All that were registered, sorted by name."""
        return iter([one for _, one in sorted(self._registered.items())])


REGISTRY = Registry()


def _check_statistics(observers: Iterable[Registered]) -> None:
    """Refuse two statistics of one name: what is stored is found by it."""
    found: dict[str, Registered] = {}
    for one in observers:
        if one.statistic is None:
            continue
        first = found.setdefault(one.statistic.name, one)
        known = first.statistic
        same = type(known) is type(one.statistic) and known.version == one.statistic.version if known else True
        if not same:
            told = f"{one.statistic.name}: {first.entry.name} and {one.entry.name}"
            raise UsageError("two observers bring different statistics of one name", told, "rename one of them")


def own_statistics() -> tuple[Statistic, ...]:
    """What users' observers bring, sorted by name: those registered here, and those that installed packages name.

    A package's observer that will not do is left out here; `qgraph observers` tells it.

    Raises:
        UsageError: two of them have one name.
    """
    observers = list(REGISTRY)
    for point in installed():
        if REGISTRY.get(point.name.lower()) is None:
            with suppress(QgraphError):
                observers.append(load(point))
    _check_statistics(observers)
    found = {one.statistic.name: one.statistic for one in observers if one.statistic is not None}
    return tuple(found[name] for name in sorted(found))


def registered(name: str) -> Registered | None:
    """The observer of that name that was registered here, or that an installed package names; None without one.

    Raises:
        UsageError: a package names one that will not do.
    """
    found = REGISTRY.get(name.lower())
    if found is not None:
        return found
    point = next((one for one in installed() if one.name.lower() == name.lower()), None)
    return None if point is None else load(point)


def installed() -> tuple[EntryPoint, ...]:
    """The observers that installed packages name, sorted by name; none of them is loaded."""
    return tuple(sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name.lower(), point.value)))


def load(point: EntryPoint) -> Registered:
    """Load and check an observer that an installed package names.

    Raises:
        UsageError: it cannot be loaded, or will not do.
    """
    package = "a package" if point.dist is None else point.dist.name
    try:
        observer = point.load()
    except Exception as error:  # whatever its import raises
        what = f"the observer that {package} names cannot be loaded"
        raise UsageError(what, f"{point.name} = {point.value}: {error}", f"repair or uninstall {package}") from error
    return checked(point.name, observer)


def checked(name: str, observer: object) -> Registered:
    """An observer with what can be told of it, tried on a few values.

    Raises:
        UsageError: the name or the observer will not do.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError("an observer cannot have this name", repr(name), "use letters, digits and underscores")
    statistic = _checked_statistic(name, getattr(observer, "statistic", None))
    function, parameters = _signature(name, observer, ("statistics", "scheme", *(("state",) if statistic else ())))
    told = inspect.getdoc(observer) if inspect.isroutine(observer) else inspect.getdoc(type(observer))
    summary = (told or "no docstring").partition("\n")[0].strip().rstrip(".")
    one = Registered(ObserverEntry(name.lower(), summary, parameters), function, _digest(observer), statistic)
    _try(one)
    return one


def _digest(observer: object) -> str:
    """A digest of the source of an observer and of its module, of its closure, and of an instance's attributes.

    One that cannot be known is never the same twice, so that no run is reused by mistake.
    """
    code = observer if inspect.isroutine(observer) else type(observer)
    try:
        parts = [inspect.getsource(code)]
    except (OSError, TypeError):  # typed at a prompt, or built in
        return uuid4().hex
    module = inspect.getsourcefile(code)
    if module is not None and Path(module).is_file():
        parts.append(Path(module).read_text(encoding="utf-8"))
    cells = getattr(observer, "__closure__", None) or ()
    parts += [repr(cell.cell_contents) for cell in cells]
    parts.append(repr(sorted(getattr(observer, "__dict__", {}).items())))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _signature(name: str, observer: object, taken: tuple[str, ...]) -> tuple[RangeFunction, Mapping[str, Parameter]]:
    """The observer as a function of what it takes, and its keyword arguments with their defaults."""
    wanted = WANTED_WITH_STATE if "state" in taken else WANTED
    if inspect.isclass(observer):
        raise UsageError("an observer is a function, not a class", name, f"register an instance; {wanted}")
    if not callable(observer):
        raise UsageError("an observer is a function", f"{name}: {observer!r}", wanted)
    try:
        arguments = list(inspect.signature(observer).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError("an observer's arguments cannot be read", name, wanted) from error
    positional = [one for one in arguments if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    missing = taken[len(positional) :]
    if missing and not any(one.kind == one.VAR_POSITIONAL for one in arguments):
        raise UsageError("an observer lacks an argument", f"{name}: {' and '.join(missing)}", wanted)
    extra = [one.name for one in positional[len(taken) :]]
    if extra:
        raise UsageError("an observer's parameters must be keyword-only", f"{name}: {', '.join(extra)}", wanted)
    parameters: dict[str, Parameter] = {}
    for one in arguments:
        if one.kind != one.KEYWORD_ONLY:
            continue
        if one.default is one.empty or type(one.default) not in (int, float, str, bool):
            what = "a parameter of an observer needs a default that is a number, a text or a bool"
            raise UsageError(what, f"{name}: {one.name}", wanted)
        parameters[one.name] = one.default
    return observer, MappingProxyType(dict(sorted(parameters.items())))


def _checked_statistic(name: str, statistic: Any) -> Statistic | None:
    """What an observer brings, tried on a few activations; None without any.

    Raises:
        UsageError: it lacks something, or its states are not exactly mergeable.
    """
    if statistic is None:
        return None
    missing = [part for part in ("name", "version") if not hasattr(statistic, part)]
    functions = ("record", "merge", "to_bytes", "from_bytes")
    missing += [part for part in functions if not callable(getattr(statistic, part, None))]
    if inspect.isclass(statistic) or missing:
        lacking = "a class; give an instance" if inspect.isclass(statistic) else ", ".join(missing)
        raise UsageError("an observer's statistic lacks something", f"{name}: {lacking}", WANTED_OF_A_STATISTIC)
    own: Statistic = statistic
    if not isinstance(own.name, str) or not own.name.isidentifier() or len(own.name) > LONGEST_NAME:
        raise UsageError("a statistic cannot have this name", repr(own.name), "use letters, digits and underscores")
    if type(own.version) is not int or not 1 <= own.version < 1 << 32:
        raise UsageError("a statistic's version is a whole number from 1", f"{own.name}: {own.version!r}", "number it")
    _try_statistic(own)
    return own


def _try_statistic(own: Statistic) -> None:
    """Refuse a statistic whose states depend on the order in which, or on where, activations are counted."""
    from qgraph.calib.statistics import as_float32  # numpy, which listing observers does without

    def state(index: int) -> Any:
        return call(own, "record", as_float32(TRIAL_ACTIVATIONS[index % len(TRIAL_ACTIVATIONS)]))

    def merged(a: Any, b: Any) -> Any:
        return call(own, "merge", a, b)

    for index in range(len(TRIAL_ACTIVATIONS)):
        a, b, c = state(index), state(index + 1), state(index + 2)
        before, both = (packed(own, a), packed(own, b)), packed(own, merged(a, b))
        laws = {
            "merge changes what it is given": ((packed(own, a), packed(own, b)), before),
            "from_bytes does not restore a state": (packed(own, call(own, "from_bytes", before[0])), before[0]),
            "merge(a, b) differs from merge(b, a)": (both, packed(own, merged(b, a))),
            "merge(merge(a, b), c) differs from merge(a, merge(b, c))": (
                packed(own, merged(merged(a, b), c)),
                packed(own, merged(a, merged(b, c))),
            ),
        }
        for law, (one, other) in laws.items():
            if one != other:
                cure = "add up integers, or keep extremes, so that every order gives the same bytes"
                raise UsageError("a statistic is not exactly mergeable", f"{own.name}: {law}", cure)


def _try(one: Registered) -> None:
    """Call an observer on a few values; what it answers must be a range."""
    from qgraph.calib.statistics import as_float32, statistics_of  # numpy, which listing observers does without

    statistics = statistics_of(TRIAL_VALUES)
    known = [statistics]
    if one.statistic is not None:
        data = packed(one.statistic, call(one.statistic, "record", as_float32(TRIAL_VALUES)))
        known.append(replace(statistics, own=(OwnState(one.statistic.name, one.statistic.version, data=data),)))
    for scheme in TRIALS:
        for found in known:
            range_of(one, found, scheme, one.entry.parameters)


def range_of(
    one: Registered, statistics: TensorStatistics, scheme: Scheme, parameters: Mapping[str, Parameter]
) -> tuple[float, float]:
    """The range that an observer answers: finite, not reversed.

    Raises:
        UsageError: it failed, or answered something else.
    """
    name, wanted = one.entry.name, WANTED if one.statistic is None else WANTED_WITH_STATE
    cure = f"repair the observer: {wanted}"
    state = () if one.statistic is None else (state_in(statistics, one.statistic),)
    try:
        answer: Any = one.function(statistics, scheme, *state, **parameters)
    except QgraphError:
        raise
    except Exception as error:  # whatever the user's code raises
        what = "an observer failed"
        raise UsageError(what, f"{name} for {scheme}: {type(error).__name__}: {error}", cure) from error
    try:
        low, high = (float(end) for end in answer)
    except (TypeError, ValueError):
        raise UsageError("an observer did not answer (low, high)", f"{name}: {answer!r}", cure) from None
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise UsageError("an observer answered no finite range", f"{name}: ({low}, {high})", cure)
    return low, high
