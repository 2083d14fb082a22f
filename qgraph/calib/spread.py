"""Each channel of a tensor as ordinary statistics, which every observer takes as it takes those of a tensor.

A channel's bin is eight bins of the universal grid wide. What is known exactly is put where it is: the extremes and
the atoms, with their multiplicities. The other values of the bin are spread as evenly as integers can be over those
of the eight that lie between the extremes; which of them get one more follows from their numbers alone::

    bin of the channel     │              10               │     minimum here, twice ──┐
    bins of the grid       │   0   0   2+2   2   1   1   1   1   │◀── the bins below it get none
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qgraph.calib import grid
from qgraph.calib.channels import FINE, ChannelStatistics
from qgraph.calib.statistics import TensorStatistics

Integers = NDArray[np.int64]


def channel_statistics(channels: ChannelStatistics, samples: int) -> tuple[TensorStatistics, ...]:
    """Statistics of each channel, with a histogram on the universal grid.

    Args:
        channels: with histograms.
        samples: that produced the tensor.

    >>> from qgraph.calib.channels import channels_of
    >>> first, second = channel_statistics(channels_of([[1.0, 2.0, 2.0], [0.0, 0.0, -3.0]], axis=0), samples=1)
    >>> first.bins.tolist(), first.counts.tolist(), first.maximum, first.maximum_count
    ([32512, 32768], [1, 2], 2.0, 2)
    >>> second.minimum, second.maximum, second.zeros
    (-3.0, 0.0, 2)
    """
    owner, bins, counts = _spread(channels)
    starts = np.searchsorted(owner, np.arange(channels.size + 1))
    found = []
    for index, finite in enumerate(channels.finite.tolist()):
        own = slice(int(starts[index]), int(starts[index + 1]))
        zeros = finite - int(counts[own].sum())
        found.append(
            TensorStatistics(
                bins=bins[own],
                counts=counts[own],
                zeros=zeros,
                nan=int(channels.nan[index]),
                positive_infinities=int(channels.positive_infinities[index]),
                negative_infinities=int(channels.negative_infinities[index]),
                samples=samples,
                minimum=float(channels.minimum[index]) if finite else None,
                maximum=float(channels.maximum[index]) if finite else None,
                minimum_count=int(channels.minimum_count[index]),
                maximum_count=int(channels.maximum_count[index]),
                atoms=tuple((atom, int(count[index])) for atom, count in channels.atoms),
            )
        )
    return tuple(found)


def _spread(channels: ChannelStatistics) -> tuple[Integers, NDArray[np.uint32], Integers]:
    """The channel, the bin on the universal grid and the count of every bin that is not empty, sorted."""
    owner = np.repeat(np.arange(channels.size), np.diff(channels.starts))
    fine = channels.bins[:, None].astype(np.int64) * FINE + np.arange(FINE)
    known = _known(channels, owner, fine)
    low, high = _between(channels)
    rank = grid.value_rank(fine)
    inside = (rank >= low[owner, None]) & (rank <= high[owner, None])
    inside |= (known > 0) & ~inside.any(axis=1, keepdims=True)
    rest = (channels.counts - known.sum(axis=1))[:, None]
    width, position = inside.sum(axis=1)[:, None], inside.cumsum(axis=1)
    even = position * rest // width - (position - 1) * rest // width
    counts = known + np.where(inside, even, 0)
    some = counts > 0
    return np.broadcast_to(owner[:, None], fine.shape)[some], fine[some].astype(np.uint32), counts[some]


def _between(channels: ChannelStatistics) -> tuple[Integers, Integers]:
    """The ranks of the lowest and the highest grid bin of each channel where something can lie between its extremes.

    A bin begins with its value of least magnitude. An outermost one that is an extreme has the bin to itself.
    """
    finite = np.isfinite(channels.minimum)
    minimum, maximum = (np.where(finite, extreme, 0) for extreme in (channels.minimum, channels.maximum))
    alone_low, alone_high = (
        some & (one.astype(np.float32).view(np.uint32) % (1 << grid.DROPPED_BITS) == 0)
        for one, some in ((minimum, minimum < 0), (maximum, maximum > 0))
    )
    low, high = (grid.value_rank(grid.bin_of(one)) for one in (minimum, maximum))
    return low + alone_low, high - alone_high


def _known(channels: ChannelStatistics, owner: Integers, fine: Integers) -> Integers:
    """How many values are known to lie in each fine bin: those whose exact value is known."""
    places = owner * (grid.BIN_COUNT // FINE) + fine[:, 0] // FINE
    known = np.zeros(fine.shape, np.int64)
    low, high = channels.minimum, channels.maximum
    exact = [(low, channels.minimum_count), (high, np.where(high == low, 0, channels.maximum_count))]
    for atom, count in channels.atoms:
        exact.append((np.full(channels.size, atom), np.where((low == atom) | (high == atom), 0, count)))
    for values, count in exact:
        (index,) = np.nonzero((count > 0) & (values != 0))
        bins = grid.bin_of(values[index]).astype(np.int64)
        row = np.searchsorted(places, index * (grid.BIN_COUNT // FINE) + bins // FINE)
        np.add.at(known, (row, bins % FINE), count[index])
    return known
