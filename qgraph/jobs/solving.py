"""Runs without any inference: from a model's structure alone, or from stored statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qgraph.calib import plan as planning
from qgraph.calib.codec import decode
from qgraph.calib.observers.catalog import entry_of, needed_statistics, resolve_parameters
from qgraph.calib.own import Statistic, complete_own
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.model import Constraints
from qgraph.errors import StatisticsError, UsageError
from qgraph.formats.tflite import read_tflite
from qgraph.ir.elements import Structure
from qgraph.jobs.devices import check_device
from qgraph.jobs.question import Posed, Question, pose, settings_of
from qgraph.jobs.recording import channels_for
from qgraph.objects import many_objects
from qgraph.solve.run import RunData, RunSettings
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database
from qgraph.store.evidence import ModelEvidence, load_evidence
from qgraph.store.records import CalibrationRecord, CalibrationStatus
from qgraph.tqc import Scheme

if TYPE_CHECKING:
    from qgraph.jobs.sources import Source  # loads onnx
    from qgraph.solve.parameters import GroupParameters  # loads torch


@many_objects()
def analyze(database: Callable[[], Database], model: Source, question: Question, *, name: str | None = None) -> str:
    """Solve the groups of a model, without data: a run without scales. Returns its id.

    Args:
        model: an ONNX or TensorFlow Lite file, or an exported torch module.
        database: opens it; called only once nothing more can be refused.
    """
    from qgraph.jobs.sources import imported as load
    from qgraph.jobs.sources import kept  # both load onnx

    if isinstance(model, Path) and model.suffix.lower() == ".tflite":
        structure = read_tflite(model).structure
    else:
        structure = load(model).structure
    posed = pose(structure, question)
    from qgraph.solve.solver import solve as solve_run  # loads torch, so only once nothing of the question is refused

    data = solve_run(structure, posed.constraints, posed.grouping, {}, (), (), posed.settings)
    opened = database()
    path = model if isinstance(model, Path) else kept(model, model.model.imported, opened).path
    with opened.transaction() as connection:
        stored = models.save_model(connection, structure, str(path.resolve()))
        return runs.save_run(connection, stored, None, data, name=name)


@many_objects()
def solve(
    database: Database,
    reference: str,
    question: Question,
    *,
    name: str | None = None,
    allow_partial: bool = False,
    device: str = "cpu",
) -> str:
    """Solve another run from stored statistics: no inference, no model file. Returns its id.

    Args:
        reference: a calibration (``c1``), or a run of it.
        device: where observers compute, ``cpu`` or ``cuda``.

    Raises:
        StatisticsError: the calibration is partial, or lacks what the target needs.
    """
    check_device(device)
    with database.reading() as connection:
        record = _calibration(connection, reference)
        if record.status == CalibrationStatus.PARTIAL and not allow_partial:
            cure = "run the same qgraph calibrate to finish it, or add --allow-partial"
            raise StatisticsError("the calibration is partial", f"{record.id} ({record.samples} samples)", cure)
        if record.identity.shard is not None and not allow_partial:
            cure = "merge all shards with qgraph merge and solve what comes of it, or add --allow-partial"
            raise StatisticsError("a shard of a calibration", f"{record.id} ({record.identity.shard})", cure)
        stored = runs.find_run(connection, record.model, record.id, settings_of(question))
        if stored is not None and name in (None, stored.name):
            return stored.id
    data = answer(database, record, question, device=device)
    with database.transaction() as connection:
        return runs.save_run(connection, record.model, record.id, data, name=name)


def answer(
    database: Database,
    record: CalibrationRecord,
    question: Question,
    *,
    device: str = "cpu",
    given: Mapping[str, GroupParameters] = MappingProxyType({}),
    with_noise: bool = True,
) -> RunData:
    """Solve a run from a calibration as far as it got, without storing it.

    Args:
        given: parameters of groups that are known already; see `qgraph.solve.solver.solve`.
        with_noise: False leaves out what nobody asks for who only wants scales; see there.

    Raises:
        StatisticsError: the calibration lacks what the target needs.
    """
    with database.reading() as connection:
        structure = models.load_structure(connection, record.model)
        evidence = load_evidence(connection, record.model)
        blobs = calibrations.load_statistics(connection, record.id)
    collected = {tensor: decode(blob) for tensor, blob in blobs.items()}
    constants = {tensor: decode(blob) for tensor, blob in evidence.constants.items()}
    posed = pose(structure, question, partial(_noise, structure, collected, constants, device))
    from qgraph.solve.solver import solve as solve_run  # loads torch, so only once nothing of the question is refused

    _check_evidence(posed, evidence, question.target)
    plan = planning.plan_collection(structure)
    statistics = planning.complete(plan, collected)
    own = {one.name for one in _own(record, posed.settings)}
    if own:
        states = complete_own(plan, collected, own)
        statistics = {tensor: replace(one, own=states[tensor]) for tensor, one in statistics.items()}
    return solve_run(
        structure,
        posed.constraints,
        posed.grouping,
        {**constants, **statistics},
        evidence.weights,
        evidence.biases,
        posed.settings,
        device=device,
        channels=channels_for(posed.constraints.slots.values(), statistics),
        given=given,
        with_noise=with_noise,
    )


def _noise(
    structure: Structure,
    collected: Mapping[str, TensorStatistics],
    constants: Mapping[str, TensorStatistics],
    device: str,
    constraints: Constraints,
) -> Mapping[str, float]:
    """What rounding adds to the tensor of each slot, with the scale of the least error whatever observer is asked."""
    from qgraph.solve.activations import Calibration  # loads torch, so only where constraints contradict each other
    from qgraph.solve.prices import noise_alone

    statistics = {**constants, **planning.complete(planning.plan_collection(structure), collected)}
    producers = {name: op for op in structure.ops for name in op.outputs if name is not None}
    channels = channels_for(constraints.slots.values(), statistics)
    observer = entry_of("mse")
    parameters = resolve_parameters(observer, {})
    calibration = Calibration(statistics, producers, observer.name, parameters, device, channels)
    return noise_alone(constraints, calibration)


def _calibration(connection: Any, reference: str) -> CalibrationRecord:
    """The calibration that a reference means: itself, or that of a run."""
    if reference.startswith("c") and reference[1:].isdigit():
        return calibrations.load_calibration(connection, reference)
    run = runs.resolve_run(connection, reference)
    if run.calibration is None:
        raise UsageError("the run has no calibration", run.id, "calibrate the model first")
    return calibrations.load_calibration(connection, run.calibration)


def _own(record: CalibrationRecord, settings: RunSettings) -> tuple[Statistic, ...]:
    """The statistics that the asked observer brings; they must have been collected."""
    if settings.observer is None:
        return ()
    needed = needed_statistics(settings.observer, settings.observer_parameters)
    known = json.loads(record.identity.capability or "{}").get("own", {})
    for one in needed:
        if known.get(one.name) != one.version:
            cure = "run the same qgraph calibrate where the observer is known: it collects it in one pass"
            what = f"the calibration lacks a statistic that observer {settings.observer} brings"
            raise StatisticsError(what, f"{one.name}, version {one.version}, in {record.id}", cure)
    return needed


def _check_evidence(posed: Posed, evidence: ModelEvidence, target: str) -> None:
    """Say what a calibration lacks for a target, as it may for a user's pack with a weight scheme of its own."""
    method = posed.settings.weights
    known: set[tuple[str, Scheme | None]] = {(w.tensor, w.scheme) for w in evidence.weights if w.method == method}
    for plan in posed.constraints.slots.values():
        if plan.role == "weight" and plan.scheme is not None and (plan.tensor, plan.scheme) not in known:
            raise StatisticsError(
                f"no scales of this scheme are stored for a weight ({plan.scheme})",
                plan.tensor,
                f"run the same qgraph calibrate with --target {target}: it adds only what is missing",
            )
