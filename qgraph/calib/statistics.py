"""What is remembered of a tensor: an exactly mergeable summary of all values that it took.

The core is a histogram on the universal grid of `qgraph.calib.grid`. Everything is a count, an extreme or a
multiplicity, so `merge` is exact, associative and commutative, and `EMPTY_STATISTICS` is its identity.

>>> a, b = statistics_of([0.0, 1.0, 6.0], atoms=(6.0,)), statistics_of([6.0, 6.0], atoms=(6.0,))
>>> both = merge(a, b)
>>> both.maximum, both.maximum_count, both.zeros, both.atoms, both.samples
(6.0, 3, 1, ((6.0, 3),), 2)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgraph.calib import provenance as origin
from qgraph.calib.channels import ChannelStatistics, merge_channels, repeated_channels, same_channels
from qgraph.calib.grid import FIRST_NORMAL, SIGN_BIN, bin_of
from qgraph.calib.own import OwnState, merge_own
from qgraph.calib.provenance import UNKNOWN, Provenance
from qgraph.calib.rows import RowStatistics, merge_rows, repeated_rows, same_rows
from qgraph.errors import StatisticsError
from qgraph.tqc import QuantizationState


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor, or of one channel.

    Attributes:
        bins: uint32, sorted, grid indices of the finite values other than zero that occurred.
        counts: int64, how many values fell into each of `bins`.
        zeros: values equal to zero (−0 is zero).
        nan, positive_infinities, negative_infinities: values that are not finite; they are in no bin.
        samples: samples that produced the tensor, even with no element.
        minimum, maximum: exact, over finite values (zero included); None if there was none.
        minimum_count, maximum_count: exact multiplicity of both.
        atoms: exact multiplicity of planned values (a producer's clip bounds), as (value, count), sorted by value.
            The values are part of the plan: two statistics of one tensor have the same ones.
        provenance: which sample holds the minimum, the maximum, the first value that is not finite.
        channels: per planned axis (with histograms, or without), sorted; none where nothing needs them.
        rows: per planned axis, sorted: graph outputs, and what Softmax and its like rank.
        own: what users' statistics hold, sorted; see `qgraph.calib.own`.
    """

    bins: NDArray[np.uint32]
    counts: NDArray[np.int64]
    zeros: int = 0
    nan: int = 0
    positive_infinities: int = 0
    negative_infinities: int = 0
    samples: int = 0
    minimum: float | None = None
    maximum: float | None = None
    minimum_count: int = 0
    maximum_count: int = 0
    atoms: tuple[tuple[float, int], ...] = ()
    provenance: Provenance = UNKNOWN
    channels: tuple[ChannelStatistics, ...] = ()
    rows: tuple[RowStatistics, ...] = ()
    own: tuple[OwnState, ...] = ()

    @property
    def finite(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum()) + self.zeros

    @property
    def elements(self) -> int:
        """Number of all values."""
        return self.finite + self.nan + self.positive_infinities + self.negative_infinities

    @property
    def atom_values(self) -> tuple[float, ...]:
        """The planned values, sorted."""
        return tuple(value for value, _ in self.atoms)


def atoms_of(values: Iterable[float]) -> tuple[float, ...]:
    """Make planned values comparable with activations: rounded to float32, −0 as 0, each once, sorted.

    Raises:
        StatisticsError: a value is NaN or infinite as a float32.
    """
    with np.errstate(over="ignore"):
        rounded = sorted({float(np.float32(value)) + 0.0 for value in values})
    if not np.isfinite(rounded).all():
        raise StatisticsError("not a finite float32", f"atoms {rounded}", "leave out bounds that clip nothing")
    return tuple(rounded)


def empty_statistics(atoms: Iterable[float] = ()) -> TensorStatistics:
    """Statistics of a tensor that was never produced: the identity of `merge` among those with these atoms."""
    counts = np.zeros(0, np.int64)
    return TensorStatistics(np.zeros(0, np.uint32), counts, atoms=tuple((value, 0) for value in atoms_of(atoms)))


EMPTY_STATISTICS = empty_statistics()
"""The identity of `merge` among statistics without atoms."""


def as_float32(values: ArrayLike) -> NDArray[np.float32]:
    """Values as the grid sees them: float16 exactly, float64 rounded, Inf where float32 has no such number."""
    array = np.asarray(values)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def statistics_of(values: ArrayLike, atoms: Iterable[float] = (), samples: int = 1) -> TensorStatistics:
    """Statistics of an array of any shape, the slow and obvious way.

    Args:
        values: rounded to float32, see `as_float32`.
        atoms: values whose exact multiplicity is wanted.
        samples: how many samples the array comes from.
    """
    array = as_float32(values).ravel()
    finite = array[np.isfinite(array)]
    bins, counts = np.unique(bin_of(finite[finite != 0]), return_counts=True)
    minimum = float(finite.min()) + 0.0 if finite.size else None
    maximum = float(finite.max()) + 0.0 if finite.size else None
    return TensorStatistics(
        bins=bins,
        counts=counts.astype(np.int64),
        zeros=int((finite == 0).sum()),
        nan=int(np.isnan(array).sum()),
        positive_infinities=int(np.isposinf(array).sum()),
        negative_infinities=int(np.isneginf(array).sum()),
        samples=samples,
        minimum=minimum,
        maximum=maximum,
        minimum_count=int((finite == minimum).sum()) if finite.size else 0,
        maximum_count=int((finite == maximum).sum()) if finite.size else 0,
        atoms=tuple((value, int((finite == value).sum())) for value in atoms_of(atoms)),
    )


