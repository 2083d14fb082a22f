"""The growing channels of many tensors on a device, bit-equal to those of `qgraph.calib.cpu.channel_kernels`.

Each sample's part of a channel is summed on its own, in the same order as on the CPU; the parts are added as integers.
Two launches take all tensors of an inference: the first looks at every sample of every channel, the second adds what
was found to the channel's state, which one program owns. Histograms are kept whole, 64 KiB a channel: blocks of one
octave, as on the CPU, would make programs wait for each other where a block is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from qgraph.calib.channels import CHANNEL_BINS, FINE, ChannelStatistics, merge_channels, no_channels
from qgraph.calib.cpu.channel_accumulator import ADDITIONS, counted_channels
from qgraph.calib.cpu.kernels import HIGHEST_FINITE, LOWEST_FINITE
from qgraph.calib.exact_sums import LIMBS
from qgraph.calib.gpu import triton_kernels as kernels
from qgraph.calib.gpu.tables import Extent, addresses, columns_for, extent_of, ordered_bounds, uploaded
from qgraph.calib.grid import bin_of, ordered

TOGETHER: Final = 16
"""Channels that one program looks at."""

MERGED_TOGETHER: Final = 64
"""Channels to whose state one program adds."""

STATE_FIELDS: Final = 7
PARTIAL_FIELDS: Final = 8

LARGEST_COUNT: Final = 2**31 - 1
"""Elements of a channel that its 32-bit counters hold."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChannelSource:
    """Channels that are to be counted.

    Attributes:
        source: the activation that they are read from.
        bounds: values beyond them are cut off.
        start: what is known so far, and so axis, atoms and whether there are histograms.
    """

    source: str
    bounds: tuple[float, float]
    start: ChannelStatistics


@dataclass(frozen=True, eq=False)
class _Layout:
    """The launches for activations of certain extents.

    Attributes:
        takes: by type and whether there are histograms: which sources, and the work of `take_channels`.
        places: channels of all samples and sources.
    """

    takes: tuple[tuple[str, bool, tuple[int, ...], torch.Tensor], ...]
    merges: torch.Tensor
    places: int


