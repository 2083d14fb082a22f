"""The data comes in, or what is left of it: a model's statistics come into the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qgraph.calib import plan as planning
from qgraph.calib.batches import batches, joined, samples_per_step
from qgraph.calib.codec import decode
from qgraph.calib.data import open_data
from qgraph.calib.images import ImageOptions
from qgraph.calib.shards import Shard, part_of
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import NotFoundError, UsageError
from qgraph.jobs.counting import Work, count
from qgraph.jobs.question import Question, pose, settings_of
from qgraph.jobs.serving import serve, store_model
from qgraph.jobs.sources import Source, check_device, fed, kept, runner_for
from qgraph.jobs.sources import imported as load
from qgraph.store import calibrations, runs
from qgraph.store.database import Database
from qgraph.store.records import CalibrationIdentity

Report = Callable[[str], None]
Ticker = Callable[[int, int], None]

CHECKPOINT_SECONDS = 5.0
"""How much work a kill may cost, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a call of `calibrate` did.

    Attributes:
        status: ``complete`` (run now) or ``reused`` (nothing was run).
        resumed_from: samples that were counted before this call.
        inferences: samples that this call ran, in all of its passes.
    """

    calibration: str
    status: str
    samples: int
    resumed_from: int
    inferences: int


def calibrate(
    database: Callable[[], Database],
    model: Source,
    data: object,
    *,
    device: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    collate: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
    question: Question | None = None,
    name: str | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    max_memory: int | None = None,
    shard: Shard | None = None,
    libraries: Sequence[Path] = (),
    known: Callable[[], Database | None] = lambda: None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Calibrated:
    """Run a model once over calibration data, or finish or find what an earlier call began.

    Args:
        database: opens it; called only once nothing more can be refused.
        model: an ONNX file, or an exported torch module; see `qgraph.jobs.sources`.
        data: see `qgraph.calib.data.open_data`.
        device: ``cpu`` or ``cuda``, where the model runs.
        steps: batches to use; None for all.
        images: how image files are made ready.
        question: what will be solved afterwards, so that it can be refused before anything runs, and so that a rule
            pack of the user's own finds the weight scales that it needs.
        name: what its run will be called; a name that it cannot have is refused before anything runs.
        max_memory: bytes that the process should stay below, if need be with several passes over the data.
        shard: count this part of the data only; see `qgraph.jobs.merging`.
        libraries: with the model's custom ops; see `qgraph.calib.op_libraries`.
        known: opens the database if there is one already, and makes none.
        report: called with one line for each thing that the user should know.
        tick: called with the samples counted and the number of all.
    """
    check_device(device)
    imported = load(model)
    if question is not None:
        pose(imported.structure, question)
    serving = serve(imported.structure, known())
    plan = serving.plan(imported.structure)
    tensors = {tensor.name: tensor for tensor in imported.structure.tensors}
    inputs = [tensors[name] for name in imported.structure.inputs]
    data, collate = fed(model, data, collate)
    with closing(open_data(data, inputs, collate, images)) as source, ThreadPoolExecutor(1) as aside:
        # While the data is read once for its identity, the other core gets the model ready.
        made = aside.submit(runner_for, model, imported, plan, device, libraries)
        size = samples_per_step(source, batch_size, steps)
        limit = None if steps is None else steps * size
        census = source.census(limit)
        part = None if shard is None else part_of(census, shard)
        for line in source.notes():
            report(line)
        runner = made.result()
        identity = CalibrationIdentity(
            model=imported.structure.fingerprint,
            data=source.digest(limit),
            preprocessing=source.preparation,
            steps=steps,
            batch_size=size,
            runner=json.dumps(dict(runner.environment), sort_keys=True),
            capability=json.dumps(planning.capabilities(plan), sort_keys=True),
            shard=None if shard is None else str(shard),
        )
        opened = database()
        if question is not None and name is not None:
            _check_name(opened, name, question, identity)
        store_model(opened, kept(model, imported, opened), serving, question)
        first = joined(next(batches(source.samples(source.fixed_batch or 1), source)))
        shapes = {name: tuple(array.shape) for name, array in first.items()}
        with calibrations.begin(opened, identity, shapes) as claim:
            for sibling in claim.siblings:
                differing = " and ".join(sibling.differing)
                report(f"{sibling.calibration} is unfinished ({sibling.samples} samples) and differs in {differing}")
            found = claim.calibration
            if claim.outcome == "complete":
                return Calibrated(found.id, "reused", found.samples, found.samples, 0)
            work = Work(
                runner, source, plan, steps, batch_size, part, max_memory, checkpoint_every, report, tick, device
            )
            record, inferences = count(opened, claim, work, limit)
            return Calibrated(record.id, "complete", record.samples, found.samples, inferences)


def _check_name(database: Database, name: str, question: Question, identity: CalibrationIdentity) -> None:
    """Refuse a name that is another run's, as storing the run would after everything has been run."""
    with database.reading() as connection:
        try:
            taken = runs.resolve_run(connection, name)
        except NotFoundError:
            return
        calibration = calibrations.find_calibration(connection, identity)
    same = calibration is not None and taken.calibration == calibration.id and taken.settings == settings_of(question)
    if not same:
        raise UsageError("the name is already another run's", f"{name} is {taken.id}", "choose another --name")


def load_statistics(database: Database, calibration: str) -> Mapping[str, TensorStatistics]:
    """The collected statistics of a calibration, by tensor."""
    with database.reading() as connection:
        blobs = calibrations.load_statistics(connection, calibration)
    return MappingProxyType({tensor: decode(blob) for tensor, blob in blobs.items()})
