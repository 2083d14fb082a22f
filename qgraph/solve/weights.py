"""Scales of weights, from what is stored of them, and of the biases that are derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.constraints.model import Derived, Group
from qgraph.errors import StatisticsError
from qgraph.solve.bias import bias_scale, fold_channels, input_scales, weight_floor
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.tqc import QuantizationState, Scheme

NAMED_CHANNELS = 8
"""Channels that an event names; of the others it tells how many."""


def solve_weights(
    members: Mapping[str, tuple[str, ...]], groups: Sequence[Group], weights: Sequence[WeightSolution], method: str
) -> tuple[dict[str, GroupParameters], dict[tuple[str, str], TensorNoise]]:
    """The stored scales of each group of weights; of several weights in a group, the larger ones.

    Args:
        members: the tensors of each group, by group id.
        method: ``minmax`` or ``mse``, in any case.

    Returns:
        The parameters by group id; the noise by group id and tensor.

    Raises:
        StatisticsError: weights without a stored solution, or of different numbers of channels in one group.
    """
    known = {(one.tensor, one.scheme, one.method): one for one in weights}
    keys = {group.id: [(name, group.scheme, method.lower()) for name in members[group.id]] for group in groups}
    missing = sorted({key[0] for own in keys.values() for key in own if key not in known})
    if missing:
        raise StatisticsError(f"weights without {method} scales", ", ".join(missing), "calibrate the model again")
    solved: dict[str, GroupParameters] = {}
    noise: dict[tuple[str, str], TensorNoise] = {}
    for group in groups:
        found = [known[key] for key in keys[group.id]]
        if len({len(one.scale) for one in found}) > 1:
            raise StatisticsError(
                "weights that share scales have different channels",
                ", ".join(f"{one.tensor}: {len(one.scale)}" for one in found),
                "drop the constraint that joins them",
            )
        scale = tuple(max(channel) for channel in zip(*(one.scale for one in found), strict=True))
        solved[group.id] = _activated(scale, group.scheme)
        for one in found:
            # The noise of scales other than its own is known only with the weight at hand.
            noise[group.id, one.tensor] = TensorNoise(one.noise_db if one.scale == scale else None, one.noise_db)
    return solved, noise


def _activated(scale: tuple[float, ...], scheme: Scheme, reason: str | None = None) -> GroupParameters:
    return GroupParameters(QuantizationState.ACTIVATED, scale, (scheme.symmetric_offset,) * len(scale), reason)


@dataclass(frozen=True, slots=True)
class BiasTask:
    """A bias group with the groups that it is derived from, None where those slots are not quantized."""

    group: Group
    derived: Derived
    tensor: str
    activation: Group | None
    weight: Group | None


def solve_biases(
    tasks: Sequence[BiasTask],
    solved: Mapping[str, GroupParameters],
    biases: Sequence[BiasMagnitude],
) -> tuple[dict[str, GroupParameters], list[str]]:
    """Raise weight scales until every bias fits, then derive the scales of all biases.

    Args:
        tasks: all biases.
        solved: the parameters of activations and weights, by group id.

    Returns:
        The parameters of the biases and of the weights that were raised, by group id; one event per raised weight.
    """
    magnitudes = {one.tensor: one.magnitude for one in biases}
    raised, events = _raise_weights(tasks, solved, magnitudes)
    current = {**solved, **raised}
    derived = {task.group.id: _derive(task, current, magnitudes.get(task.tensor)) for task in tasks}
    return {**raised, **derived}, events


def _raise_weights(
    tasks: Sequence[BiasTask], solved: Mapping[str, GroupParameters], magnitudes: Mapping[str, tuple[float, ...]]
) -> tuple[dict[str, GroupParameters], list[str]]:
    """The weight groups whose scales had to be raised; several biases on one weight all have to fit."""
    floors: dict[str, list[float]] = {}
    owners: dict[str, tuple[Group, Scheme]] = {}
    for task in tasks:
        activation, weight = _scale_of(task.activation, solved), _scale_of(task.weight, solved)
        magnitude = magnitudes.get(task.tensor)
        if task.weight is None or activation is None or weight is None or not magnitude:
            continue
        inputs = input_scales(activation, len(magnitude), task.group.master)
        channels = weight_floor(magnitude, inputs, task.group.scheme, task.weight.scheme)
        floor = fold_channels(channels, len(weight), task.group.master)
        floors[task.weight.id] = [max(pair) for pair in zip(floor, floors.get(task.weight.id, floor), strict=True)]
        owners[task.weight.id] = task.weight, task.group.scheme
    raised: dict[str, GroupParameters] = {}
    events: list[str] = []
    for owner, bias in owners.values():
        before = solved[owner.id].scale or ()
        after = tuple(max(pair) for pair in zip(before, floors[owner.id], strict=True))
        changed = [channel for channel, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
        if changed:
            reason = f"scale raised in {_channels(changed, len(before))} so that the bias fits {bias.dtype}"
            raised[owner.id] = _activated(after, owner.scheme, reason)
            events.append(f"{', '.join(owner.tensors) or owner.master}: {reason}")
    return raised, events


def _channels(changed: Sequence[int], count: int) -> str:
    """The channels in words.

    >>> _channels([3, 7], 16), _channels([0], 1)
    ('2 of 16 channels (3, 7)', 'its only channel')
    """
    if count == 1:
        return "its only channel"
    named = ", ".join(str(channel) for channel in changed[:NAMED_CHANNELS])
    return f"{len(changed)} of {count} channels ({named}{', …' if len(changed) > NAMED_CHANNELS else ''})"


def _scale_of(group: Group | None, solved: Mapping[str, GroupParameters]) -> tuple[float, ...] | None:
    return None if group is None else solved[group.id].scale


def _derive(
    task: BiasTask, solved: Mapping[str, GroupParameters], magnitude: tuple[float, ...] | None
) -> GroupParameters:
    """The parameters of one bias: PASSIVE, without scales while input or weight have none."""
    activation, weight = _scale_of(task.activation, solved), _scale_of(task.weight, solved)
    passive = GroupParameters(QuantizationState.PASSIVE)
    if activation is None or weight is None:
        missing = task.derived.activation if activation is None else task.derived.weight
        return replace(passive, reason=f"derived from {missing}, which has no scale")
    scale = bias_scale(weight, activation, len(magnitude or ()), task.group.master)
    reason = None if magnitude else "its values are not known, so whether they fit is not either"
    return replace(passive, scale=scale, offset=(0,) * len(scale), reason=reason)
