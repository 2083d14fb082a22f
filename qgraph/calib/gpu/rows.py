"""The growing rows of many tensors on a device, bit-equal to those of `qgraph.calib.cpu.row_kernels`.

The kernel makes one key of each row. Keys are kept and now and then counted all together, which sorts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from qgraph.calib.gpu import triton_kernels as kernels
from qgraph.calib.gpu.tables import Extent, addresses, extent_of, ordered_bounds, uploaded
from qgraph.calib.rows import RowStatistics, merge_rows, no_rows

TOGETHER: Final = 8
"""Rows that one program looks at."""

WIDTH: Final = 128
"""Elements of each of them that it looks at together."""

BUFFERED_ROWS: Final = 1 << 22
"""Rows that are kept before they are counted."""

KEY_BITS: Final = 32
SHIFT: Final = -min(kernels.KEY_OF_NAN, kernels.KEY_OF_INFINITY, kernels.KEY_OF_SINGLE)
"""What is added to a key so that it is not negative."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows that are to be counted.

    Attributes:
        source: the activation that they are read from.
        bounds: values beyond them are cut off.
        start: what is known so far, and so the axis.
    """

    source: str
    bounds: tuple[float, float]
    start: RowStatistics


@dataclass(frozen=True, eq=False)
class _Layout:
    """The launches for activations of certain extents.

    Attributes:
        takes: by type: which sources, and the work of `qgraph.calib.gpu.triton_kernels.pair_rows`.
        owners: int64, of each key, the index of its source in the upper bits.
    """

    takes: tuple[tuple[str, tuple[int, ...], torch.Tensor], ...]
    owners: torch.Tensor


class DeviceRows:
    """The growing statistics of several tensors' rows. Not to be shared by threads."""

    def __init__(self, sources: Sequence[RowSource], device: torch.device) -> None:
        self._sources = tuple(sources)
        self._device = device
        self._known = [one.start for one in sources]
        self._layouts: dict[tuple[Extent | None, ...], _Layout] = {}
        self._keys: list[tuple[_Layout, torch.Tensor]] = []
        self._buffered = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the device that a full buffer holds."""
        return BUFFERED_ROWS * 4 if self._sources else 0

    def add(self, tensors: Mapping[str, torch.Tensor], samples: int) -> None:
        """Count one inference: contiguous activations by name. A tensor without the planned axis is left out."""
        key = tuple(_extent(tensors[one.source], one.start.axis, samples) for one in self._sources)
        if key not in self._layouts:
            self._layouts[key] = self._layout(key)
        layout = self._layouts[key]
        if not layout.takes:
            return
        keys = torch.empty(len(layout.owners), dtype=torch.int32, device=self._device)
        for kind, members, work in layout.takes:
            kernels.pair_rows[(len(work),)](
                addresses([tensors[self._sources[index].source] for index in members], self._device),
                work,
                keys,
                kind=kind,
                block=TOGETHER,
                width=WIDTH,
                enable_fp_fusion=False,
            )
        self._keys.append((layout, keys))
        self._buffered += len(keys)
        if self._buffered >= BUFFERED_ROWS:
            self._count()

    def _layout(self, key: tuple[Extent | None, ...]) -> _Layout:
        takes: dict[str, tuple[list[int], list[tuple[int, ...]]]] = {}
        counts = np.zeros(len(key), np.int64)
        for index, extent in enumerate(key):
            if extent is None:
                continue
            place, rows = int(counts.sum()), extent.samples * extent.outer * extent.inner
            counts[index] = rows
            members, work = takes.setdefault(extent.kind, ([], []))
            bounds = ordered_bounds(self._sources[index].bounds)
            work += [
                (len(members), row, rows - row, extent.size, extent.inner, place + row, *bounds)
                for row in range(0, rows, TOGETHER)
            ]
            members.append(index)
        tables = tuple(
            (kind, tuple(members), uploaded(np.array(work, np.int64), self._device))
            for kind, (members, work) in sorted(takes.items())
        )
        owners = np.repeat(np.arange(len(key)) << KEY_BITS, counts) + SHIFT
        return _Layout(tables, uploaded(owners, self._device))

    def _count(self) -> None:
        """Count the keys that were kept. Waits for the device."""
        if not self._keys:
            return
        joined = torch.cat([layout.owners + keys for layout, keys in self._keys])
        places, counts = (part.cpu().numpy() for part in torch.unique(joined, return_counts=True))
        self._keys, self._buffered = [], 0
        owners, keys = places >> KEY_BITS, (places & ((1 << KEY_BITS) - 1)) - SHIFT
        for index in np.unique(owners).tolist():
            mine = owners == index
            odd = dict(zip(keys[mine & (keys < 0)].tolist(), counts[mine & (keys < 0)].tolist(), strict=True))
            mine &= keys >= 0
            counted = replace(
                no_rows(self._sources[index].start.axis),
                keys=keys[mine].astype(np.uint32),
                counts=counts[mine].astype(np.int64),
                nan=odd.get(kernels.KEY_OF_NAN, 0),
                infinite=odd.get(kernels.KEY_OF_INFINITY, 0),
                single=odd.get(kernels.KEY_OF_SINGLE, 0),
            )
            self._known[index] = merge_rows(self._known[index], counted)

    def snapshot(self) -> list[RowStatistics]:
        """The statistics so far of each source, as values. Waits for the device."""
        self._count()
        return list(self._known)


def _extent(tensor: torch.Tensor, axis: int, samples: int) -> Extent | None:
    """The extent of a tensor with rows, or None."""
    extent = extent_of(tensor, axis, samples)
    return None if tensor.numel() == 0 else extent
