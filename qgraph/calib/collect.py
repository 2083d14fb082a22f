"""One pass over the data: run the model, count its activations, remember which samples were counted.

::

    samples ─▶ not yet counted ─▶ runner ─▶ one accumulator per tensor
                     ▲                             │
                     └── Progress: statistics ◀────┘
                         and counted samples

Everything that is added is an integer, so the result does not depend on the order of the samples, the number
of threads, or where a pass was interrupted and resumed. Samples are known by their content: what was counted
is skipped wherever it stands in the data. Samples are run one by one, several at a time in threads: runtimes
round differently in batches of different sizes, so joining them would make the statistics depend on which
samples happen to stand together.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.cpu.accumulator import empty_scratch, warm_up
from qgraph.calib.cpu.recorder import SourceRecorder, on_host
from qgraph.calib.data.batches import batches, check_full_batch, joined, samples_per_step
from qgraph.calib.data.samples import Sample
from qgraph.calib.data.source import DataSource
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.statistics import TensorStatistics, empty_statistics
from qgraph.errors import DataError, StatisticsError

Arrays = Mapping[str, NDArray[Any]]
Kept = TypeVar("Kept")

THREADS = 2
"""Inferences at a time, unless the caller says otherwise."""


class Runner(Protocol):
    """Runs the model once and returns the planned activations. Called from several threads at a time."""

    def run(self, inputs: Arrays) -> Mapping[str, Any]:
        """Feed arrays by input name; get an array for each planned tensor: numpy's, or torch's on a GPU."""
        ...


class Recorder(Protocol):
    """Counts all activations of an inference together. Called by one thread at a time."""

    def add(self, values: Mapping[str, Any], samples: Sequence[str]) -> None:
        """Count an activation for each planned tensor, made by samples with these hashes."""
        ...

    def snapshot(self) -> dict[str, TensorStatistics]:
        """The statistics so far, by tensor."""
        ...


Recording = Callable[[CollectionPlan, Mapping[str, TensorStatistics]], Recorder]
"""Begins to record a plan from what is known so far; see `qgraph.calib.gpu.recorder.recording_on`."""


@dataclass(frozen=True)
class Progress(Generic[Kept]):
    """How far a calibration is: what a checkpoint keeps, and what a finished pass returns.

    Attributes:
        statistics: of each collected tensor, or what is kept of them.
        counted: per sample hash, how often it was counted.
        inferences: samples that the call which made this ran, those counted before it left out.
    """

    statistics: Mapping[str, Kept]
    counted: Mapping[str, int]
    inferences: int = 0

    @property
    def samples(self) -> int:
        """All samples counted so far."""
        return sum(self.counted.values())


def unchanged(statistics: TensorStatistics) -> TensorStatistics:
    """The statistics themselves: for `collect`, to keep them as they are."""
    return statistics


def no_progress(plan: CollectionPlan) -> Progress[TensorStatistics]:
    """Where every calibration of a plan begins."""
    statistics = {name: empty_statistics(atoms) for name, atoms in plan.recorded.items()}
    return Progress(MappingProxyType(statistics), MappingProxyType({}))


def collect(
    runner: Runner,
    source: DataSource,
    plan: CollectionPlan,
    *,
    keep: Callable[[TensorStatistics], Kept],
    steps: int | None = None,
    batch_size: int | None = None,
    part: Mapping[str, int] | None = None,
    start: Progress[TensorStatistics] | None = None,
    checkpoint: Callable[[Progress[Kept]], None] | None = None,
    checkpoint_every: float = 5.0,
    on_progress: Callable[[int, int], None] | None = None,
    on_doubt: Callable[[str], None] | None = None,
    threads: int = THREADS,
    recording: Recording | None = None,
    stop: Callable[[], BaseException | None] = lambda: None,
) -> Progress[Kept]:
    """Count the activations of every sample that `start` does not have yet.

    Args:
        keep: what becomes of a tensor's statistics as soon as they are taken, in one of the threads: `unchanged`, or
            something smaller, so that never all statistics are held beside the counters.
        steps: batches of data to use, ``steps * batch_size`` samples; None for all.
        batch_size: samples per step; None for the model's own, or 1. Only a model with a fixed batch is fed
            several samples at once.
        part: the samples to count, by hash, a part of the data's census; None for all.
        start: where an interrupted calibration of the same plan and data stopped.
        checkpoint: called with the progress about every `checkpoint_every` seconds, when nothing is under way.
        on_progress: called with the samples counted so far and the number of all.
        on_doubt: called with a line if the first inference does not repeat bit for bit: then the statistics depend on
            chance, and nothing that is said of them as exact holds. None leaves the check out.
        threads: how many inferences run at a time; the statistics do not depend on it, the peak memory does.
        recording: what counts the activations of an inference, all together; None for the CPU's kernels, which
            take one tensor after the other.
        stop: asked after each batch; what it gives is raised once a last checkpoint is made.

    Raises:
        UsageError: steps or batch size cannot work with this model.
        DataError: the data is wrong, too short for a fixed batch, or differs between two passes.
        StatisticsError: `start` is of another plan.
    """
    size = samples_per_step(source, batch_size, steps)
    limit = None if steps is None else steps * size
    census = source.census(limit)
    part = census if part is None else part
    total = sum(part.values())
    start = no_progress(plan) if start is None else start
    _check_start(start, plan, part)
    check_full_batch(total, source)
    warm_up()
    saved_at = time.monotonic()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        recorder = _Recorder(runner, plan, start, pool, threads, recording)
        for batch in batches(_uncounted(source, limit, census, part, start), source):
            values = None if on_doubt is None else check_repeats(runner, joined(batch), pool, on_doubt)
            on_doubt = None
            finished = recorder.submit(batch, values)
            del values  # which would keep it until the next batch
            end = stop()
            if checkpoint is not None and (end is not None or time.monotonic() - saved_at >= checkpoint_every):
                checkpoint(recorder.progress(keep))
                saved_at = time.monotonic()
                finished = True
            if finished and on_progress is not None:
                on_progress(recorder.samples, total)
            if end is not None:
                raise end
        progress = recorder.progress(keep)
    if on_progress is not None and progress.inferences:
        on_progress(progress.samples, total)
    return progress


def _check_start(start: Progress[TensorStatistics], plan: CollectionPlan, part: Mapping[str, int]) -> None:
    planned = {name: statistics.atom_values for name, statistics in start.statistics.items()}
    wanted = plan.recorded
    if planned != dict(wanted):
        odd = sorted(name for name in planned.keys() | wanted.keys() if planned.get(name) != wanted.get(name))
        raise StatisticsError("a calibration of another plan cannot be resumed", ", ".join(odd), "calibrate anew")
    surplus = Counter(start.counted) - Counter(part)
    if surplus:
        raise _does_not_repeat(f"{surplus.total()} samples that were counted are no longer there")


def _does_not_repeat(detail: str) -> DataError:
    return DataError("data differs between two passes", detail, "switch off shuffling and random augmentation")


def _uncounted(
    source: DataSource,
    limit: int | None,
    census: Mapping[str, int],
    part: Mapping[str, int],
    start: Progress[TensorStatistics],
) -> Iterator[Sample]:
    """The samples left to count; refuses data that is not, as a multiset, what the census found."""
    seen: Counter[str] = Counter()
    for sample in source.samples(limit):
        seen[sample.hash] += 1
        if seen[sample.hash] > census.get(sample.hash, 0):
            raise _does_not_repeat(f"sample {seen.total() - 1} of {source.name} was not there before")
        if sample.hash in part and seen[sample.hash] > start.counted.get(sample.hash, 0):
            yield sample
    missing = sum(census.values()) - seen.total()
    if missing:
        raise _does_not_repeat(f"{missing} samples of {source.name} are missing in the second pass")


def check_repeats(
    runner: Runner, inputs: Arrays, pool: ThreadPoolExecutor, on_doubt: Callable[[str], None]
) -> Mapping[str, Any]:
    """Run one batch twice, side by side in two threads and in memory of their own; tell if a single bit differs.

    Returns:
        The activations of one of both.
    """
    beside = pool.submit(runner.run, inputs)
    values, again = runner.run(inputs), beside.result()
    odd = sorted(name for name, one in values.items() if not _same_bits(one, again[name]))
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        on_doubt(
            f"the model does not repeat bit for bit on the same sample ({odd[0]}{more}): "
            "these statistics will differ a little each time; is there a random op?"
        )
    return values


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    one, other = (np.ascontiguousarray(on_host(array)).reshape(-1) for array in (a, b))
    bits = np.dtype(f"u{one.itemsize}") if one.itemsize in (1, 2, 4, 8) else np.dtype(np.uint8)
    return a.shape == b.shape and np.array_equal(one.view(bits), other.view(bits))


class _Recorder:
    """Runs batches in several threads and counts what they produce into one accumulator per tensor.

    An inference and the counting of its activations are one job; at most one job more than there are threads
    is under way, so that memory stays bounded.
    """

    def __init__(
        self,
        runner: Runner,
        plan: CollectionPlan,
        start: Progress[TensorStatistics],
        pool: ThreadPoolExecutor,
        threads: int,
        recording: Recording | None,
    ) -> None:
        self._runner = runner
        self._pool = pool
        self._threads = threads
        self._together = None if recording is None else recording(plan, start.statistics)
        self._lock = Lock()
        apart = plan.exposed if self._together is None else ()
        self._recorders = {name: SourceRecorder(plan, name, start.statistics) for name in apart}
        self._locks = {name: Lock() for name in apart}
        self._scratches = [empty_scratch() for _ in range(threads)]
        self._under_way: deque[tuple[list[Sample], Future[None]]] = deque()
        self._submitted = 0
        self._counted = Counter(start.counted)
        self._inferences = 0
        self.samples = start.samples

    def submit(self, batch: list[Sample], values: Mapping[str, Any] | None = None) -> bool:
        """Start a batch; wait for the oldest one if there are too many. Whether one was finished.

        Args:
            values: its activations, if it was run already.
        """
        names = list(self._recorders)
        # Jobs that run at the same time begin at different tensors, so that they seldom wait for each other.
        first = len(names) * (self._submitted % self._threads) // self._threads
        self._submitted += 1
        self._under_way.append((batch, self._pool.submit(self._count, batch, names[first:] + names[:first], values)))
        if len(self._under_way) <= self._threads:
            return False
        self._finish()
        return True

    def _count(self, batch: Sequence[Sample], names: Sequence[str], values: Mapping[str, Any] | None) -> None:
        values = self._runner.run(joined(batch)) if values is None else values
        hashes = [sample.hash for sample in batch]
        if self._together is not None:
            with self._lock:
                self._together.add(values, hashes)
            return
        scratch = self._scratches.pop()
        # What another job is at comes last, so that jobs do not follow each other step by step.
        busy = [name for name in names if not self._add(name, values[name], hashes, scratch, wait=False)]
        for name in busy:
            self._add(name, values[name], hashes, scratch, wait=True)
        self._scratches.append(scratch)

    def _add(self, name: str, values: Any, hashes: list[str], scratch: NDArray[np.uint32], *, wait: bool) -> bool:
        """Count an activation, unless another job is at that tensor and this one does not wait; whether it did."""
        if not self._locks[name].acquire(blocking=wait):
            return False
        try:
            self._recorders[name].add(values, hashes, scratch)
        finally:
            self._locks[name].release()
        return True

    def _finish(self) -> None:
        batch, job = self._under_way.popleft()
        job.result()
        self._counted.update(sample.hash for sample in batch)
        self._inferences += len(batch)
        self.samples += len(batch)

    def progress(self, keep: Callable[[TensorStatistics], Kept]) -> Progress[Kept]:
        """Wait for all that is under way; then the state, as a value."""
        while self._under_way:
            self._finish()
        recorders = self._recorders.values() if self._together is None else (self._together,)

        def kept(recorder: SourceRecorder | Recorder) -> list[tuple[str, Kept]]:
            return [(name, keep(one)) for name, one in recorder.snapshot().items()]

        pairs = [pair for several in self._pool.map(kept, recorders) for pair in several]
        found = dict(sorted(pairs, key=lambda pair: pair[0]))
        return Progress(MappingProxyType(found), MappingProxyType(dict(self._counted)), self._inferences)
