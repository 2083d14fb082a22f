"""Scales that were made elsewhere, as a run of the float model: it can be explained, checked, priced and diffed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qgraph.analysis.check import check
from qgraph.analysis.violation import Violation
from qgraph.calib import plan as planning
from qgraph.calib.codec import decode
from qgraph.calib.constants import constant_statistics
from qgraph.calib.evidence import WeightSolution
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, condition
from qgraph.calib.weights.scales import weight_noise_db
from qgraph.constraints.grouping import group_equals
from qgraph.constraints.model import Constraints, Group
from qgraph.constraints.pack import load_pack
from qgraph.errors import StatisticsError, UsageError
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.scale_table import loss
from qgraph.ir.elements import Structure
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.jobs.matching import Stated, at_slots, behind_fused, content_of, known_tensors, prescribed, read_table
from qgraph.jobs.question import IMPORTED, REFERENCE, Question, pose
from qgraph.jobs.recording import channels_for
from qgraph.objects import many_objects
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import Finding, RunData, RunSettings
from qgraph.solve.solver import solve
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database
from qgraph.store.evidence import load_evidence
from qgraph.tqc import QuantizationState, Scheme, TqcRecord


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file.

    Attributes:
        run: the id of the new run.
        format: of the file.
        tensors: how many tensors of the model have a scale of the file.
        notes: a line for each thing in the file or the model that found no counterpart.
        violations: what the target does not allow.
    """

    run: str
    format: str
    tensors: int
    notes: tuple[str, ...]
    violations: tuple[Violation, ...]

    def as_json(self) -> dict[str, object]:
        """As the command's JSON has it."""
        violations = [one.as_json() for one in self.violations]
        found = {"run": self.run, "format": self.format, "tensors": self.tensors}
        return {**found, "notes": list(self.notes), "violations": violations}


@dataclass(frozen=True, slots=True)
class _Statistics:
    """What a calibration knows of a model.

    Attributes:
        activations: by tensor.
        tensors: these and constants that are values.
        weights: by tensor, scheme and method.
    """

    activations: Mapping[str, TensorStatistics]
    tensors: Mapping[str, TensorStatistics]
    weights: Mapping[tuple[str, Scheme, str], WeightSolution]


NO_STATISTICS = _Statistics({}, {}, {})


@many_objects()
def import_run(
    database: Callable[[], Database],
    file: Path,
    model: Path,
    target: str,
    *,
    format: str | None = None,  # noqa: A002
    calibration: str | None = None,
    ignore_unknown: bool = False,
    name: str | None = None,
) -> Imported:
    """Store the scales in a file as a run.

    Args:
        database: opens it; called only once nothing more can be refused.
        file: of a format in `qgraph.formats.scale_files.FORMATS`, or a quantized ONNX model.
        model: the float model.
        format: None finds it out from the file.
        calibration: of the same model; its statistics price the scales, and its weights get scales where the file has
            none.
        ignore_unknown: leave out tensors that the model does not have, instead of refusing the file.

    Raises:
        ModelError: the file is damaged.
        StatisticsError: the file has scales per channel of an activation, and the calibration no statistics of those.
        UsageError: the calibration is of another model, or the name is none that a run can have.
        NotFoundError: no such format, target or calibration; or a tensor that the model does not have.
    """
    if name is not None:
        runs.check_name_is_usable(name)
    content = content_of(file)
    imported = load_model(model)
    table, found_format = read_table(file, content, format, imported.structure)
    posed = pose(imported.structure, Question(target))
    table, notes = known_tensors(table, imported, file, ignore_unknown=ignore_unknown)
    statistics = None if calibration is None else _statistics(database(), calibration, imported.structure)
    table = behind_fused(imported.structure, posed.constraints, table)
    constraints, stated = at_slots(imported.structure, posed, table)
    told = {"format": found_format, "file": file.name}
    settings = replace(
        posed.settings, observer=IMPORTED, observer_parameters=told, observer_digest=hashlib.sha256(content).hexdigest()
    )
    try:
        data, filled = _run(imported, constraints, stated, statistics, settings, file.name)
    except StatisticsError as error:
        cure = f"{error.cure}; or import without --calibration: nothing is priced then"
        raise StatisticsError(error.what, error.which, cure) from error
    if statistics is not None:
        data = replace(data, tqcs=tuple(_priced(one, imported, statistics) for one in data.tqcs))
    violations = check(_quantized(imported.structure, data), load_pack(target)).violations
    data = replace(
        data,
        findings=(*data.findings, *_findings(violations)),
        events=tuple(sorted((*data.events, *notes, *filled))),
    )
    opened = database()
    with opened.transaction() as connection:
        stored = models.save_model(connection, imported.structure, str(model.resolve()))
        run = runs.save_run(connection, stored, calibration, data, name=name)
    return Imported(run, found_format, len(table.tensors), (*notes, *filled), violations)


