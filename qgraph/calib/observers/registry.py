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
it, of which at least one is neither zero nor denormal. Its keyword arguments with defaults are its parameters; the
first line of its docstring is its summary. The command line finds observers that an installed package names as entry
points of the group ``qgraph.observers``, each under its entry point's name.

The one `REGISTRY` is what this process registered: a name given in one call has to mean something in the next.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from qgraph.calib.observers.entry import ObserverEntry, Parameter
from qgraph.errors import QgraphError, UsageError
from qgraph.tqc import Scheme

if TYPE_CHECKING:
    from qgraph.calib.statistics import TensorStatistics

RangeFunction = Callable[..., tuple[float, float]]
"""``(statistics: TensorStatistics, scheme: Scheme, *, parameter=default, …) -> (low, high)``"""

ENTRY_POINTS = "qgraph.observers"
"""The entry point group in which packages name their observers."""

WANTED = "an observer is called as observer(statistics, scheme, *, parameter=default) and returns (low, high)"

TRIALS = (
    Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127),
    Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
)
"""The schemes for which an observer is tried when it is registered."""

TRIAL_VALUES = (-1.0, -0.25, 0.0, 0.0, 0.5, 3.0)
"""The values on which it is tried."""


@dataclass(frozen=True, slots=True)
class Registered:
    """An observer of a user's own.

    Attributes:
        digest: of its source and of all that it was made with, so that a run of an edited one is not taken for its.
    """

    entry: ObserverEntry
    function: RangeFunction
    digest: str


class Registry:
    """What this process registered, by name in lower case."""

    def __init__(self) -> None:
        self._registered: dict[str, Registered] = {}

    def add(self, one: Registered, *, replace: bool) -> None:
        """Keep an observer.

        Raises:
            UsageError: the name is another's, and `replace` is not set.
        """
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
    function, parameters = _signature(name, observer)
    told = inspect.getdoc(observer) if inspect.isroutine(observer) else inspect.getdoc(type(observer))
    summary = (told or "no docstring").partition("\n")[0].strip().rstrip(".")
    one = Registered(ObserverEntry(name.lower(), summary, parameters), function, _digest(observer))
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


def _signature(name: str, observer: object) -> tuple[RangeFunction, Mapping[str, Parameter]]:
    """The observer as a function, and its keyword arguments with their defaults."""
    if inspect.isclass(observer):
        raise UsageError("an observer is a function, not a class", name, f"register an instance; {WANTED}")
    if not callable(observer):
        raise UsageError("an observer is a function", f"{name}: {observer!r}", WANTED)
    try:
        arguments = list(inspect.signature(observer).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError("an observer's arguments cannot be read", name, WANTED) from error
    positional = [one for one in arguments if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    missing = ("statistics", "scheme")[len(positional) :]
    if missing and not any(one.kind == one.VAR_POSITIONAL for one in arguments):
        raise UsageError("an observer lacks an argument", f"{name}: {' and '.join(missing)}", WANTED)
    extra = [one.name for one in positional[2:]]
    if extra:
        raise UsageError("an observer's parameters must be keyword-only", f"{name}: {', '.join(extra)}", WANTED)
    parameters: dict[str, Parameter] = {}
    for one in arguments:
        if one.kind != one.KEYWORD_ONLY:
            continue
        if one.default is one.empty or type(one.default) not in (int, float, str, bool):
            what = "a parameter of an observer needs a default that is a number, a text or a bool"
            raise UsageError(what, f"{name}: {one.name}", WANTED)
        parameters[one.name] = one.default
    return observer, MappingProxyType(dict(sorted(parameters.items())))


def _try(one: Registered) -> None:
    """Call an observer on a few values; what it answers must be a range."""
    from qgraph.calib.statistics import statistics_of  # numpy, which listing observers does without

    statistics = statistics_of(TRIAL_VALUES)
    for scheme in TRIALS:
        range_of(one, statistics, scheme, one.entry.parameters)


def range_of(
    one: Registered, statistics: TensorStatistics, scheme: Scheme, parameters: Mapping[str, Parameter]
) -> tuple[float, float]:
    """The range that an observer answers: finite, not reversed.

    Raises:
        UsageError: it failed, or answered something else.
    """
    name, cure = one.entry.name, f"repair the observer: {WANTED}"
    try:
        answer: Any = one.function(statistics, scheme, **parameters)
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