def merge(a: TensorStatistics, b: TensorStatistics) -> TensorStatistics:
    """Statistics of all values of both: exact, associative, commutative.

    Raises:
        StatisticsError: they were collected with different atoms.
    """
    if a.atom_values != b.atom_values:
        raise StatisticsError(
            "statistics with different atoms", f"{a.atom_values} and {b.atom_values}", "collect both with the same plan"
        )
    bins, counts = _add_histograms(a, b)
    minimum, minimum_count = _merge_extreme(a.minimum, a.minimum_count, b.minimum, b.minimum_count, sign=1.0)
    maximum, maximum_count = _merge_extreme(a.maximum, a.maximum_count, b.maximum, b.maximum_count, sign=-1.0)
    return TensorStatistics(
        bins=bins,
        counts=counts,
        zeros=a.zeros + b.zeros,
        nan=a.nan + b.nan,
        positive_infinities=a.positive_infinities + b.positive_infinities,
        negative_infinities=a.negative_infinities + b.negative_infinities,
        samples=a.samples + b.samples,
        minimum=minimum,
        maximum=maximum,
        minimum_count=minimum_count,
        maximum_count=maximum_count,
        atoms=tuple((value, n + m) for (value, n), (_, m) in zip(a.atoms, b.atoms, strict=True)),
        provenance=origin.joined(
            a.provenance, b.provenance, minima=(a.minimum, b.minimum), maxima=(a.maximum, b.maximum)
        ),
        channels=_merge_channels(a.channels, b.channels),
        rows=_merge_rows(a.rows, b.rows),
        own=merge_own(a.own, b.own),
    )


def _merge_channels(
    a: tuple[ChannelStatistics, ...], b: tuple[ChannelStatistics, ...]
) -> tuple[ChannelStatistics, ...]:
    """Join those of one axis; an axis that only one side has stays as it is."""
    found = {one.key: one for one in a}
    for one in b:
        found[one.key] = merge_channels(found[one.key], one) if one.key in found else one
    return tuple(found[key] for key in sorted(found))


def _merge_rows(a: tuple[RowStatistics, ...], b: tuple[RowStatistics, ...]) -> tuple[RowStatistics, ...]:
    """Join those of one axis; an axis that only one side has stays as it is."""
    found = {one.axis: one for one in a}
    for one in b:
        found[one.axis] = merge_rows(found[one.axis], one) if one.axis in found else one
    return tuple(found[axis] for axis in sorted(found))


def _add_histograms(a: TensorStatistics, b: TensorStatistics) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    bins = np.union1d(a.bins, b.bins)
    counts = np.zeros(bins.size, np.int64)
    counts[np.searchsorted(bins, a.bins)] += a.counts
    counts[np.searchsorted(bins, b.bins)] += b.counts
    return bins, counts


def _merge_extreme(
    a: float | None, a_count: int, b: float | None, b_count: int, *, sign: float
) -> tuple[float | None, int]:
    """The smaller of two extremes after multiplication with `sign`, with its multiplicity."""
    if a is None or b is None:
        return (b, b_count) if a is None else (a, a_count)
    if a == b:
        return a, a_count + b_count
    return (a, a_count) if sign * a < sign * b else (b, b_count)


def repeated(statistics: TensorStatistics, times: int) -> TensorStatistics:
    """Statistics of the same values seen `times` times, samples included.

    Args:
        times: at least 1.
    """
    return replace(
        statistics,
        counts=statistics.counts * times,
        zeros=statistics.zeros * times,
        nan=statistics.nan * times,
        positive_infinities=statistics.positive_infinities * times,
        negative_infinities=statistics.negative_infinities * times,
        samples=statistics.samples * times,
        minimum_count=statistics.minimum_count * times,
        maximum_count=statistics.maximum_count * times,
        atoms=tuple((value, count * times) for value, count in statistics.atoms),
        channels=tuple(repeated_channels(one, times) for one in statistics.channels),
        rows=tuple(repeated_rows(one, times) for one in statistics.rows),
        own=reduce(merge_own, [statistics.own] * times),
    )


def condition(statistics: TensorStatistics) -> QuantizationState | None:
    """The degenerate state of a tensor with these statistics, or None if it is healthy.

    The first that holds, in this order: NEVER_RUN, EMPTY, NONFINITE (any NaN or Inf), ALL_ZERO, DENORMAL
    (nothing but zeros and denormals), CONSTANT.

    >>> condition(statistics_of([0.0, 0.0])), condition(statistics_of([0.0, 1.0]))
    (<QuantizationState.ALL_ZERO: 'ALL_ZERO'>, None)
    """
    if statistics.samples == 0:
        return QuantizationState.NEVER_RUN
    if statistics.elements == 0:
        return QuantizationState.EMPTY
    if statistics.finite < statistics.elements:
        return QuantizationState.NONFINITE
    if statistics.bins.size == 0:
        return QuantizationState.ALL_ZERO
    if bool((statistics.bins % SIGN_BIN < FIRST_NORMAL).all()):
        return QuantizationState.DENORMAL
    if statistics.minimum == statistics.maximum:
        return QuantizationState.CONSTANT
    return None


def same_statistics(a: TensorStatistics, b: TensorStatistics) -> bool:
    """Whether all fields are equal, bit for bit."""
    if len(a.channels) != len(b.channels) or len(a.rows) != len(b.rows):
        return False
    parts = ("bins", "counts", "channels", "rows")
    names = [field.name for field in fields(TensorStatistics) if field.name not in parts]
    return (
        np.array_equal(a.bins, b.bins)
        and np.array_equal(a.counts, b.counts)
        and all(getattr(a, name) == getattr(b, name) for name in names)
        and all(same_channels(one, other) for one, other in zip(a.channels, b.channels, strict=True))
        and all(same_rows(one, other) for one, other in zip(a.rows, b.rows, strict=True))
    )
