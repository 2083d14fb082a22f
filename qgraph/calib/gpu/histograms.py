"""The growing histograms of many tensors on a device, bit-equal to those of `qgraph.calib.cpu.kernels`.

Counters stay on the device. What is not a counter (extremes with their multiplicities, what is not finite, atoms) is
written by each program to a row of a log, so that no two programs have to agree on it, and nothing waits::

    launch ─▶ histograms, added to          snapshot ─▶ bins in use, to the host
          └─▶ log, one row per program ── now and then ─▶ tally on the host, who holds the extremes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from qgraph.calib.gpu import triton_kernels as kernels
from qgraph.calib.gpu.tables import Extent, addresses, columns_for, extent_of, placed, uploaded
from qgraph.calib.grid import BIN_COUNT, bin_of, ordered, value_of
from qgraph.calib.provenance import UNKNOWN, smallest
from qgraph.calib.statistics import TensorStatistics, merge

CHUNK: Final = 8192
"""Elements that one program counts."""

BLOCK: Final = 1024
"""Elements that a program looks at together."""

LOGGED_BYTES: Final = 1 << 26
"""Of log that are kept on the device before they are read."""

LOW, LOW_COUNT, HIGH, HIGH_COUNT, ZEROS, NAN, ABOVE, BELOW = range(kernels.LOG_FIELDS)
NO_LOW, NO_HIGH = 0x7FFFFFFF, -0x80000000

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Launch:
    """One launch: tensors of one type and one number of atoms.

    Attributes:
        members: indices of the tensors among all.
        tensors: int64, per segment, which tensor it is; a segment is the programs of one sample of a tensor.
        samples: per segment, the index of the sample, or −1 where the tensor is of all.
        starts: first program of each segment.
        work: see `qgraph.calib.gpu.triton_kernels.count_bins`.
    """

    kind: str
    columns: int
    members: tuple[int, ...]
    tensors: Integers
    samples: Integers
    starts: Integers
    programs: int
    work: torch.Tensor


class DeviceHistograms:
    """The growing statistics of several tensors, without channels and rows. Not to be shared by threads.

    Args:
        start: what is known of each, by name; which atoms are counted.
        device: where the activations are.
    """

    def __init__(self, start: Mapping[str, TensorStatistics], device: torch.device) -> None:
        self._names = tuple(start)
        self._start = dict(start)
        self._device = device
        self._atoms = [[ordered(value) for value in one.atom_values] for one in start.values()]
        self._columns = [columns_for(len(atoms)) for atoms in self._atoms]
        most = max(self._columns, default=1)
        self._tables = {columns: self._atom_table(columns) for columns in sorted(set(self._columns))}
        self._totals = torch.zeros((len(start), BIN_COUNT), dtype=torch.int64, device=device)
        self._tally = np.zeros((len(start), kernels.LOG_FIELDS + most), np.int64)
        self._tally[:, LOW], self._tally[:, HIGH] = NO_LOW, NO_HIGH
        self._provenance = [UNKNOWN] * len(start)
        self._samples = np.zeros(len(start), np.int64)
        self._layouts: dict[tuple[Extent, ...], tuple[_Launch, ...]] = {}
        self._log: list[tuple[_Launch, torch.Tensor, tuple[str | None, ...]]] = []
        self._logged = 0

    def _atom_table(self, columns: int) -> torch.Tensor:
        table = np.full((len(self._names), columns), NO_LOW, np.int64)
        for index, atoms in enumerate(self._atoms):
            table[index, : len(atoms)] = atoms[:columns]
        return uploaded(table, self._device, torch.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of the device that the counters and a full log hold."""
        return self._totals.nbytes + LOGGED_BYTES

    def add(self, values: Mapping[str, Any], samples: Sequence[str | None]) -> None:
        """Count one inference: an activation for each tensor.

        Args:
            samples: the content hashes of the samples that made it. Where there are several, an activation is cut
                along axis 0 into theirs; one that has another number of rows there counts for the smallest hash.
        """
        tensors = [placed(values[name], self._device) for name in self._names]
        key = tuple(_whole(tensor, len(samples)) for tensor in tensors)
        if key not in self._layouts:
            self._layouts[key] = self._layout(key)
        for launch in self._layouts[key]:
            width = kernels.LOG_FIELDS + launch.columns
            log = torch.empty((launch.programs, width), dtype=torch.int32, device=self._device)
            kernels.count_bins[(launch.programs,)](
                addresses([tensors[index] for index in launch.members], self._device),
                launch.work,
                self._totals,
                log,
                self._tables[launch.columns],
                kind=launch.kind,
                atom_columns=launch.columns,
                block=BLOCK,
                enable_fp_fusion=False,
            )
            self._log.append((launch, log, tuple(samples)))
            self._logged += log.nbytes
        self._samples += len(samples)
        if self._logged >= LOGGED_BYTES:
            self._read_log()

    def _layout(self, key: tuple[Extent, ...]) -> tuple[_Launch, ...]:
        """The launches for activations of these extents."""
        groups: dict[tuple[str, int], list[int]] = {}
        for index, extent in enumerate(key):
            if extent.elements:
                groups.setdefault((extent.kind, self._columns[index]), []).append(index)
        return tuple(self._launch(kind, columns, members, key) for (kind, columns), members in sorted(groups.items()))

    def _launch(self, kind: str, columns: int, members: list[int], key: tuple[Extent, ...]) -> _Launch:
        work: list[tuple[int, int, int, int]] = []
        segments = []
        for address, index in enumerate(members):
            extent = key[index]
            for sample in range(extent.samples):
                segments.append((index, sample if extent.samples > 1 else -1, len(work)))
                first, end = sample * extent.elements, (sample + 1) * extent.elements
                work += [(address, begin, min(CHUNK, end - begin), index) for begin in range(first, end, CHUNK)]
        tensors, samples, starts = np.array(segments, np.int64).T
        table = uploaded(np.array(work, np.int64), self._device)
        return _Launch(kind, columns, tuple(members), tensors, samples, starts, len(work), table)

    def _read_log(self) -> None:
        """Bring the log to the host and add it to the tally."""
        entries, self._log, self._logged = self._log, [], 0
        found = torch.cat([log.reshape(-1) for _, log, _ in entries]).cpu().numpy() if entries else np.zeros(0)
        begin = 0
        for launch, log, samples in entries:
            rows = found[begin : begin + log.numel()].reshape(log.shape).astype(np.int64)
            begin += log.numel()
            self._tell(launch, _segments(rows, launch.starts), samples)

    def _tell(self, launch: _Launch, found: Integers, samples: tuple[str | None, ...]) -> None:
        """Add one launch, given by segment, to the tally."""
        hashes = [smallest(samples) if index < 0 else samples[index] for index in launch.samples.tolist()]
        width = found.shape[1]
        np.add.at(self._tally[:, ZEROS:width], launch.tensors, found[:, ZEROS:])
        odd = found[:, NAN] + found[:, ABOVE] + found[:, BELOW] > 0
        self._hold("nonfinite", launch, np.flatnonzero(odd), np.zeros_like(odd), hashes)
        for name, at, sign in (("minimum", LOW, 1), ("maximum", HIGH, -1)):
            before, tally = sign * self._tally[:, at], self._tally
            now = before.copy()
            np.minimum.at(now, launch.tensors, sign * found[:, at])
            moved = now < before
            tally[:, at] = sign * now
            tally[moved, at + 1] = 0
            reaches = (sign * found[:, at] == now[launch.tensors]) & (found[:, at + 1] > 0)
            np.add.at(tally[:, at + 1], launch.tensors[reaches], found[reaches, at + 1])
            self._hold(name, launch, np.flatnonzero(reaches), moved[launch.tensors], hashes)

    def _hold(
        self, field: str, launch: _Launch, segments: Integers, moved: NDArray[np.bool_], hashes: list[str | None]
    ) -> None:
        """Remember who holds something: the smallest hash, of these segments alone where an extreme moved."""
        fresh = set()
        for segment in segments.tolist():
            index, known = int(launch.tensors[segment]), self._provenance[int(launch.tensors[segment])]
            holder = getattr(known, field)
            if moved[segment] and index not in fresh:
                holder = None
                fresh.add(index)
            best = smallest((holder, hashes[segment]))
            if best != getattr(known, field):
                self._provenance[index] = replace(known, **{field: best})

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by name, as values that later `add` calls do not change. Waits for the device."""
        self._read_log()
        used = torch.nonzero(self._totals)
        counts = self._totals[used[:, 0], used[:, 1]].cpu().numpy()
        tensors, bins = used.cpu().numpy().T
        starts = np.searchsorted(tensors, np.arange(len(self._names) + 1))
        found = {}
        for index, name in enumerate(self._names):
            part = slice(starts[index], starts[index + 1])
            counted = self._counted(index, bins[part], counts[part])
            begun = self._start[name]
            found[name] = merge(begun, counted) if begun.samples else counted
        return found

    def _counted(self, index: int, bins: Integers, counts: Integers) -> TensorStatistics:
        """What was counted of one tensor."""
        tally = [int(one) for one in self._tally[index]]
        values = self._start[self._names[index]].atom_values
        atoms = tuple(zip(values, tally[kernels.LOG_FIELDS :], strict=False))
        piled = [(value, count) for value, count in atoms if value != 0 and count]
        places = np.concatenate([bins, bin_of([value for value, _ in piled])]).astype(np.uint32)
        union, inverse = np.unique(places, return_inverse=True)
        total = np.zeros(union.size, np.int64)
        np.add.at(total, inverse, np.concatenate([counts, np.array([count for _, count in piled], np.int64)]))
        some = tally[LOW_COUNT] > 0
        return TensorStatistics(
            bins=union,
            counts=total,
            zeros=tally[ZEROS],
            nan=tally[NAN],
            positive_infinities=tally[ABOVE],
            negative_infinities=tally[BELOW],
            samples=int(self._samples[index]),
            minimum=value_of(tally[LOW]) if some else None,
            maximum=value_of(tally[HIGH]) if some else None,
            minimum_count=tally[LOW_COUNT],
            maximum_count=tally[HIGH_COUNT],
            atoms=atoms,
            provenance=self._provenance[index],
        )


def _whole(tensor: torch.Tensor, samples: int) -> Extent:
    """The extent of a tensor whose samples are counted as they lie."""
    extent = extent_of(tensor, 0, samples)
    assert extent is not None, "every tensor has an axis 0, a scalar included"
    return extent


def _segments(rows: Integers, starts: Integers) -> Integers:
    """The rows of the log of each segment as one row."""
    found = np.add.reduceat(rows, starts, axis=0)
    owner = np.repeat(np.arange(starts.size), np.diff([*starts, len(rows)]))
    for at, reduce in ((LOW, np.minimum), (HIGH, np.maximum)):
        found[:, at] = reduce.reduceat(rows[:, at], starts)
        reached = np.where(rows[:, at] == found[owner, at], rows[:, at + 1], 0)
        found[:, at + 1] = np.add.reduceat(reached, starts)
    return found
