"""One pass over the data, or what is left of it: a model's statistics come into the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qgraph.calib import plan as planning
from qgraph.calib.batches import batches, joined, samples_per_step
from qgraph.calib.codec import decode, encode
from qgraph.calib.collect import Progress, collect
from qgraph.calib.data import DataSource, open_data
from qgraph.calib.images import ImageOptions
from qgraph.calib.onnx_runner import OnnxRunner
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.pack import load_pack, pack_names
from qgraph.constraints.rules import constrain
from qgraph.errors import NotFoundError, UsageError
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.jobs.evidence import Evidence, add_evidence
from qgraph.jobs.question import Question, pose, settings_of
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database
from qgraph.store.evidence import load_evidence, save_evidence
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
        inferences: samples that this call ran.
    """

    calibration: str
    status: str
    samples: int
    resumed_from: int
    inferences: int


def calibrate(
    database: Callable[[], Database],
    model: Path,
    data: object,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    collate: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
    question: Question | None = None,
    name: str | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Calibrated:
    """Run a model once over calibration data, or finish or find what an earlier call began.

    Args:
        database: opens it; called only once nothing more can be refused.
        data: see `qgraph.calib.data.open_data`.
        steps: batches to use; None for all.
        images: how image files are made ready.
        question: what will be solved afterwards, so that it can be refused before anything runs, and so that a rule
            pack of the user's own finds the weight scales that it needs.
        name: what its run will be called; a name that it cannot have is refused before anything runs.
        report: called with one line for each thing that the user should know.
        tick: called with the samples counted and the number of all.
    """
    imported = load_model(model)
    if question is not None:
        pose(imported.structure, question)
    plan = planning.plan_collection(imported.structure)
    tensors = {tensor.name: tensor for tensor in imported.structure.tensors}
    inputs = [tensors[name] for name in imported.structure.inputs]
    with closing(open_data(data, inputs, collate, images)) as source:
        size = samples_per_step(source, batch_size, steps)
        limit = None if steps is None else steps * size
        source.census(limit)
        for line in source.notes():
            report(line)
        runner = OnnxRunner(imported.proto, plan.tensors, folder=imported.folder)
        identity = CalibrationIdentity(
            model=imported.structure.fingerprint,
            data=source.digest(limit),
            preprocessing=source.preparation,
            steps=steps,
            batch_size=size,
            runner=json.dumps(dict(runner.environment), sort_keys=True),
            capability=json.dumps(planning.capabilities(plan), sort_keys=True),
        )
        opened = database()
        if question is not None and name is not None:
            _check_name(opened, name, question, identity)
        _store_model(opened, imported, question)
        first = joined(next(batches(source.samples(source.fixed_batch or 1), source)))
        shapes = {name: tuple(array.shape) for name, array in first.items()}
        with calibrations.begin(opened, identity, shapes) as claim:
            for sibling in claim.siblings:
                differing = " and ".join(sibling.differing)
                report(f"{sibling.calibration} is unfinished ({sibling.samples} samples) and differs in {differing}")
            return _count(opened, claim, runner, source, plan, steps, batch_size, checkpoint_every, tick)


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


def _count(
    database: Database,
    claim: calibrations.Claim,
    runner: OnnxRunner,
    source: DataSource,
    plan: planning.CollectionPlan,
    steps: int | None,
    batch_size: int | None,
    checkpoint_every: float,
    tick: Ticker | None,
) -> Calibrated:
    found = claim.calibration
    if claim.outcome == "complete":
        return Calibrated(found.id, "reused", found.samples, found.samples, 0)
    start = None
    if claim.counted:
        with database.reading() as connection:
            blobs = calibrations.load_statistics(connection, found.id)
        start = Progress({tensor: decode(blob) for tensor, blob in blobs.items()}, claim.counted)

    def written(progress: Progress) -> tuple[dict[str, bytes], Mapping[str, int], dict[str, int]]:
        blobs = {tensor: encode(statistics) for tensor, statistics in progress.statistics.items()}
        totals = {"samples": progress.samples, "inferences": found.inferences + progress.inferences}
        return blobs, progress.counted, totals

    def checkpoint(progress: Progress) -> None:
        blobs, counted, totals = written(progress)
        claim.checkpoint(blobs, counted, **totals)

    done = collect(
        runner,
        source,
        plan,
        steps=steps,
        batch_size=batch_size,
        start=start,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        on_progress=tick,
    )
    blobs, counted, totals = written(done)
    record = claim.complete(blobs, counted, **totals)
    return Calibrated(record.id, "complete", record.samples, found.samples, done.inferences)


def _store_model(database: Database, imported: ImportedModel, question: Question | None) -> None:
    """Store a model, and what all shipped targets and the asked one need to know of its own numbers.

    What is stored already is kept, so that a target which came later costs only what it adds.
    """
    graph = Graph(imported.structure)
    names = [*pack_names(), *([] if question is None else [question.target])]
    plans = {plan for name in names for plan in constrain(graph, load_pack(name)).slots.values()}
    with database.transaction() as connection:
        model = models.save_model(connection, imported.structure, str(imported.path.resolve()))
        stored = load_evidence(connection, model)
    constants = {tensor: decode(blob) for tensor, blob in stored.constants.items()}
    known = Evidence(stored.weights, stored.biases, constants)
    evidence = add_evidence(known, plans, imported.constant)
    if evidence is not known:
        blobs = {tensor: encode(statistics) for tensor, statistics in evidence.constants.items()}
        with database.transaction() as connection:
            save_evidence(connection, model, evidence.weights, evidence.biases, blobs)


def load_statistics(database: Database, calibration: str) -> Mapping[str, TensorStatistics]:
    """The collected statistics of a calibration, by tensor."""
    with database.reading() as connection:
        blobs = calibrations.load_statistics(connection, calibration)
    return MappingProxyType({tensor: decode(blob) for tensor, blob in blobs.items()})
