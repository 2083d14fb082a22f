"""Scales and noise of groups of activations and constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qgraph.calib.observers.catalog import Parameter
from qgraph.calib.observers.observe import Observer, ScaleAndOffset, observe
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, condition
from qgraph.constraints.model import Group
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Op
from qgraph.solve.noise import Quantizer, noise_db
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.solve.pool import counted, pooled
from qgraph.tqc import QuantizationState, Scheme, to_float32

Problem = tuple[tuple[str, ...], Scheme]
"""Tensors that are solved together, sorted, and how they are quantized."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What activations are solved from.

    Attributes:
        statistics: of activations and constants, by tensor; one that is missing was never run.
        producers: the op that makes each tensor.
    """

    statistics: Mapping[str, TensorStatistics]
    producers: Mapping[str, Op]
    observer: str | Observer
    parameters: Mapping[str, Parameter]
    device: str

    def of(self, tensor: str) -> TensorStatistics:
        """The statistics of a tensor."""
        return self.statistics.get(tensor, EMPTY_STATISTICS)


def prescribed(group: Group) -> GroupParameters:
    """What is known of a group before any data: the target's parameters, if it prescribes some."""
    if group.fixed is None:
        return GroupParameters(QuantizationState.INITIAL)
    origin = group.fixed.origin
    return GroupParameters(
        QuantizationState.FIXED,
        (to_float32(group.fixed.scale),),
        (group.fixed.offset,),
        f"prescribed by {origin.rule} at {origin.op} ({origin.op_type})",
    )


def solve_activations(
    members: Mapping[str, tuple[str, ...]], groups: Sequence[Group], calibration: Calibration
) -> tuple[dict[str, GroupParameters], dict[tuple[str, str], TensorNoise]]:
    """Solve all groups, and every tensor alone, in one call of the observer.

    Args:
        members: the tensors read or made at the slots of each group, by group id.

    Returns:
        The parameters by group id; the noise by group id and tensor.

    Raises:
        StatisticsError: a scheme is per channel, and the statistics are of whole tensors.
    """
    for group in groups:
        if group.scheme.axis is not None:
            raise StatisticsError(
                "activations per channel need statistics per channel",
                group.master,
                "choose a target that has them per tensor",
            )
    together = {group.id: (counted(members[group.id], calibration.producers), group.scheme) for group in groups}
    alone = {(group.id, name): ((name,), group.scheme) for group in groups for name in members[group.id]}
    answers = _answers({*together.values(), *alone.values()}, calibration)
    solved = {
        group.id: prescribed(group) if group.fixed else _parameters(together[group.id], answers, calibration)
        for group in groups
    }
    return solved, _noises(
        groups, members, solved, {key: answers[problem] for key, problem in alone.items()}, calibration
    )


def _answers(problems: set[Problem], calibration: Calibration) -> dict[Problem, ScaleAndOffset | None]:
    """Scale and offset of each problem."""
    ordered = sorted(problems, key=lambda problem: (problem[0], str(problem[1])))
    found = observe(
        calibration.observer,
        [pooled([calibration.of(name) for name in tensors]) for tensors, _ in ordered],
        [scheme for _, scheme in ordered],
        device=calibration.device,
        parameters=calibration.parameters,
    )
    return dict(zip(ordered, found, strict=True))


def _parameters(
    problem: Problem, answers: Mapping[Problem, ScaleAndOffset | None], calibration: Calibration
) -> GroupParameters:
    """The parameters of a group that the target leaves open. One healthy member makes it healthy."""
    tensors = [calibration.of(name) for name in problem[0]]
    states = [condition(one) for one in tensors]
    state = QuantizationState.ACTIVATED
    if None not in states:
        state = condition(pooled(tensors)) or state
    answer = answers[problem]
    if answer is None:
        return GroupParameters(state, reason=REASONS[state])
    return GroupParameters(state, (answer[0],), (answer[1],), REASONS.get(state))


def _noises(
    groups: Sequence[Group],
    members: Mapping[str, tuple[str, ...]],
    solved: Mapping[str, GroupParameters],
    alone: Mapping[tuple[str, str], ScaleAndOffset | None],
    calibration: Calibration,
) -> dict[tuple[str, str], TensorNoise]:
    """Noise of each tensor in each of its groups, and alone."""
    wanted: dict[tuple[str, Quantizer], None] = {}
    pairs: dict[tuple[str, str], tuple[Quantizer | None, Quantizer | None]] = {}
    for group in groups:
        shared = solved[group.id].quantizer(group.scheme)
        for name in members[group.id]:
            answer = alone[group.id, name]
            own = None if answer is None else Quantizer(*answer, group.scheme)
            pairs[group.id, name] = shared, own
            wanted |= {(name, one): None for one in (shared, own) if one is not None}
    found = noise_db(
        [calibration.of(name) for name, _ in wanted], [one for _, one in wanted], device=calibration.device
    )
    noise = dict(zip(wanted, found, strict=True))
    return {
        (group, name): TensorNoise(*(None if one is None else noise[name, one] for one in pair))
        for (group, name), pair in pairs.items()
    }


REASONS: Mapping[QuantizationState, str] = {
    QuantizationState.NEVER_RUN: "calibration never produced it",
    QuantizationState.EMPTY: "calibration produced it without elements only",
    QuantizationState.ALL_ZERO: "calibration saw nothing but zeros",
    QuantizationState.CONSTANT: "calibration saw one value only",
    QuantizationState.DENORMAL: "calibration saw nothing but zeros and denormals",
    QuantizationState.NONFINITE: "calibration saw NaN or Inf; only finite values count",
}
"""What a degenerate state means, for the reason of a slot."""


def remark(tensor: str, calibration: Calibration) -> str | None:
    """What is special about the values of a tensor, if anything is."""
    state = condition(calibration.of(tensor))
    return None if state is None else REASONS[state]
