"""What is remembered of the channels of a tensor: exact extremes and sums and, where asked for, a histogram each.

The histogram's grid is that of `qgraph.calib.grid` with 5 mantissa bits: the bin of a float32 is its top 14 bits,
so each octave has 32 bins. It is sparse: the bins of all channels follow each other in one array, as the columns of
a compressed sparse row matrix do::

    starts   0        3     5           9        channel 1 has the bins 3 and 4
    bins     │ b b b  │ b b │ b b b b   │

Everything is a count, an extreme or an integer (the limbs of `qgraph.calib.exact_sums`), so `merge_channels` is
exact, associative and commutative; no channels at all are its identity. A tensor whose number of channels varies
has as many as it ever had.

>>> both = merge_channels(channels_of([[1.0, -2.0]], axis=1), channels_of([[3.0, 0.0]], axis=1))
>>> both.minimum.tolist(), both.maximum.tolist(), means(both).tolist()
([1.0, -2.0], [3.0, 0.0], [2.0, -1.0])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgraph.calib import grid
from qgraph.calib.exact_sums import Limbs, carried, limbs_of, no_sums
from qgraph.calib.exact_sums import value as exact_value
from qgraph.errors import StatisticsError

CHANNEL_MANTISSA_BITS: Final = 5
"""Mantissa bits of a channel's bins: 32 bins per octave. With 8, one small network would need 85 MB."""

CHANNEL_BINS: Final = 1 << (9 + CHANNEL_MANTISSA_BITS)
"""Bins of one channel, the non-finite ones included."""

FINE: Final = 1 << (grid.MANTISSA_BITS - CHANNEL_MANTISSA_BITS)
"""Bins of the universal grid in one bin of a channel."""

Counts = NDArray[np.int64]

COUNTS: Final = ("finite", "nan", "positive_infinities", "negative_infinities", "minimum_count", "maximum_count")
"""The fields that hold one count per channel."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Statistics of C channels of one tensor.

    Attributes:
        axis: which axis of the tensor the channels lie along, as it was planned.
        binned: whether histograms were collected; without them `bins` is empty.
        finite, nan, positive_infinities, negative_infinities: int64 [C], how many values there were.
        minimum, maximum: float64 [C], exact, over finite values; +inf and −inf where there was none. −0 is 0.
        minimum_count, maximum_count: int64 [C], their exact multiplicity; 0 where no histogram was collected.
        sums: int64 [C, LIMBS], of the finite values, see `qgraph.calib.exact_sums`.
        starts: int64 [C + 1], where each channel begins in `bins` and `counts`.
        bins: uint16, sorted within a channel; finite values other than zero.
        counts: int64, how many values fell into each of `bins`.
        atoms: exact multiplicity of planned values, as (value, int64 [C]), sorted by value.
    """

    axis: int
    binned: bool
    finite: Counts
    nan: Counts
    positive_infinities: Counts
    negative_infinities: Counts
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    minimum_count: Counts
    maximum_count: Counts
    sums: Limbs
    starts: Counts
    bins: NDArray[np.uint16]
    counts: Counts
    atoms: tuple[tuple[float, Counts], ...] = ()

    @property
    def size(self) -> int:
        """Number of channels."""
        return int(self.finite.size)

    @property
    def key(self) -> tuple[int, bool]:
        """What two of them must have in common to be merged."""
        return self.axis, self.binned


def no_channels(axis: int, *, binned: bool, atoms: Sequence[float] = ()) -> ChannelStatistics:
    """Statistics of a tensor that was never produced."""
    none = np.zeros(0, np.int64)
    return ChannelStatistics(
        axis,
        binned,
        *(none,) * 4,
        *(np.zeros(0),) * 2,
        *(none,) * 2,
        no_sums(0),
        np.zeros(1, np.int64),
        np.zeros(0, np.uint16),
        none,
        tuple((atom, none) for atom in atoms),
    )


def channels_of(values: ArrayLike, axis: int, *, binned: bool = True, atoms: Sequence[float] = ()) -> ChannelStatistics:
    """Statistics of the channels of one sample, the slow and obvious way.

    Args:
        values: an array of at least one axis, which is rounded to float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(values).astype(np.float32)
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    finite = [row[np.isfinite(row)] + np.float32(0) for row in rows]
    found = [np.unique(grid.bin_of(row[row != 0]) // FINE, return_counts=True) for row in finite]
    lows = np.array([row.min() if row.size else np.inf for row in finite], np.float64)
    highs = np.array([row.max() if row.size else -np.inf for row in finite], np.float64)
    return ChannelStatistics(
        axis,
        binned,
        _integers(row.size for row in finite),
        _integers(np.isnan(row).sum() for row in rows),
        _integers(np.isposinf(row).sum() for row in rows),
        _integers(np.isneginf(row).sum() for row in rows),
        lows,
        highs,
        _integers(binned * (row == low).sum() for row, low in zip(finite, lows, strict=True)),
        _integers(binned * (row == high).sum() for row, high in zip(finite, highs, strict=True)),
        np.array([limbs_of([_part(row)]) for row in finite], np.int64).reshape(len(finite), -1)
        if finite
        else no_sums(0),
        np.concatenate([[0], np.cumsum([bins.size for bins, _ in found])]).astype(np.int64)
        if binned
        else np.zeros(len(finite) + 1, np.int64),
        np.concatenate([np.zeros(0, np.uint16), *(bins for bins, _ in found if binned)]).astype(np.uint16),
        np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in found if binned)]).astype(np.int64),
        tuple((atom, _integers((row == atom).sum() for row in finite)) for atom in atoms),
    )


SUM_LANES: Final = 64
"""A sample's part of a sum: element i goes to lane i mod 64, then lanes are added, the upper half to the lower."""


