"""Parameters for live configs: what the solver answers for their groups, written to those that wait for it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from qgraph.calib.observers.catalog import entry_of, observer_digest, resolve_parameters
from qgraph.constraints.model import Constraints, Group, Grouping
from qgraph.errors import UsageError
from qgraph.jobs.recording import channels_for
from qgraph.objects import many_objects
from qgraph.passes.hands import Hand
from qgraph.passes.platforms import choices_of
from qgraph.passes.stage import Stage
from qgraph.passes.workplace import Workplace
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import ForceOverlap, RunData, RunSettings
from qgraph.solve.solver import solve
from qgraph.tqc import DEGENERATE, QuantizationState, TensorQuantizationConfig, TqcRecord

Configs = Mapping[str, TensorQuantizationConfig]
Given = Mapping[str, GroupParameters]

NOTHING_GIVEN: Given = MappingProxyType({})

SOLVED = (QuantizationState.ACTIVATED, *DEGENERATE)
"""The states that calibration gives, and with ``override=True`` takes back."""


@dataclass(frozen=True, slots=True)
class Solving:
    """What is solved from: a model with its stored evidence, constraints, and statistics if there are some."""

    workplace: Workplace
    constraints: Constraints
    calibration: str | None

    @many_objects()
    def solve(self, grouping: Grouping, settings: RunSettings, given: Given = NOTHING_GIVEN) -> RunData:
        """The solver's answer for groups."""
        evidence = self.workplace.evidence()
        collected = None if self.calibration is None else self.workplace.collected(self.calibration)
        slots = self.constraints.slots.values()
        return solve(
            self.workplace.structure,
            self.constraints,
            grouping,
            {} if collected is None else collected.all,
            evidence.weights,
            evidence.biases,
            settings,
            device=self.workplace.device,
            channels={} if collected is None else channels_for(slots, collected.activations),
            given=given,
        )

    def role(self, group: Group) -> str:
        """What a group is solved as: ``bias``, ``weight`` or ``activation``."""
        if group.derived is not None:
            return "bias"
        return "weight" if any(self.constraints.slots[slot].role == "weight" for slot in group.slots) else "activation"


def settings_at(stage: Stage, workplace: Workplace, *, overlap: ForceOverlap = False) -> RunSettings:
    """The settings of a stage as runs keep them; those of a run without scales where there was no calibration."""
    pack = workplace.pack
    methods = stage.methods.over(pack.merge_methods) if stage.aligned else stage.methods
    given: dict[str, Any] = {option: None if method is None else str(method) for option, method in methods.items()}
    settings = RunSettings(pack.name, pack.version, overlap, weights=stage.weights, **given)
    if stage.observer is None:
        return settings
    entry = entry_of(stage.observer)
    parameters = resolve_parameters(entry, stage.parameters)
    return replace(
        settings,
        observer=entry.name,
        observer_parameters=parameters,
        observer_digest=observer_digest(entry.name, parameters),
        weights=stage.weights or choices_of(pack.name).weights,
    )


def part_of(grouping: Grouping, masters: Collection[str]) -> Grouping:
    """The groups of some masters, alone."""
    return Grouping(tuple(group for group in grouping.groups if group.master in masters), (), ())


def records_of(data: RunData) -> dict[str, TqcRecord]:
    """The records of a run by slot."""
    return {record.slot: record for record in data.tqcs}


def activate(config: TensorQuantizationConfig, record: TqcRecord) -> None:
    """Give a config the state and parameters that were solved for it."""
    if config.state != QuantizationState.INITIAL:
        config.state = QuantizationState.INITIAL
    if record.scale is None or record.offset is None:
        config.state = record.state
    else:
        config.activate(record.scale, record.offset, record.state)


def known_parameters(configs: Configs, grouping: Grouping) -> dict[str, GroupParameters]:
    """The parameters that groups have now, by id; biases are left out, as theirs follow."""
    return {group.id: _parameters(configs[group.master]) for group in grouping.groups if group.derived is None}


def _parameters(config: TensorQuantizationConfig) -> GroupParameters:
    if config.state == QuantizationState.INITIAL:
        return GroupParameters(config.state)
    if config.state == QuantizationState.ACTIVATED and (config.scale is None or config.offset is None):
        cure = "write both scale and offset, or move it to INITIAL and calibrate"
        raise UsageError("a config that is ACTIVATED without parameters", config.name, cure)
    return GroupParameters(config.state, config.scale, config.offset)


def run_data(
    solving: Solving, stage: Stage, configs: Configs, grouping: Grouping, hands: Mapping[str, Hand]
) -> RunData:
    """What configs amount to, with noise and prices of the parameters that they have.

    Where they have those that the solver would give, everything that it has to say of them is kept: a graph that went
    through all passes is the run that `qgraph.api.Calibration.solve` makes of the same settings, and is stored once.
    """
    settings = settings_at(stage, solving.workplace, overlap=False)
    live = known_parameters(configs, grouping)
    waiting = {group.id for group in grouping.groups if configs[group.master].state == QuantizationState.INITIAL}
    # A bias that waits raises no weight yet.
    underived = (replace(one, derived=None) if one.id in waiting else one for one in grouping.groups)
    grouping = replace(grouping, groups=tuple(underived))
    weights_wait = settings.weights is None
    data = solving.solve(grouping, settings, live if weights_wait else NOTHING_GIVEN)
    records = records_of(data)
    other = {
        group.id: live[group.id]
        for group in grouping.groups
        if group.id in live and not _says(records[group.master], live[group.id])
    }
    if other and not weights_wait:
        data = solving.solve(grouping, settings, other)
    records_now = tuple(_waiting(one) if one.group in waiting else one for one in data.tqcs)
    events = data.events if not waiting else tuple(sorted((*data.events, _told(waiting, settings))))
    settings = replace(data.settings, force_overlap=stage.force_overlap)
    if other or waiting or hands or not (stage.fused and stage.aligned):
        settings = replace(settings, overrides=(f"passes {_digest(records_now)}",))
    return replace(data, settings=settings, tqcs=records_now, events=events)


def _says(record: TqcRecord, live: GroupParameters) -> bool:
    return (record.state, record.scale, record.offset) == (live.state, live.scale, live.offset)


def _waiting(record: TqcRecord) -> TqcRecord:
    """A record of a group that no pass has given parameters."""
    state = QuantizationState.SLAVE if record.master else QuantizationState.INITIAL
    return replace(record, state=state, scale=None, offset=None, noise_db=None, own_noise_db=None)


def _told(waiting: Collection[str], settings: RunSettings) -> str:
    return f"{len(waiting)} groups of {settings.target} wait for parameters: no pass has given them any"


def _digest(records: tuple[TqcRecord, ...]) -> str:
    """Tells one state of configs from another, so that no stored run is taken for it."""
    told = [(one.slot, str(one.state), one.scale, one.offset, one.master, one.group) for one in records]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
