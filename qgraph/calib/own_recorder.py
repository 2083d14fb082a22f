"""Records what users' statistics make of each activation, beside all that is recorded anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.collect import Recorder, Recording
from qgraph.calib.cpu.accumulator import empty_scratch
from qgraph.calib.cpu.recorder import SourceRecorder, on_host
from qgraph.calib.own import OwnState, Reading, Statistic, call, packed, readings, unpacked
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.statistics import TensorStatistics, as_float32


def recording_own(statistics: Sequence[Statistic], whole: CollectionPlan, beside: Recording | None) -> Recording:
    """What `qgraph.calib.collect.collect` records with where users' statistics are collected.

    Args:
        whole: what the calibration collects, of which one pass may record a part.
        beside: what records all else; None for the CPU's kernels.
    """
    wanted = {reading for several in readings(whole).values() for reading in several}

    def begin(plan: CollectionPlan, start: Mapping[str, TensorStatistics]) -> Recorder:
        inner = _HostRecorder(plan, start) if beside is None else beside(plan, start)
        return OwnRecorder(statistics, sorted(one for one in wanted if one[0] in plan.atoms), inner, start)

    return begin


class OwnRecorder:
    """The growing states of users' statistics, and another recorder of all else. Not to be shared by threads."""

    def __init__(
        self,
        statistics: Sequence[Statistic],
        wanted: Sequence[Reading],
        inner: Recorder,
        start: Mapping[str, TensorStatistics],
    ) -> None:
        self._statistics = statistics
        self._readings = wanted
        self._inner = inner
        self._states: dict[tuple[Reading, str], Any] = {
            ((tensor, own.low, own.high), own.name): unpacked(own)
            for tensor, known in start.items()
            for own in known.own
        }

    def add(self, values: Mapping[str, Any], samples: Sequence[str]) -> None:
        """Count one inference; see `qgraph.calib.cpu.recorder.SourceRecorder.add`."""
        self._inner.add(values, samples)
        arrays = {source: as_float32(on_host(values[source])) for source in {reading[0] for reading in self._readings}}
        for reading in self._readings:
            source, low, high = reading
            array = arrays[source]
            bounded = (low, high) != (-np.inf, np.inf)
            self._add(reading, np.clip(array, np.float32(low), np.float32(high)) if bounded else array, len(samples))

    def _add(self, reading: Reading, values: NDArray[np.float32], samples: int) -> None:
        cut = samples > 1 and values.ndim > 0 and values.shape[0] == samples
        for part in np.split(values, samples) if cut else [values]:
            for statistic in self._statistics:
                state, key = call(statistic, "record", part), (reading, statistic.name)
                begun = key in self._states
                self._states[key] = call(statistic, "merge", self._states[key], state) if begun else state

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by tensor, with the states as bytes."""
        own: dict[str, list[OwnState]] = {}
        for source, low, high in self._readings:
            for statistic in self._statistics:
                key = (source, low, high), statistic.name
                if key in self._states:
                    state = packed(statistic, self._states[key])
                    own.setdefault(source, []).append(OwnState(statistic.name, statistic.version, low, high, state))
        found = self._inner.snapshot()
        return {name: replace(one, own=tuple(sorted(own.get(name, ())))) for name, one in found.items()}


class _HostRecorder:
    """All that a plan records, by the CPU's kernels, one tensor after the other."""

    def __init__(self, plan: CollectionPlan, start: Mapping[str, TensorStatistics]) -> None:
        self._recorders = {name: SourceRecorder(plan, name, start) for name in plan.exposed}
        self._scratch = empty_scratch()

    def add(self, values: Mapping[str, Any], samples: Sequence[str]) -> None:
        """Count one inference."""
        for name, recorder in self._recorders.items():
            recorder.add(values[name], samples, self._scratch)

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by tensor."""
        return {name: one for recorder in self._recorders.values() for name, one in recorder.snapshot().items()}