def _run(
    model: ImportedModel,
    constraints: Constraints,
    stated: Mapping[str, Stated],
    statistics: _Statistics | None,
    settings: RunSettings,
    file: str,
) -> tuple[RunData, list[str]]:
    """Solve what the file leaves open, and price all."""
    schemes = {slot: plan.scheme for slot, plan in constraints.slots.items() if plan.scheme is not None}
    known_here = {**{entry.slot: prescribed(entry, schemes) for entry in constraints.fixed}, **stated}
    parameters = {slot: known_here.get(slot, scheme) for slot, scheme in schemes.items()}
    grouping = group_equals(constraints, parameters)
    given: dict[str, GroupParameters] = {}
    solved: list[str] = []
    missing: list[str] = []
    for group in grouping.groups:
        own, tensor = stated.get(group.master), constraints.slots[group.master].tensor
        if own is not None and group.fixed is None:
            state = _state(group, constraints, statistics)
            given[group.id] = GroupParameters(state, own.scale, own.offset)
        elif group.fixed is None and group.derived is None:
            found = _left_open(group, constraints, statistics, file)
            (missing if found is not None and found.scale is None else solved).append(tensor)
            given |= {} if found is None else {group.id: found}
    known = statistics or NO_STATISTICS
    reference = replace(settings, observer=None if statistics is None else REFERENCE, observer_parameters={})
    channels = {} if statistics is None else _constant_channels(model, constraints)
    data = solve(
        model.structure,
        constraints,
        grouping,
        known.tensors,
        (),
        (),
        reference,
        channels={**channels_for(constraints.slots.values(), known.activations), **channels},
        given=MappingProxyType(given),
    )
    with_scale = {one.tensor for one in data.tqcs if one.scale is not None}
    notes = [
        *loss(f"without a scale in {file}, and so without one in the run", missing),
        *loss(f"constants without a scale in {file}, solved", with_scale.intersection(solved)),
    ]
    records = tuple(replace(one, reason=None) if _is_derived(one) else one for one in data.tqcs)
    return replace(data, settings=settings, tqcs=records), notes


def _constant_channels(
    model: ImportedModel, constraints: Constraints
) -> dict[tuple[str, int], tuple[TensorStatistics, ...]]:
    """Statistics of the channels of constants that a file quantizes per channel, as a bias that an Add has."""
    found: dict[tuple[str, int], tuple[TensorStatistics, ...]] = {}
    for plan in constraints.slots.values():
        if plan.role == "constant" and plan.scheme is not None and plan.scheme.axis is not None:
            values = np.moveaxis(model.constant(plan.tensor), plan.scheme.axis, 0)
            found[plan.tensor, plan.scheme.axis] = tuple(map(constant_statistics, values))
    return found


def _left_open(
    group: Group, constraints: Constraints, statistics: _Statistics | None, file: str
) -> GroupParameters | None:
    """What a group gets that has no scale in the file; None leaves it to the reference observer.

    What runs through the model gets none: whoever runs the file makes up something there, and coverage tells. Weights
    and other constants get theirs, since some formats never hold those.
    """
    plans = [constraints.slots[slot] for slot in group.slots]
    if statistics is not None:
        roles = {plan.role for plan in plans}
        solution = statistics.weights.get((plans[0].tensor, group.scheme, "minmax"))
        if roles == {"constant"}:
            return None
        if roles == {"weight"} and solution is not None:
            zero = (group.scheme.symmetric_offset,) * len(solution.scale)
            told = f"by minimum and maximum: {file} has no scale for it"
            return GroupParameters(QuantizationState.ACTIVATED, solution.scale, zero, told)
    return GroupParameters(QuantizationState.INITIAL, reason=f"{file} has no scale for it")


def _state(group: Group, constraints: Constraints, statistics: _Statistics | None) -> QuantizationState:
    """What the statistics say of a group that has scales: mostly nothing special."""
    plans = [constraints.slots[slot] for slot in group.slots]
    if statistics is None or any(plan.role == "weight" for plan in plans):
        return QuantizationState.ACTIVATED
    found = {condition(statistics.tensors.get(plan.tensor, EMPTY_STATISTICS)) for plan in plans}
    return (found.pop() if len(found) == 1 else None) or QuantizationState.ACTIVATED


def _priced(record: TqcRecord, model: ImportedModel, statistics: _Statistics) -> TqcRecord:
    """A record of a weight with its noise, which follows from its values."""
    scheme = record.scheme
    if record.role != "weight" or scheme is None or record.scale is None or not scheme.symmetric:
        return record
    values = model.constant(record.tensor)
    own = statistics.weights.get((record.tensor, scheme, REFERENCE))
    noise = weight_noise_db(record.tensor, values, scheme, record.scale)
    return replace(record, noise_db=noise, own_noise_db=None if own is None else own.noise_db)


def _is_derived(record: TqcRecord) -> bool:
    return record.role == "bias" and record.scale is not None


def _statistics(database: Database, reference: str, structure: Structure) -> _Statistics:
    with database.reading() as connection:
        record = calibrations.load_calibration(connection, reference)
        stored = models.load_structure(connection, record.model)
        if stored.fingerprint != structure.fingerprint:
            raise UsageError("the calibration is of another model", record.id, "name one of the --model that is given")
        evidence = load_evidence(connection, record.model)
        blobs = calibrations.load_statistics(connection, record.id)
    known = planning.complete(planning.plan_collection(structure), {name: decode(blob) for name, blob in blobs.items()})
    constants = {name: decode(blob) for name, blob in evidence.constants.items()}
    weights = {(one.tensor, one.scheme, one.method): one for one in evidence.weights}
    return _Statistics(known, {**constants, **known}, weights)


def _quantized(structure: Structure, data: RunData) -> QuantizedModel:
    """The run as `qgraph.analysis.check` takes models."""
    return QuantizedModel(structure, dict(_quantizations(data.tqcs)))


def _quantizations(records: Iterable[TqcRecord]) -> Iterable[tuple[str, tuple[Quantization, ...]]]:
    for one in records:
        scheme = one.scheme
        if scheme is not None and one.scale is not None and one.offset is not None:
            found = Quantization(scheme.dtype, one.scale, one.offset, scheme.axis, scheme.quant_min, scheme.quant_max)
            yield one.slot, (found,)


def _findings(violations: Iterable[Violation]) -> Iterable[Finding]:
    """What is to be stored of violations; those of ratios the solver has found already."""
    return (
        Finding(one.kind, one.rule, one.op, one.op_type, one.source, (), one.message)
        for one in violations
        if one.kind != "ratio"
    )
