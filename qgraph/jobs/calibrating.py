"""The data comes in, or what is left of it: a model's statistics come into the database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qgraph.calib import plan as planning
from qgraph.calib.codec import decode
from qgraph.calib.data.batches import batches, joined, samples_per_step
from qgraph.calib.data.images import ImageOptions
from qgraph.calib.data.samples import digest_of
from qgraph.calib.data.shards import Shard, part_of
from qgraph.calib.data.source import DataSource, open_data
from qgraph.calib.observers.registry import own_statistics
from qgraph.calib.own import Statistic, capability
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import NotFoundError, UsageError
from qgraph.jobs.counting import Work, count
from qgraph.jobs.devices import check_device
from qgraph.jobs.merging import Part, check_alike, load_part
from qgraph.jobs.question import Question, pose, settings_of
from qgraph.jobs.serving import serve, store_model
from qgraph.jobs.sources import Source, fed, kept, runner_for
from qgraph.jobs.sources import imported as load
from qgraph.store import calibrations, runs
from qgraph.store.database import Database
from qgraph.store.records import CalibrationIdentity, CalibrationRecord, CalibrationStatus, SampleOrigin

Report = Callable[[str], None]
Ticker = Callable[[int, int], None]

CHECKPOINT_SECONDS = 5.0
"""How much work a kill may cost, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a call of `calibrate` did.

    Attributes:
        status: ``complete`` (run now) or ``reused`` (nothing was run).
        resumed_from: samples that were counted before this call, those of the calibration that it extends included.
        inferences: samples that this call ran, in all of its passes.
    """

    calibration: str
    status: str
    samples: int
    resumed_from: int
    inferences: int

    @classmethod
    def reused(cls, found: CalibrationRecord) -> Calibrated:
        """What is complete already, and was not run."""
        return cls(found.id, "reused", found.samples, found.samples, 0)


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
    extend: str | None = None,
    lean: bool = False,
    libraries: Sequence[Path] = (),
    known: Callable[[], Database | None] = lambda: None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Calibrated:
    """Run a model once over calibration data, or finish or find what an earlier call began.

    Args:
        database: opens it; called only once nothing more can be refused.
        model: an ONNX file, or an exported torch module; see `qgraph.jobs.sources`.
        data: see `qgraph.calib.data.source.open_data`.
        device: ``cpu`` or ``cuda``, where the model runs.
        steps: batches to use; None for all.
        images: how image files are made ready.
        question: what will be solved afterwards, so that it can be refused before anything runs, and so that a rule
            pack of the user's own finds the weight scales that it needs.
        name: what its run will be called; a name that it cannot have is refused before anything runs.
        max_memory: bytes that the process should stay below, if need be with several passes over the data.
        shard: count this part of the data only; see `qgraph.jobs.merging`.
        extend: a complete calibration, as ``c1``; one of its samples and the data's together is made, as if all of
            them had been given at once. It stays as it is. A sample that it counted is not counted again.
        lean: collect only what the asked target needs, or one that quantizes no activation per channel; a complete
            calibration that collected everything serves as well.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.
        known: opens the database if there is one already, and makes none.
        report: called with one line for each thing that the user should know.
        tick: called with the samples counted and the number of all.
    """
    check_device(device)
    imported = load(model)
    posed = None if question is None else pose(imported.structure, question)
    own = own_statistics()
    base = None if extend is None else _base(known(), extend, imported.structure.fingerprint, shard)
    serving = serve(imported.structure, known())
    asked = () if posed is None else posed.constraints.slots.values()
    plan = serving.plan(imported.structure, asked, lean=lean)
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
            capability=_capability(plan, own),
            shard=None if shard is None else str(shard),
        )
        origins = _origins(source, limit)
        if base is not None:
            part = union(base.counted, census)
            identity = _identity_of(part, base, identity)
            origins |= base.origins
        opened = database()
        if question is not None and name is not None:
            _check_name(opened, name, question, identity)
        if lean and base is None:
            richer = replace(identity, capability=_capability(serving.plan(imported.structure, asked), own))
            complete = _complete(opened, richer)
            if complete is not None:
                return Calibrated.reused(complete)
        store_model(opened, kept(model, imported, opened), serving, question)
        with calibrations.begin(opened, identity, _shapes_fed(source), origins) as claim:
            _tell_unfinished(claim, report)
            found = claim.calibration
            if claim.outcome == "complete":
                return Calibrated.reused(found)
            work = Work(
                *(runner, source, plan, steps, batch_size, part, max_memory, checkpoint_every, report, tick, device),
                base=None if base is None else base.record.id,
                own=own,
            )
            record, inferences = count(opened, claim, work, limit)
            before = max(found.samples, 0 if base is None else base.record.samples)
            return Calibrated(record.id, "complete", record.samples, before, inferences)


def _capability(plan: CollectionPlan, own: Sequence[Statistic]) -> str:
    return json.dumps({**planning.capabilities(plan), **capability(own)}, sort_keys=True)


def union(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Both multisets of samples as one: each sample as often as where it occurs most often.

    >>> union({"04": 2, "1c": 1}, {"04": 1, "5e": 1})
    {'04': 2, '1c': 1, '5e': 1}
    """
    return dict(sorted((Counter(a) | Counter(b)).items()))


def _identity_of(part: Mapping[str, int], base: Part, added: CalibrationIdentity) -> CalibrationIdentity:
    """The identity of a calibration of all of `part`: the base's own if it has them all.

    Args:
        added: that of a calibration of the new data alone.
    """
    check_alike(base.record.identity, added, f"{base.written} and the new data")
    if part == base.counted:
        return base.record.identity
    return replace(added, data=digest_of(part), steps=None)


def _origins(source: DataSource, limit: int | None) -> dict[str, SampleOrigin]:
    """Where each sample was found, by hash."""
    places = source.places(limit).items()
    return {sample: SampleOrigin(index, where if source.of_files else None) for sample, (index, where) in places}


def _shapes_fed(source: DataSource) -> dict[str, tuple[int, ...]]:
    """The shape in which each input is fed first, by name."""
    first = joined(next(batches(source.samples(source.fixed_batch or 1), source)))
    return {name: tuple(array.shape) for name, array in first.items()}


def _tell_unfinished(claim: calibrations.Claim, report: Report) -> None:
    """A line for each calibration of this model that was interrupted and is not this one."""
    for sibling in claim.siblings:
        differing = " and ".join(sibling.differing)
        report(f"{sibling.calibration} is unfinished ({sibling.samples} samples) and differs in {differing}")


def _complete(database: Database, identity: CalibrationIdentity) -> CalibrationRecord | None:
    """The stored calibration of an identity, if it is complete."""
    with database.reading() as connection:
        found = calibrations.find_calibration(connection, identity)
    return found if found is not None and found.status == CalibrationStatus.COMPLETE else None


def _base(database: Database | None, reference: str, model: str, shard: Shard | None) -> Part:
    """The calibration that is to be extended, if it can be; the rest is compared once the data was looked at."""
    if shard is not None:
        raise UsageError("a shard that extends a calibration", str(shard), "leave out --shard, or merge all shards")
    if database is None:
        raise NotFoundError("unknown calibration", reference, "there is no database yet; calibrate first")
    part = load_part(database, reference, reference)
    if part.record.identity.shard is not None:
        told = f"{reference} is {part.record.identity.shard}"
        raise UsageError("a shard cannot be extended", told, "merge all shards with qgraph merge, extend the result")
    check_alike(part.record.identity, replace(part.record.identity, model=model), f"{reference} and the new data")
    return part


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
