"""What groups and requantizes cost, solved from statistics: the prices by which ``force_overlap="auto"`` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import fsum

from qgraph.constraints.grouping import group_id
from qgraph.constraints.model import Alignment, Constraints, Group, Grouping, Requantize
from qgraph.constraints.overlap import join_what_gains
from qgraph.solve.activations import Calibration, solve_activations
from qgraph.solve.noise import channel_requantize_price_db
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.solve.pool import counted
from qgraph.solve.voices import Voices, listen


def overlap_where_it_gains(
    constraints: Constraints, apart: Grouping, calibration: Calibration | None
) -> tuple[Grouping, str]:
    """The groups for ``force_overlap="auto"``, and one line about what was joined.

    Args:
        apart: the groups for ``force_overlap=False``.
        calibration: None before any data: nothing has a price then, so nothing is joined.
    """
    if calibration is None:
        return apart, "force_overlap auto: nothing has a price before data, so the groups are those of false"
    overlap = join_what_gains(constraints, apart, Prices(constraints, calibration))
    joined = ", ".join(one.slot for one in overlap.joined) or "none"
    return overlap.grouping, (
        f"force_overlap auto: joined {len(overlap.joined)} of {len(apart.requantizes)} requantizes ({joined}), "
        f"which saves noise of {overlap.gain:.3g} of the signal's power"
    )


def noise_alone(constraints: Constraints, calibration: Calibration) -> dict[str, float]:
    """What rounding adds to the tensor of each slot, on a grid of its own: noise power over signal power."""
    slots: dict[str, list[str]] = {}
    for slot, plan in sorted(constraints.slots.items()):
        if plan.scheme is not None and plan.role in ("activation", "constant"):
            slots.setdefault(plan.tensor, []).append(slot)
    groups = []
    for tensor, (slot, *_) in slots.items():
        scheme = constraints.slots[slot].scheme
        assert scheme is not None
        groups.append(Group(group_id((slot,)), (slot,), (tensor,), slot, scheme))
    noise = Prices(replace(constraints, alignments=()), calibration).noise(groups)
    return {slot: ratio for ratio, of_tensor in zip(noise, slots.values(), strict=True) for slot in of_tensor}


class Prices:
    """Costs as `qgraph.constraints.overlap.Costs` wants them; each group is solved once, by its id."""

    def __init__(self, constraints: Constraints, calibration: Calibration) -> None:
        self._constraints = constraints
        self._calibration = calibration
        self._spoken: dict[str, list[Alignment]] = {}
        for alignment in constraints.alignments:
            for slot in (*alignment.inputs, *alignment.outputs):
                self._spoken.setdefault(slot, []).append(alignment)
        self._parameters: dict[str, GroupParameters] = {}
        self._tensor_noise: dict[tuple[str, str], TensorNoise] = {}
        self._noise: dict[str, float] = {}
        self._added: dict[tuple[str, str, str], float] = {}

    def noise(self, groups: Sequence[Group]) -> list[float]:
        """Noise power over signal power, summed over the tensors made in each group, each value counted once."""
        new = {group.id: group for group in groups if group.id not in self._parameters}
        self._solve(list(new.values()))
        return [self._noise[group.id] for group in groups]

    def _solve(self, groups: Sequence[Group]) -> None:
        members = {
            group.id: tuple(sorted({self._constraints.slots[slot].tensor for slot in group.slots})) for group in groups
        }
        voices = {group.id: self._voices(group, members[group.id]) for group in groups}
        solved = solve_activations(members, groups, voices, self._calibration)
        self._parameters |= solved.parameters
        self._tensor_noise |= solved.noise
        for group in groups:
            made = set(group.tensors).intersection(counted(members[group.id], self._calibration.producers))
            self._noise[group.id] = fsum(_ratio(solved.noise[group.id, name].shared) for name in made)

    def _voices(self, group: Group, members: tuple[str, ...]) -> Voices:
        """Who is heard in a group. Groups may overlap here, so each is looked at alone."""
        spoken = {one.op: one for slot in group.slots for one in self._spoken.get(slot, ())}
        mine = replace(self._constraints, alignments=tuple(spoken[op] for op in sorted(spoken)))
        heard = listen([group], {group.id: members}, mine, self._calibration.statistics, self._calibration.producers)
        return heard[group.id]

    def requantizing(self, tasks: Sequence[tuple[Requantize, Group, Group]]) -> list[float]:
        """Noise power over signal power that each second quantization adds; it may take some away."""
        keys = [(cut.slot, producer.id, consumer.id) for cut, producer, consumer in tasks]
        new = {key: task for key, task in zip(keys, tasks, strict=True) if key not in self._added}
        self.noise([group for _, *sides in new.values() for group in sides])
        priced = []
        for key, (cut, producer, consumer) in new.items():
            self._added[key] = 0.0
            made, read = (self._parameters[side.id].quantizers(side.scheme) for side in (producer, consumer))
            if made is not None and read is not None:
                scheme = next((side.scheme for side in (producer, consumer) if side.scheme.axis is not None), None)
                channels = self._calibration.channels_of(cut.tensor, scheme or producer.scheme)
                priced.append((key, channels, made, read))
        prices = channel_requantize_price_db(
            [one[1] for one in priced],
            [one[2] for one in priced],
            [one[3] for one in priced],
            device=self._calibration.device,
        )
        for (key, *_), price in zip(priced, prices, strict=True):
            cut, producer, _ = new[key]
            first = self._tensor_noise[producer.id, cut.tensor].shared
            if price is not None and first is not None:
                self._added[key] = _ratio(first + price) - _ratio(first)
        return [self._added[key] for key in keys]


def _ratio(decibels: float | None) -> float:
    """Noise power over signal power; 0 where nothing is known."""
    return 0.0 if decibels is None else 10.0 ** (decibels / 10.0)
