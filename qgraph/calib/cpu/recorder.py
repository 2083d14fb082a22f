"""All that is recorded from one activation: its histogram, and the channels and rows that are read from it.

::

    Conv ── a ── Relu ── b ── Conv       from a: the histogram, extremes and channels of a, and the channels of b
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import ChannelStatistics, no_channels
from qgraph.calib.cpu.accumulator import Accumulator
from qgraph.calib.cpu.channel_accumulator import ChannelAccumulator
from qgraph.calib.cpu.row_kernels import RowAccumulator
from qgraph.calib.parts import Parts
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.rows import RowStatistics, no_rows
from qgraph.calib.statistics import TensorStatistics, as_float32, empty_statistics


def on_host(values: Any) -> NDArray[Any]:
    """An activation in the computer's own memory, whatever device made it: an array, or a torch tensor."""
    if not hasattr(values, "cpu"):
        return np.asarray(values)
    # numpy has no bfloat16; all of its values are float32's.
    return np.asarray((values.float() if str(values.dtype) == "torch.bfloat16" else values).cpu())


class PartsAccumulator:
    """The growing channels and rows of one tensor. Not to be shared by threads."""

    def __init__(self, parts: Parts, start: TensorStatistics) -> None:
        channels, rows = {one.axis: one for one in start.channels}, {one.axis: one for one in start.rows}
        self._bounds = parts.bounds
        self._channels = [
            ChannelAccumulator(
                channels.get(one.axis)
                or no_channels(one.axis, binned=one.binned, atoms=parts.atoms if one.binned else ()),
                parts.bounds,
            )
            for one in parts.channels
        ]
        self._rows = [RowAccumulator(rows.get(axis) or no_rows(axis)) for axis in parts.rows]

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the activation of one sample, of the tensor that the parts are read from."""
        for channels in self._channels:
            channels.add(values)
        if self._rows and self._bounds != (-np.inf, np.inf):
            values = np.clip(values, np.float32(self._bounds[0]), np.float32(self._bounds[1]))
        for rows in self._rows:
            rows.add(values)

    @property
    def nbytes(self) -> int:
        """Bytes that its counters hold."""
        return sum(one.nbytes for one in self._channels) + sum(one.nbytes for one in self._rows)

    def snapshot(self) -> tuple[tuple[ChannelStatistics, ...], tuple[RowStatistics, ...]]:
        """The statistics so far, as values."""
        return tuple(one.snapshot() for one in self._channels), tuple(one.snapshot() for one in self._rows)


class SourceRecorder:
    """The growing statistics of all that is read from one activation. Not to be shared by threads.

    Args:
        source: one of the plan's exposed tensors.
        start: what is known so far, by tensor.
    """

    def __init__(self, plan: CollectionPlan, source: str, start: Mapping[str, TensorStatistics]) -> None:
        self._source = source
        self._whole = Accumulator(start=start[source]) if source in plan.atoms else None
        self._start = {name: start[name] for name, parts in plan.parts.items() if parts.source == source}
        self._parts = {name: PartsAccumulator(plan.parts[name], one) for name, one in self._start.items()}

    def add(self, values: Any, samples: Sequence[str], scratch: NDArray[np.uint32] | None = None) -> None:
        """Count an activation.

        Args:
            values: an array, or a torch tensor on any device.
            samples: the content hashes of the samples that made it. Where there are several, the activation is cut
                along axis 0 into theirs; one that has another number of rows there counts for the smallest hash.
            scratch: see `qgraph.calib.cpu.accumulator.empty_scratch`.
        """
        array = as_float32(on_host(values))
        cut = len(samples) > 1 and array.ndim > 0 and array.shape[0] == len(samples)
        if not cut:
            self._add(array, min(samples), len(samples), scratch)
            return
        for index, sample in enumerate(samples):
            self._add(array[index : index + 1], sample, 1, scratch)

    def _add(self, values: NDArray[np.float32], sample: str, samples: int, scratch: NDArray[np.uint32] | None) -> None:
        if self._whole is not None:
            self._whole.add(values, samples, scratch, sample=sample)
        for parts in self._parts.values():
            parts.add(values)

    @property
    def beside_bytes(self) -> int:
        """Bytes that the counters beside the histogram hold."""
        return sum(parts.nbytes for parts in self._parts.values())

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by tensor, as values that later `add` calls do not change."""
        found = {} if self._whole is None else {self._source: self._whole.snapshot()}
        for name, parts in self._parts.items():
            whole = found.get(name) or empty_statistics(self._start[name].atom_values)
            channels, rows = parts.snapshot()
            found[name] = replace(whole, channels=channels, rows=rows)
        return found