class DeviceChannels:
    """The growing statistics of several tensors' channels. Not to be shared by threads."""

    def __init__(self, sources: Sequence[ChannelSource], device: torch.device) -> None:
        self._sources = tuple(sources)
        self._device = device
        self._known = [one.start for one in sources]
        self._bounds = [ordered_bounds(one.bounds) for one in sources]
        self._columns = columns_for(max((len(one.start.atoms) for one in sources), default=0))
        table = np.full((len(sources), self._columns), 0x7FFFFFFF, np.int64)
        for index, one in enumerate(sources):
            table[index, : len(one.start.atoms)] = [ordered(atom) for atom, _ in one.start.atoms]
        self._atoms = uploaded(table, device, torch.int32)
        self._reset([0] * len(sources))

    def _reset(self, sizes: list[int]) -> None:
        """Begin with so many channels of each source, which have no value yet."""
        binned = [size if one.start.binned else 0 for size, one in zip(sizes, self._sources, strict=True)]
        self._sizes = sizes
        self._first = np.cumsum([0, *sizes])
        self._first_histogram = np.cumsum([0, *binned])
        empty = [HIGHEST_FINITE + 1, 0, LOWEST_FINITE - 1, *(0,) * (STATE_FIELDS - 3 + self._columns)]
        self._state = uploaded(np.tile(np.array(empty, np.int64), (sum(sizes), 1)), self._device)
        self._limbs = torch.zeros((sum(sizes), LIMBS), dtype=torch.int64, device=self._device)
        self._bins = torch.zeros((sum(binned), CHANNEL_BINS), dtype=torch.int32, device=self._device)
        self._elements = np.zeros(len(sizes), np.int64)
        self._additions = 0
        self._layouts: dict[tuple[Extent | None, ...], _Layout] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the device that the counters hold."""
        return self._state.nbytes + self._limbs.nbytes + self._bins.nbytes

    def add(self, tensors: Mapping[str, torch.Tensor], samples: int) -> None:
        """Count one inference: contiguous activations by name. A tensor without the planned axis is left out."""
        key = tuple(_extent(tensors[one.source], one.start.axis, samples) for one in self._sources)
        sizes = [size if one is None else one.size for one, size in zip(key, self._sizes, strict=True)]
        more = np.array([0 if one is None else one.samples * one.outer * one.inner for one in key], np.int64)
        full = (self._elements + more > LARGEST_COUNT).any() or self._additions + samples > ADDITIONS
        if sizes != self._sizes or full:
            self._known = self.snapshot()
            self._reset(sizes)
        if key not in self._layouts:
            self._layouts[key] = self._layout(key)
        layout = self._layouts[key]
        if not layout.places:
            return
        shape = (PARTIAL_FIELDS + self._columns, layout.places)
        partial = torch.empty(shape, dtype=torch.int64, device=self._device)
        for kind, binned, members, work in layout.takes:
            kernels.take_channels[(len(work),)](
                addresses([tensors[self._sources[index].source] for index in members], self._device),
                work,
                self._atoms,
                self._bins,
                partial,
                layout.places,
                kind=kind,
                binned=binned,
                atom_columns=self._columns,
                block=TOGETHER,
                enable_fp_fusion=False,
            )
        kernels.merge_channels[(len(layout.merges),)](
            layout.merges,
            partial,
            layout.places,
            self._state,
            self._limbs,
            atom_columns=self._columns,
            block=MERGED_TOGETHER,
            enable_fp_fusion=False,
        )
        self._elements += more
        self._additions += samples

    def _layout(self, key: tuple[Extent | None, ...]) -> _Layout:
        takes: dict[tuple[str, bool], tuple[list[int], list[tuple[int, ...]]]] = {}
        merges: list[tuple[int, ...]] = []
        place = 0
        for index, extent in enumerate(key):
            if extent is None:
                continue
            members, work = takes.setdefault((extent.kind, self._sources[index].start.binned), ([], []))
            work += self._work(index, extent, len(members), place)
            members.append(index)
            merges += [
                (int(self._first[index]) + channel, extent.size - channel, place + channel, extent.samples, extent.size)
                for channel in range(0, extent.size, MERGED_TOGETHER)
            ]
            place += extent.samples * extent.size
        tables = tuple(
            (kind, binned, tuple(members), uploaded(np.array(work, np.int64), self._device))
            for (kind, binned), (members, work) in sorted(takes.items())
        )
        return _Layout(tables, uploaded(np.array(merges, np.int64).reshape(-1, 5), self._device), place)

    def _work(self, index: int, extent: Extent, address: int, place: int) -> list[tuple[int, ...]]:
        """The rows of work of one source; see `qgraph.calib.gpu.triton_kernels.CHANNEL_FIELDS`."""
        low, high = self._bounds[index]
        return [
            (
                address,
                sample * extent.elements + channel * extent.inner,
                extent.size - channel,
                extent.inner,
                extent.size,
                extent.outer * extent.inner,
                place + sample * extent.size + channel,
                int(self._first_histogram[index]) + channel,
                low,
                high,
                index,
                0,
            )
            for sample in range(extent.samples)
            for channel in range(0, extent.size, TOGETHER)
        ]

    def snapshot(self) -> list[ChannelStatistics]:
        """The statistics so far of each source, as values. Waits for the device."""
        state, limbs = self._state.cpu().numpy(), self._limbs.cpu().numpy()
        used = torch.nonzero(self._bins)
        counts = self._bins[used[:, 0], used[:, 1]].cpu().numpy().astype(np.int64)
        channels, bins = used.cpu().numpy().T
        found = []
        for index, known in enumerate(self._known):
            rows = slice(self._first[index], self._first[index + 1])
            begin, end = np.searchsorted(channels, self._first_histogram[index : index + 2])
            if not self._sizes[index]:
                found.append(known)
                continue
            tally, atoms = state[rows, :STATE_FIELDS], state[rows, STATE_FIELDS:].T[: len(known.atoms)]
            values = [atom for atom, _ in known.atoms]
            triples = channels[begin:end] - self._first_histogram[index], bins[begin:end], counts[begin:end]
            counted = counted_channels(
                no_channels(known.axis, binned=known.binned, atoms=values),
                np.full(self._sizes[index], self._elements[index]),
                tally,
                limbs[rows],
                atoms,
                _sparse(triples, values, atoms, self._sizes[index]),
            )
            found.append(merge_channels(known, counted) if known.size else counted)
        return found


def _extent(tensor: torch.Tensor, axis: int, samples: int) -> Extent | None:
    """The extent of a tensor with channels and values, or None."""
    if tensor.ndim == 0 or tensor.numel() == 0:
        return None
    return extent_of(tensor, axis, samples)


def _sparse(
    triples: tuple[Integers, Integers, Integers], values: Sequence[float], atoms: Integers, size: int
) -> tuple[Integers, NDArray[np.uint16], Integers]:
    """Histograms as sparse rows, with the atoms, which the kernel leaves out, in their bins."""
    channels, bins, counts = triples
    places, parts = [channels * CHANNEL_BINS + bins], [counts]
    for value, count in zip(values, atoms, strict=True):
        if value != 0:
            some = np.flatnonzero(count)
            place = int(bin_of(value)) // FINE
            places.append(some * CHANNEL_BINS + place)
            parts.append(count[some])
    union, inverse = np.unique(np.concatenate(places), return_inverse=True)
    total = np.zeros(union.size, np.int64)
    np.add.at(total, inverse, np.concatenate(parts))
    starts = np.searchsorted(union, np.arange(size + 1) * CHANNEL_BINS).astype(np.int64)
    return starts, (union % CHANNEL_BINS).astype(np.uint16), total