def _part(row: NDArray[np.float32]) -> float:
    """The sum of a row in float64 in the order in which the kernel adds."""
    lanes = [0.0] * SUM_LANES
    for i, one in enumerate(row.tolist()):
        lanes[i % SUM_LANES] += one
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def _integers(numbers: Iterable[int]) -> Counts:
    return np.array(list(numbers), np.int64)


def merge_channels(a: ChannelStatistics, b: ChannelStatistics) -> ChannelStatistics:
    """Statistics of all values of both: exact, associative, commutative.

    Raises:
        StatisticsError: they are of different axes or atoms, or only one has histograms.
    """
    values = [tuple(atom for atom, _ in one.atoms) for one in (a, b)]
    if a.key != b.key or values[0] != values[1]:
        cure = "collect both with the same plan"
        raise StatisticsError("channels collected differently", f"{a.key, values[0]} and {b.key, values[1]}", cure)
    size = max(a.size, b.size)
    a, b = _padded(a, size), _padded(b, size)
    minimum, maximum = np.minimum(a.minimum, b.minimum), np.maximum(a.maximum, b.maximum)
    starts, bins, counts = _merged_bins(a, b)
    added = {name: getattr(a, name) + getattr(b, name) for name in COUNTS}
    added["minimum_count"] = _where_equal(a, b, "minimum", minimum)
    added["maximum_count"] = _where_equal(a, b, "maximum", maximum)
    return ChannelStatistics(
        axis=a.axis,
        binned=a.binned,
        **added,
        minimum=minimum,
        maximum=maximum,
        sums=carried(a.sums + b.sums),
        starts=starts,
        bins=bins,
        counts=counts,
        atoms=tuple((atom, m + n) for (atom, m), (_, n) in zip(a.atoms, b.atoms, strict=True)),
    )


def _where_equal(a: ChannelStatistics, b: ChannelStatistics, extreme: str, merged: NDArray[np.float64]) -> Counts:
    """Multiplicity of a merged extreme: of each side only where it reaches it."""
    parts = (np.where(getattr(one, extreme) == merged, getattr(one, f"{extreme}_count"), 0) for one in (a, b))
    return sum(parts, np.zeros(merged.size, np.int64))


def _padded(one: ChannelStatistics, size: int) -> ChannelStatistics:
    """The same with channels that never had a value at the end."""
    more = size - one.size
    if more == 0:
        return one
    counts = {name: np.pad(getattr(one, name), (0, more)) for name in COUNTS}
    return ChannelStatistics(
        axis=one.axis,
        binned=one.binned,
        **counts,
        minimum=np.pad(one.minimum, (0, more), constant_values=np.inf),
        maximum=np.pad(one.maximum, (0, more), constant_values=-np.inf),
        sums=np.pad(one.sums, ((0, more), (0, 0))),
        starts=np.pad(one.starts, (0, more), mode="edge"),
        bins=one.bins,
        counts=one.counts,
        atoms=tuple((atom, np.pad(count, (0, more))) for atom, count in one.atoms),
    )


def _merged_bins(a: ChannelStatistics, b: ChannelStatistics) -> tuple[Counts, NDArray[np.uint16], Counts]:
    """The union of the bins of two tensors with as many channels, with their counts added."""
    places = [np.repeat(np.arange(one.size), np.diff(one.starts)) * CHANNEL_BINS + one.bins for one in (a, b)]
    union = np.union1d(*places)
    counts = np.zeros(union.size, np.int64)
    for place, one in zip(places, (a, b), strict=True):
        counts[np.searchsorted(union, place)] += one.counts
    starts = np.searchsorted(union, np.arange(a.size + 1) * CHANNEL_BINS)
    return starts.astype(np.int64), (union % CHANNEL_BINS).astype(np.uint16), counts


def repeated_channels(one: ChannelStatistics, times: int) -> ChannelStatistics:
    """Statistics of the same values seen `times` times, at least once."""
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    values |= {name: values[name] * times for name in (*COUNTS, "counts")}
    sums = one.sums
    # Doubling keeps every limb far from the end of its 64 bits; the binary digits of `times` say what to add up.
    total, power = np.zeros_like(sums), sums
    for digit in reversed(f"{times:b}"):
        total = carried(total + power) if digit == "1" else total
        power = carried(power + power)
    return ChannelStatistics(**{**values, "sums": total, "atoms": tuple((a, n * times) for a, n in one.atoms)})


def means(one: ChannelStatistics) -> NDArray[np.float64]:
    """The mean of the finite values of each channel, correctly rounded: float64 [C]; NaN where there is none."""
    totals = (exact_value(limbs) for limbs in one.sums)
    return np.array([float(t / n) if n else np.nan for t, n in zip(totals, one.finite.tolist(), strict=True)])


def magnitudes(one: ChannelStatistics) -> NDArray[np.float64]:
    """The largest absolute finite value of each channel: float64 [C]; 0 where there is none."""
    found: NDArray[np.float64] = np.maximum(np.maximum(-one.minimum, one.maximum), 0.0)
    return found


def same_channels(a: ChannelStatistics, b: ChannelStatistics) -> bool:
    """Whether all fields are equal, bit for bit."""
    plain = a.key == b.key and len(a.atoms) == len(b.atoms)
    names = [field.name for field in fields(a) if field.name not in ("axis", "binned", "atoms")]
    pairs = zip(a.atoms, b.atoms, strict=False)
    return (
        plain
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
        and all(x == y and np.array_equal(m, n) for (x, m), (y, n) in pairs)
    )
