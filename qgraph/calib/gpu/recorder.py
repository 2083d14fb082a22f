"""All that is recorded from one inference on a device: what `qgraph.calib.cpu.recorder` records, bit for bit.

Activations are read where they are. An inference takes a handful of launches, however many tensors it has, and
the host waits for the device only to take a snapshot, and now and then to empty a full buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from qgraph.calib.channels import ChannelStatistics, no_channels
from qgraph.calib.collect import Recording
from qgraph.calib.gpu.channels import ChannelSource, DeviceChannels
from qgraph.calib.gpu.histograms import DeviceHistograms
from qgraph.calib.gpu.rows import DeviceRows, RowSource
from qgraph.calib.gpu.tables import placed
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.rows import RowStatistics, no_rows
from qgraph.calib.statistics import TensorStatistics, empty_statistics


class DeviceRecorder:
    """The growing statistics of all that a plan records. Not to be shared by threads.

    Args:
        start: what is known so far, by tensor.
        device: where the activations are.
    """

    def __init__(self, plan: CollectionPlan, start: Mapping[str, TensorStatistics], device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._empty = {name: empty_statistics(one.atom_values) for name, one in start.items()}
        self._channel_names = [name for name, parts in plan.parts.items() for _ in parts.channels]
        self._row_names = [name for name, parts in plan.parts.items() for _ in parts.rows]
        self._histograms = DeviceHistograms({name: start[name] for name in plan.atoms}, device)
        self._channels = DeviceChannels(_channel_sources(plan, start), device)
        self._rows = DeviceRows(_row_sources(plan, start), device)

    @property
    def nbytes(self) -> int:
        """Bytes of the device that the counters hold."""
        return self._histograms.nbytes + self._channels.nbytes + self._rows.nbytes

    def add(self, values: Mapping[str, Any], samples: Sequence[str]) -> None:
        """Count one inference.

        Args:
            values: an activation for each exposed tensor; what is not on the device yet is brought there.
            samples: as for `qgraph.calib.cpu.recorder.SourceRecorder.add`.
        """
        with _current(self._device):
            tensors = {name: placed(values[name], self._device) for name in self._plan.exposed}
            self._histograms.add(tensors, samples)
            self._channels.add(tensors, len(samples))
            self._rows.add(tensors, len(samples))

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by tensor, as values that later `add` calls do not change. Waits for the device."""
        found = self._histograms.snapshot()
        channels: dict[str, list[ChannelStatistics]] = {name: [] for name in self._plan.parts}
        rows: dict[str, list[RowStatistics]] = {name: [] for name in self._plan.parts}
        for name, counted in zip(self._channel_names, self._channels.snapshot(), strict=True):
            channels[name].append(counted)
        for name, ranked in zip(self._row_names, self._rows.snapshot(), strict=True):
            rows[name].append(ranked)
        for name in self._plan.parts:
            whole = found.get(name, self._empty[name])
            found[name] = replace(whole, channels=tuple(channels[name]), rows=tuple(rows[name]))
        return found


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread: Triton launches on that, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _channel_sources(plan: CollectionPlan, start: Mapping[str, TensorStatistics]) -> list[ChannelSource]:
    found = []
    for name, parts in plan.parts.items():
        known = {one.axis: one for one in start[name].channels}
        for one in parts.channels:
            begin = known.get(one.axis) or no_channels(
                one.axis, binned=one.binned, atoms=parts.atoms if one.binned else ()
            )
            found.append(ChannelSource(parts.source, parts.bounds, begin))
    return found


def _row_sources(plan: CollectionPlan, start: Mapping[str, TensorStatistics]) -> list[RowSource]:
    found = []
    for name, parts in plan.parts.items():
        known = {one.axis: one for one in start[name].rows}
        found += [RowSource(parts.source, parts.bounds, known.get(axis) or no_rows(axis)) for axis in parts.rows]
    return found


def recording_on(device: str) -> Recording:
    """What `qgraph.calib.collect.collect` records with where activations are on this device."""
    place = torch.device(device)
    return lambda plan, start: DeviceRecorder(plan, start, place)
