"""A claimed calibration is counted, in one pass over the data or in several, from wherever it stopped.

What is stored tells how far it is: the samples that were counted belong to the activations of the pass under way, and
those of finished passes are listed beside them::

    done      a b         current  c d         not begun   e f
    ▇▇▇▇▇▇▇▇▇▇            ▇▇▇▇▇                ·
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from qgraph.calib.codec import decode, encode
from qgraph.calib.collect import THREADS, Progress, Recording, Runner, collect
from qgraph.calib.data.source import DataSource
from qgraph.calib.forecast import try_out
from qgraph.calib.own import Statistic
from qgraph.calib.own_recorder import recording_own
from qgraph.calib.passes import Footprint, schedule
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.statistics import TensorStatistics
from qgraph.jobs.interrupting import Asked, stopping_gently
from qgraph.store import calibrations
from qgraph.store.database import Database
from qgraph.store.records import CalibrationRecord, Passes


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be counted, and how.

    Attributes:
        part: the samples to count, by hash; None for all of the source.
        max_memory: bytes; None for no limit.
        report: called with one line for each thing that the user should know.
        tick: called with the samples counted and the number of all.
        device: where the runner leaves the activations.
        base: a complete calibration that every pass begins with; its samples are in `part`.
        own: users' statistics that are collected, too.
    """

    runner: Runner
    source: DataSource
    plan: CollectionPlan
    steps: int | None
    batch_size: int | None
    part: Mapping[str, int] | None
    max_memory: int | None
    checkpoint_every: float
    report: Callable[[str], None]
    tick: Callable[[int, int], None] | None
    device: str = "cpu"
    base: str | None = None
    own: tuple[Statistic, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass: the activations that it counts, those that were finished before it, and where it starts."""

    sources: tuple[str, ...]
    done: tuple[str, ...]
    start: Progress[TensorStatistics] | None

    def passes(self, work: Work) -> Passes | None:
        """As it is stored; None if it is the only one."""
        alone = set(self.sources) == set(work.plan.exposed)
        return None if alone else Passes(self.done, self.sources)


def count(
    database: Database, claim: calibrations.Claim, work: Work, limit: int | None
) -> tuple[CalibrationRecord, int]:
    """Count all that is left, and complete the calibration.

    Args:
        limit: samples of the source that are used; None for all.

    Returns:
        The complete calibration, and how many samples were run.

    Raises:
        UsageError: the work does not fit into its memory.
        QgraphError: as `qgraph.calib.collect.collect`.
    """
    threads, todo = _plan_passes(database, claim, work, limit)
    inferences = 0
    for number, one in enumerate(todo):
        if len(todo) > 1:
            work.report(f"pass {number + 1} of {len(todo)}: {len(one.sources)} activations")
        ran = claim.calibration.inferences + inferences
        with stopping_gently() as stop:
            done = _run(claim, work, one, threads, ran, stop, doubt=number == 0)
        inferences += done.inferences
        ran = claim.calibration.inferences + inferences
        if number + 1 == len(todo):
            return claim.complete(done.statistics, done.counted, samples=done.samples, inferences=ran), inferences
        claim.begin_pass(
            done.statistics, inferences=ran, passes=Passes(todo[number + 1].done, todo[number + 1].sources)
        )
    raise AssertionError("a calibration has at least one pass")


def _plan_passes(
    database: Database, claim: calibrations.Claim, work: Work, limit: int | None
) -> tuple[int, list[_Pass]]:
    """How many inferences run at a time, and the passes that are left, the one that was interrupted first."""
    found = claim.calibration
    before = found.passes or Passes((), work.plan.exposed if claim.counted else ())
    begun = {*before.done, *(before.current if claim.counted else ())}
    left = tuple(name for name in work.plan.exposed if name not in begun)
    threads = THREADS
    groups: tuple[tuple[str, ...], ...] = (left,)
    if work.max_memory is not None:
        footprint = try_out(work.runner, work.source, work.plan, limit).footprint
        own = Footprint(footprint.fixed, footprint.activations, {name: footprint.counters[name] for name in left})
        chosen = schedule(own, THREADS, work.max_memory)
        threads, groups = chosen.threads, chosen.passes
    todo: list[_Pass] = []
    done = before.done
    if claim.counted:
        todo.append(_Pass(before.current, done, _stored(database, found.id, work.plan.only(before.current))))
        done = tuple(sorted({*done, *before.current}))
    for group in groups if left or not todo else ():
        start = None if work.base is None else _stored(database, work.base, work.plan.only(group))
        todo.append(_Pass(group, done, start))
        done = tuple(sorted({*done, *group}))
    return threads, todo


def _stored(database: Database, calibration: str, plan: CollectionPlan) -> Progress[TensorStatistics]:
    """What a calibration has counted of what a pass counts."""
    with database.reading() as connection:
        blobs = calibrations.load_statistics(connection, calibration, plan.recorded)
        counted = calibrations.load_counted(connection, calibration)
    return Progress({tensor: decode(blob) for tensor, blob in blobs.items()}, counted)


def _run(
    claim: calibrations.Claim, work: Work, one: _Pass, threads: int, ran: int, stop: Asked, *, doubt: bool
) -> Progress[bytes]:
    """One pass, or what is left of it, with its checkpoints."""

    def checkpoint(progress: Progress[bytes]) -> None:
        claim.checkpoint(
            progress.statistics,
            progress.counted,
            samples=progress.samples,
            inferences=ran + progress.inferences,
            passes=one.passes(work),
        )

    recording = _recording(work, first=doubt)
    if work.own:
        recording = recording_own(work.own, work.plan, recording)
    return collect(
        work.runner,
        work.source,
        work.plan.only(one.sources),
        keep=encode,
        steps=work.steps,
        batch_size=work.batch_size,
        part=work.part,
        start=one.start,
        checkpoint=checkpoint,
        checkpoint_every=work.checkpoint_every,
        on_progress=work.tick,
        on_doubt=work.report if doubt else None,
        threads=threads,
        recording=recording,
        stop=stop,
    )


def _recording(work: Work, *, first: bool) -> Recording | None:
    """What counts activations where they are; None for the CPU, which takes them from wherever they are."""
    if work.device == "cpu":
        return None
    if find_spec("triton") is None:
        if first:
            work.report("triton is not installed (pip install qgraph[gpu]): activations are counted on the CPU")
        return None
    from qgraph.calib.gpu.recorder import recording_on  # loads triton

    return recording_on(work.device)
