"""What a calibration will take: time, memory and disk, foretold from one inference.

The data is read once, the largest batch in it is run and counted. Then, for `t` inferences at a time::

    peak memory = fixed + t · activations + tensors · 64 KiB + pages · 4 KiB + 2 · channels and rows

- *fixed*: the process once the model is loaded and its weights are looked at; 30 MiB for the database, 32 MiB that a
  process grows by in a long run, and 512 KiB per inference at a time for a scratch histogram.
- *activations*: what one inference keeps: the exposed tensors, or what the process grew by if that is more.
- *64 KiB* per collected tensor: a reserve, since its counters take 2 of them beside those pages.
- *pages*: the 4 KiB pages of the histograms that values fall into, each 1,024 bins of 4 bytes. Few come with more
  samples, because a page spans four octaves.
- *channels and rows*: the counters beside the histograms, twice, because they widen with more samples.

A checkpoint compresses statistics one by one, so that they are never held beside all counters.

No activation or sample is kept, so all of it hardly grows with their number: more samples touch more bins (as measured,
512 took 4 to 8 % more than 32). With a limit, the counters are shared out over several passes (see
`qgraph.calib.passes`); the last three terms are then those of the largest pass. On disk, a bin takes about one byte
(see `qgraph.calib.codec`), a counted sample a row of about 100.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qgraph.calib.collect import THREADS, Runner, no_progress
from qgraph.calib.cpu.accumulator import empty_scratch, warm_up
from qgraph.calib.cpu.recorder import SourceRecorder
from qgraph.calib.data.batches import batches, check_full_batch, joined
from qgraph.calib.data.samples import Sample
from qgraph.calib.data.source import DataSource
from qgraph.calib.passes import Footprint, schedule
from qgraph.calib.plan import CollectionPlan
from qgraph.errors import DataError
from qgraph.ir.elements import Structure, Tensor

PAGE = 4096
BINS_PER_PAGE = PAGE // 4
OVERHEAD_PER_TENSOR = 64 * 1024
DATABASE = 30 * 2**20
GROWTH = 32 * 2**20
"""What a process grows by in a long run, as measured on the development models: checkpoints, an allocator's gaps."""

FORMULA = "fixed + threads * activations + tensors * 64 KiB + pages * 4 KiB + 2 * channels and rows"
"""The peak memory, as the head of this module tells it."""

STORED_PER_BIN = 1
STORED_PER_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak.

    Attributes:
        fixed: what there is without any inference.
        activations: of all inferences that are under way at a time.
        histograms: of all collected tensors.
    """

    fixed: int
    activations: int
    histograms: int

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.fixed + self.activations + self.histograms


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a calibration would collect and take.

    Attributes:
        samples: in the data, as far as it would be used.
        run: samples that were run for this forecast.
        passes: over the data, beside the one that tells which samples there are.
        collected: tensors counted while the model runs.
        followed: tensors whose statistics follow exactly from those.
        not_collected: reason → tensors.
        reading_seconds: one pass over the data, as measured; a calibration makes one more than `passes`.
        running_seconds: all inferences and the counting, if every core is free.
        checkpoint: bytes, at most about.
    """

    samples: int
    run: int
    passes: int
    collected: int
    followed: int
    not_collected: Mapping[str, int]
    memory: Memory
    reading_seconds: float
    running_seconds: float
    checkpoint: int

    @property
    def seconds(self) -> float:
        """All of it; while the model runs, reading goes on."""
        return self.reading_seconds + max(self.passes * self.reading_seconds, self.running_seconds)


