"""What a calibration will take: time, memory and disk, foretold from one inference.

The data is read once, the largest batch in it is run and counted. Then, for `t` inferences at a time::

    peak memory = fixed + t · activations + tensors · 132 KiB + pages · 10 KiB

- *fixed*: the process once the model is loaded, and 24 MiB for the database and a checkpoint on its way into it.
- *activations*: what one inference keeps: the collected tensors, or what the process grew by if that is more.
- *132 KiB* per collected tensor: what glibc's allocator touches beside a large block (M_TOP_PAD), and a page of zeros.
- *pages*: the 4 KiB pages of the histograms that values fall into, each 512 bins of 8 bytes. A statistic that is
  given away holds 12 bytes per bin: 6 KiB more per page, if every bin of it is taken. Few pages come with more
  samples, because a page spans two octaves.

None of it grows with the number of samples. On PP-OCRv4's detector it was 1 % (96x96) and 3 % (320x320) below the
measured peak. On disk, a bin takes about one byte (see `qgraph.calib.codec`), a counted sample a row of about 100.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from qgraph.calib.batches import batches, check_full_batch, joined
from qgraph.calib.collect import THREADS, Runner
from qgraph.calib.data import DataSource, Sample
from qgraph.calib.kernels import Accumulator, warm_up
from qgraph.calib.plan import CollectionPlan
from qgraph.errors import DataError
from qgraph.ir.elements import Structure, Tensor

PAGE = 4096
BINS_PER_PAGE = PAGE // 8
STATISTIC_PER_PAGE = 12 * BINS_PER_PAGE
OVERHEAD_PER_TENSOR = 132 * 1024
DATABASE = 24 * 2**20
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
        collected: tensors counted while the model runs.
        followed: tensors whose statistics follow exactly from those.
        not_collected: reason → tensors.
        reading_seconds: one pass over the data, as measured; a calibration makes two.
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
        """Both passes; in the second one, reading goes on while the model runs."""
        return self.reading_seconds + max(self.reading_seconds, self.running_seconds)


@dataclass(frozen=True, slots=True)
class _Survey:
    """The data, read once."""

    samples: int
    size: int
    largest: list[Sample]
    seconds: float


def forecast(
    runner: Runner, source: DataSource, plan: CollectionPlan, structure: Structure, limit: int | None = None
) -> Forecast:
    """Read the data once, run its largest batch, and say what a calibration would take.

    Args:
        limit: samples to use; None for all.

    Raises:
        DataError: as a calibration would.
    """
    survey = _survey(source, limit)
    warm_up()
    fixed = peak_memory()
    began = time.perf_counter()
    values = runner.run(joined(survey.largest))
    seconds = time.perf_counter() - began
    activations = max(sum(values[name].nbytes for name in plan.tensors), peak_memory() - fixed)
    pages = 0
    for name, atoms in plan.atoms.items():
        accumulator = Accumulator(atoms)
        accumulator.add(values[name])
        pages += np.unique(accumulator.snapshot().bins // BINS_PER_PAGE).size
        began = time.perf_counter()  # only the first count of a calibration finds untouched pages
        accumulator.add(values[name])
        seconds += time.perf_counter() - began
    share = survey.size / max(1, _size(survey.largest))
    histograms = len(plan.tensors) * OVERHEAD_PER_TENSOR + pages * (PAGE + STATISTIC_PER_PAGE)
    return Forecast(
        samples=survey.samples,
        run=len(survey.largest),
        passes=1,
        collected=len(plan.tensors),
        followed=len(plan.followers),
        not_collected=MappingProxyType(_not_collected(structure, plan)),
        memory=Memory(fixed + DATABASE, THREADS * activations, histograms),
        reading_seconds=survey.seconds,
        running_seconds=seconds * share / min(THREADS, os.cpu_count() or 1),
        checkpoint=pages * BINS_PER_PAGE * STORED_PER_BIN + survey.samples * STORED_PER_SAMPLE,
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


def peak_memory() -> int:
    """The most bytes that this process had resident so far; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource  # only Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
