"""Statistics that users' observers bring: collected in the same pass, stored and merged beside the histograms.

A `Statistic` is asked for the state of each activation, and joins two states. It sees values, whatever their places: an
op that only rearranges them (Reshape) has its input's state, one that joins them (Concat) those of all its inputs, and
what a Relu or Clip makes is read from that op's input, which is at hand, and cut off on the way::

    Conv ── a ── Relu ── b ──┐              recorded: a as it is, a cut off at zero, c as it is
                             Concat ── d    state of d: that of a cut off at zero, merged with that of c
    Conv ─────────── c ──────┘

States travel as bytes, so that statistics can be stored, copied and compared where the observer is not known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, Protocol

from qgraph.errors import QgraphError, StatisticsError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qgraph.calib.plan import CollectionPlan
    from qgraph.calib.statistics import TensorStatistics

Reading = tuple[str, float, float]
"""An activation that is recorded, and the bounds at which its values are cut off; infinite for none."""


class Statistic(Protocol):
    """An exactly mergeable summary of values. None of its functions changes what it is given.

    Attributes:
        name: an identifier; what is stored is found by it.
        version: at least 1; another one for another meaning of the bytes, or of `record`.
    """

    name: str
    version: int

    def record(self, values: NDArray[np.float32], /) -> Any:
        """The state of one activation of one sample: float32 of any shape, perhaps empty, NaN and Inf as they came."""
        ...

    def merge(self, a: Any, b: Any, /) -> Any:
        """The state of the values of both: exact, associative, commutative."""
        ...

    def to_bytes(self, state: Any, /) -> bytes:
        """A state to store; equal states give equal bytes."""
        ...

    def from_bytes(self, data: bytes, /) -> Any:
        """The inverse of `to_bytes`."""
        ...


@dataclass(frozen=True, order=True, slots=True)
class OwnState:
    """What a user's statistic knows of a tensor's values, cut off at the bounds.

    Attributes:
        data: as the statistic wrote it.
    """

    name: str
    version: int
    low: float = -math.inf
    high: float = math.inf
    data: bytes = b""

    @property
    def key(self) -> tuple[str, int, float, float]:
        """What two states must have in common to be merged."""
        return self.name, self.version, self.low, self.high


def merge_own(a: Sequence[OwnState], b: Sequence[OwnState]) -> tuple[OwnState, ...]:
    """Join the states of one key; one that only one side has stays as it is. Sorted by key.

    Raises:
        StatisticsError: the statistic is not known here.
        UsageError: its code failed.
    """
    found = {one.key: one for one in a}
    for one in b:
        known = found.get(one.key)
        found[one.key] = one if known is None else _merged(known, one)
    return tuple(found[key] for key in sorted(found))


def _merged(a: OwnState, b: OwnState) -> OwnState:
    statistic = statistic_of(a.name, a.version)
    return replace(a, data=packed(statistic, call(statistic, "merge", unpacked(a), unpacked(b))))


def statistic_of(name: str, version: int) -> Statistic:
    """The statistic of an observer that was registered here, or that an installed package names.

    Raises:
        StatisticsError: there is none.
    """
    from qgraph.calib.observers.registry import REGISTRY

    for observer in REGISTRY:
        own = observer.statistic
        if own is not None and (own.name, own.version) == (name, version):
            return own
    return _installed(name, version)


@cache
def _installed(name: str, version: int) -> Statistic:
    from qgraph.calib.observers.registry import own_statistics

    found = [one for one in own_statistics() if (one.name, one.version) == (name, version)]
    if not found:
        cure = "register the observer that brings it, or install its package"
        raise StatisticsError("a statistic that is not known here", f"{name}, version {version}", cure)
    return found[0]


def call(statistic: Statistic, function: str, *arguments: Any) -> Any:
    """Call a function of a user's statistic; what it raises becomes an error for the user."""
    try:
        return getattr(statistic, function)(*arguments)
    except QgraphError:
        raise
    except Exception as error:  # whatever the user's code raises
        told = f"{statistic.name}.{function}: {type(error).__name__}: {error}"
        raise UsageError("a statistic failed", told, "repair it, or register its observer without it") from error


def packed(statistic: Statistic, state: Any) -> bytes:
    """A state as bytes; raises `UsageError` where the statistic gives something else."""
    data = call(statistic, "to_bytes", state)
    if not isinstance(data, bytes):
        told = f"{statistic.name}.to_bytes: {type(data).__name__}"
        raise UsageError("a statistic did not give bytes", told, "give bytes, never pickled objects")
    return data


def unpacked(own: OwnState) -> Any:
    """The state behind its bytes."""
    return call(statistic_of(own.name, own.version), "from_bytes", own.data)


def state_in(statistics: TensorStatistics, statistic: Statistic) -> Any:
    """The state of a statistic in what is known of a tensor or group; None where nothing was recorded."""
    for one in statistics.own:
        if one.key == (statistic.name, statistic.version, -math.inf, math.inf):
            return call(statistic, "from_bytes", one.data)
    return None


def capability(statistics: Iterable[Statistic]) -> dict[str, dict[str, int]]:
    """What belongs to a calibration's capabilities where users' statistics are collected; nothing without any."""
    found = {one.name: one.version for one in statistics}
    return {"own": found} if found else {}


def readings(plan: CollectionPlan) -> dict[str, tuple[Reading, ...]]:
    """What the state of each planned tensor is merged from, each as often as its values occur there."""
    found: dict[str, tuple[Reading, ...]] = {name: ((name, -math.inf, math.inf),) for name in plan.tensors}
    for follower in plan.followers:
        low, high = (0.0, math.inf) if follower.rule == "relu" else follower.bounds
        found[follower.tensor] = tuple(
            (source, min(max(first, low), high), min(max(last, low), high))
            for name in follower.sources
            for source, first, last in found[name]
        )
    return found


def complete_own(
    plan: CollectionPlan, collected: Mapping[str, TensorStatistics], names: Collection[str]
) -> dict[str, tuple[OwnState, ...]]:
    """The states of all planned tensors, those that follow from others included, of the statistics with these names."""
    recorded = {
        (source, one.low, one.high): [
            replace(other, low=-math.inf, high=math.inf)
            for other in statistics.own
            if other.name in names and (other.low, other.high) == (one.low, one.high)
        ]
        for source, statistics in collected.items()
        for one in statistics.own
    }
    return {
        tensor: reduce(merge_own, [recorded.get(reading, []) for reading in read], ())
        for tensor, read in readings(plan).items()
    }