@dataclass(frozen=True, slots=True)
class _Survey:
    """The data, read once."""

    samples: int
    size: int
    largest: list[Sample]
    seconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What one inference on the largest batch of the data showed.

    Attributes:
        samples: in the data, as far as it is used.
        run: of these, run for the trial.
        reading_seconds: one pass over the data.
        running_seconds: all inferences and the counting, one after the other.
        pages: of all histograms together.
    """

    samples: int
    run: int
    reading_seconds: float
    running_seconds: float
    pages: int
    footprint: Footprint


def try_out(
    runner: Runner, source: DataSource, plan: CollectionPlan, limit: int | None = None, reserve: int = 0
) -> Trial:
    """Read the data once, and run and count its largest batch.

    Args:
        limit: samples to use; None for all.
        reserve: bytes that the process will grow by before it counts.

    Raises:
        DataError: as a calibration would.
    """
    survey = _survey(source, limit)
    warm_up()
    fixed = resident_memory()
    began = time.perf_counter()
    values = runner.run(joined(survey.largest))
    seconds = time.perf_counter() - began
    activations = max(sum(values[name].nbytes for name in plan.exposed), resident_memory() - fixed)
    hashes, scratch = [sample.hash for sample in survey.largest], empty_scratch()
    start = no_progress(plan).statistics
    all_pages = 0
    counters: dict[str, int] = {}
    for name in plan.exposed:
        recorder = SourceRecorder(plan, name, start)
        recorder.add(values[name], hashes, scratch)
        taken = recorder.snapshot().get(name)
        pages = 0 if taken is None else np.unique(taken.bins // BINS_PER_PAGE).size
        counters[name] = OVERHEAD_PER_TENSOR + pages * PAGE + 2 * recorder.beside_bytes
        all_pages += pages
        began = time.perf_counter()  # only the first count of a calibration finds untouched pages
        recorder.add(values[name], hashes, scratch)
        seconds += time.perf_counter() - began
    share = survey.size / max(1, _size(survey.largest))
    footprint = Footprint(fixed + reserve + GROWTH + THREADS * scratch.nbytes, activations, MappingProxyType(counters))
    return Trial(survey.samples, len(survey.largest), survey.seconds, seconds * share, all_pages, footprint)


def forecast(
    runner: Runner,
    source: DataSource,
    plan: CollectionPlan,
    structure: Structure,
    limit: int | None = None,
    max_memory: int | None = None,
    part: Mapping[str, int] | None = None,
) -> Forecast:
    """Read the data once, run its largest batch, and say what a calibration would take.

    Args:
        limit: samples to use; None for all.
        max_memory: bytes; None for no limit.
        part: the samples that are counted, by hash; None for all.

    Raises:
        DataError: as a calibration would.
        UsageError: the limit is too low.
    """
    trial = try_out(runner, source, plan, limit, reserve=DATABASE)
    footprint = trial.footprint
    chosen = schedule(footprint, THREADS, max_memory)
    activations = chosen.threads * footprint.activations
    share = 1.0 if part is None else sum(part.values()) / trial.samples
    return Forecast(
        samples=round(share * trial.samples),
        run=trial.run,
        passes=len(chosen.passes),
        collected=len(plan.recorded),
        followed=sum(follower.tensor not in plan.recorded for follower in plan.followers),
        not_collected=MappingProxyType(_not_collected(structure, plan)),
        memory=Memory(footprint.fixed, activations, footprint.peak(chosen) - footprint.fixed - activations),
        reading_seconds=trial.reading_seconds,
        running_seconds=share * len(chosen.passes) * trial.running_seconds / min(chosen.threads, os.cpu_count() or 1),
        checkpoint=trial.pages * BINS_PER_PAGE * STORED_PER_BIN + trial.samples * STORED_PER_SAMPLE,
    )


def _survey(source: DataSource, limit: int | None) -> _Survey:
    """Count the samples and their bytes; keep only the largest batch."""
    began = time.perf_counter()
    samples = size = 0
    largest: list[Sample] = []
    for batch in batches(source.samples(limit), source):
        samples += len(batch)
        size += _size(batch)
        if not largest or _size(batch) > _size(largest):
            largest = batch
    if not largest:
        raise DataError("no samples", source.name, "give at least one")
    check_full_batch(samples, source)
    return _Survey(samples, size, largest, time.perf_counter() - began)


def _size(batch: list[Sample]) -> int:
    return sum(array.nbytes for sample in batch for array in sample.arrays.values())


def _not_collected(structure: Structure, plan: CollectionPlan) -> dict[str, int]:
    served = {*plan.atoms, *(follower.tensor for follower in plan.followers)}
    reasons = Counter(_reason(tensor) for tensor in structure.tensors if tensor.name not in served)
    return dict(sorted(reasons.items()))


def _reason(tensor: Tensor) -> str:
    if tensor.constant:
        return "constant"
    return "not a float" if tensor.dtype else "type not known"


def resident_memory() -> int:
    """Bytes that this process has resident; the most that it had so far, or 0, where the system says no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return _peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_memory() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # only Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
