"""From groups, statistics and weight scales to a solved run. Needs no model file.

::

    activations   pooled statistics ─ observer ─▶ scale, offset          (or what the target prescribes)
    weights       stored solution ─────────────▶ scales ─▶ raised where a bias would not fit
    biases        input scale × weight scale   ─▶ scales
    every slot    state, parameters, noise in the group, noise alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.observers.catalog import entry_of, resolve_parameters
from qgraph.calib.observers.observe import Observer
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.model import Constraints, Group, Grouping, SlotPlan
from qgraph.ir.elements import Structure
from qgraph.solve.activations import Calibration, order_remark, prescribed, remarks, solve_activations
from qgraph.solve.findings import ratio_findings, unlisted_findings, untyped_findings
from qgraph.solve.limits import limits_of
from qgraph.solve.noise import channel_requantize_price_db
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.solve.prices import overlap_where_it_gains
from qgraph.solve.run import AUTO_OVERLAP, Choice, RunData, RunSettings
from qgraph.solve.voices import Voices, listen
from qgraph.solve.weights import BiasTask, solve_biases, solve_weights
from qgraph.tqc import QuantizationState, TqcRecord

_NO_NOISE = TensorNoise()


@dataclass(frozen=True, slots=True)
class _Roles:
    """The groups by what they are solved from, each in the order of the grouping, and the group of each slot."""

    activations: tuple[Group, ...]
    weights: tuple[Group, ...]
    biases: tuple[BiasTask, ...]
    home: Mapping[str, Group]


@dataclass(frozen=True, slots=True)
class _Solution:
    """All that the records are written from: by group id, and by group id and tensor."""

    voices: Mapping[str, Voices]
    parameters: dict[str, GroupParameters]
    noise: dict[tuple[str, str], TensorNoise]
    events: tuple[str, ...]
    choices: Mapping[str, Choice]


def solve(
    structure: Structure,
    constraints: Constraints,
    grouping: Grouping,
    statistics: Mapping[str, TensorStatistics],
    weights: Sequence[WeightSolution],
    biases: Sequence[BiasMagnitude],
    settings: RunSettings,
    *,
    observer: Observer | None = None,
    device: str = "cpu",
    channels: Mapping[tuple[str, int], Sequence[TensorStatistics]] = MappingProxyType({}),
    given: Mapping[str, GroupParameters] = MappingProxyType({}),
    with_noise: bool = True,
) -> RunData:
    """Give every slot its state, scale, offset and noise.

    Args:
        structure: says which tensors merely repeat others.
        grouping: the groups of these constraints; with ``force_overlap="auto"`` those of False.
        statistics: of activations and of constants that are values, by tensor; one that is missing was never run.
        weights: the stored solutions; those of `settings.weights` and of the groups' schemes are used.
        settings: without an observer nothing but structure is solved: INITIAL, SLAVE, FIXED, PASSIVE.
        observer: the function of `settings.observer` where that is no shipped one.
        device: where the observer computes, ``cpu`` or ``cuda``.
        channels: statistics of each channel, by tensor and axis, for activations that are quantized per channel.
        given: parameters of groups of activations and weights that are known already, by group id: they are kept (but
            a weight's scale is raised where the bias would not fit), and everything else is told of them.
        with_noise: False leaves out the noise of activations and the prices of requantizes; scales are the same.

    Returns:
        The run; its settings have the observer's name in lower case and all its parameters.

    Raises:
        NotFoundError: no such observer or parameter.
        StatisticsError: a weight has no stored scales, or the channels of weight and bias do not go together.
    """
    settings = _resolved(settings, shipped=observer is None)
    calibration = None
    if settings.observer is not None:
        producers = {name: op for op in structure.ops for name in op.outputs if name is not None}
        calibration = Calibration(
            statistics,
            producers,
            observer or settings.observer,
            settings.observer_parameters,
            device,
            channels,
            limits_of(structure),
            with_noise,
        )
    told = []
    if settings.force_overlap == AUTO_OVERLAP:
        grouping, line = overlap_where_it_gains(constraints, grouping, calibration)
        told = [line]
    roles = _roles(constraints, grouping)
    solution = _solve_groups(constraints, grouping, roles, calibration, weights, biases, settings.weights, given)
    prices = (
        {}
        if calibration is None or not with_noise
        else _requantize_prices(constraints, grouping, roles.home, solution, calibration)
    )
    records = _records(constraints, roles.home, solution, calibration)
    events = tuple(sorted((*solution.events, *told, *constraints.remarks)))
    found = (
        *ratio_findings(constraints.ratios, records),
        *unlisted_findings(constraints),
        *untyped_findings(structure),
    )
    return RunData(settings, records, grouping, prices, events, solution.choices, found)


def _resolved(settings: RunSettings, *, shipped: bool) -> RunSettings:
    if settings.observer is None or not shipped:
        return settings
    entry = entry_of(settings.observer)
    return replace(
        settings, observer=entry.name, observer_parameters=resolve_parameters(entry, settings.observer_parameters)
    )


def _roles(constraints: Constraints, grouping: Grouping) -> _Roles:
    """Sort the groups by role. One with a weight in it is solved from weights; a bias that nothing derives waits."""
    home = {slot: group for group in grouping.groups for slot in group.slots}
    activations, weights, biases = [], [], []
    for group in grouping.groups:
        roles = {constraints.slots[slot].role for slot in group.slots}
        if group.derived is not None:
            tensor = constraints.slots[group.derived.slot].tensor
            sources = home.get(group.derived.activation), home.get(group.derived.weight)
            biases.append(BiasTask(group, group.derived, tensor, *sources))
        elif "weight" in roles:
            weights.append(group)
        elif not roles.isdisjoint(("activation", "constant")):
            activations.append(group)
    return _Roles(tuple(activations), tuple(weights), tuple(biases), home)


def _members(constraints: Constraints, grouping: Grouping) -> dict[str, tuple[str, ...]]:
    """The tensors of each group, by its id."""
    plans = constraints.slots
    return {group.id: tuple(sorted({plans[slot].tensor for slot in group.slots})) for group in grouping.groups}


def _solve_groups(
    constraints: Constraints,
    grouping: Grouping,
    roles: _Roles,
    calibration: Calibration | None,
    weights: Sequence[WeightSolution],
    biases: Sequence[BiasMagnitude],
    method: str | None,
    given: Mapping[str, GroupParameters],
) -> _Solution:
    """Activations and weights, then the biases that are derived from both."""
    parameters = {group.id: prescribed(group) for group in grouping.groups} | dict(given)
    noise: dict[tuple[str, str], TensorNoise] = {}
    voices: dict[str, Voices] = {}
    choices: dict[str, Choice] = {}
    members = {} if calibration is None and method is None else _members(constraints, grouping)
    if calibration is not None:
        voices = listen(roles.activations, members, constraints, calibration.statistics, calibration.producers)
        activations = solve_activations(members, roles.activations, voices, calibration, given)
        parameters |= activations.parameters
        noise |= activations.noise
        choices = activations.choices
    if method is not None:
        solved, noises = solve_weights(members, roles.weights, weights, method)
        noise |= noises
        for group in roles.weights:
            taken = given.get(group.id, solved[group.id])
            parameters[group.id] = taken
            if taken.scale != solved[group.id].scale:  # the stored noise is that of the solved scales
                noise |= {(group.id, name): TensorNoise(own=noises[group.id, name].own) for name in members[group.id]}
    derived, events = solve_biases(roles.biases, parameters, biases)
    for group in roles.weights:
        if group.id in derived:
            # The stored noise is that of the scales before they were raised.
            noise |= {(group.id, name): TensorNoise(own=noise[group.id, name].own) for name in members[group.id]}
    return _Solution(voices, parameters | derived, noise, tuple(sorted(events)), choices)


def _records(
    constraints: Constraints, home: Mapping[str, Group], solution: _Solution, calibration: Calibration | None
) -> tuple[TqcRecord, ...]:
    """One record per slot, sorted by slot."""
    plans = constraints.slots
    fused = {slot: one for one in constraints.fused for slot in (one.producer, one.consumer)}
    records = []
    for slot in sorted(plans):
        plan, group = plans[slot], home.get(slot)
        if group is not None:
            records.append(_quantized(plan, group, solution, calibration))
            continue
        reason = plan.reason
        if reason is None and slot in fused:
            reason = f"inside a pair that runs as one, by {fused[slot].origin.rule} at {fused[slot].origin.op}"
        records.append(TqcRecord(slot, plan.tensor, plan.role, QuantizationState.FP32, reason=reason))
    return tuple(records)


def _quantized(plan: SlotPlan, group: Group, solution: _Solution, calibration: Calibration | None) -> TqcRecord:
    """The record of a member: the master has the group's state, the others are its slaves."""
    parameters, voices = solution.parameters[group.id], solution.voices.get(group.id)
    noise = solution.noise.get((group.id, plan.tensor), _NO_NOISE)
    slave = plan.slot != group.master
    reason = parameters.reason
    if calibration is not None and voices is not None:
        found = remarks(plan.tensor, voices, calibration)
        order = order_remark(plan.tensor, group.scheme, parameters, calibration)
        found += [] if order is None else [order]
        reason = "; ".join(dict.fromkeys([reason, *found] if reason else found)) or None
    return TqcRecord(
        plan.slot,
        plan.tensor,
        plan.role,
        QuantizationState.SLAVE if slave else parameters.state,
        group.scheme,
        parameters.scale,
        parameters.offset,
        group.master if slave else None,
        group.id,
        reason,
        noise.shared,
        noise.own,
    )


def _requantize_prices(
    constraints: Constraints,
    grouping: Grouping,
    home: Mapping[str, Group],
    solution: _Solution,
    calibration: Calibration,
) -> dict[str, float]:
    """The price of each requantize whose two sides have parameters and whose tensor has values, by slot.

    A weight or bias that is also read as a value, such as an embedding's table that is the last layer's weight, has
    none: integers of its own are made of it beforehand, from its floats.
    """
    tasks = []
    for one in grouping.requantizes:
        if constraints.slots[one.slot].role in ("weight", "bias"):
            continue
        sides = [home[slot] for slot in (one.producer, one.slot)]
        producer, reader = (solution.parameters[group.id].quantizers(group.scheme) for group in sides)
        if producer is not None and reader is not None:
            scheme = next((group.scheme for group in sides if group.scheme.axis is not None), sides[0].scheme)
            tasks.append((one.slot, calibration.channels_of(one.tensor, scheme), producer, reader))
    prices = channel_requantize_price_db(
        [task[1] for task in tasks],
        [task[2] for task in tasks],
        [task[3] for task in tasks],
        device=calibration.device,
    )
    return {task[0]: price for task, price in zip(tasks, prices, strict=True) if price is not None}
