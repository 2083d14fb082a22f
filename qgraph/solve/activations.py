"""Scales and noise of groups of activations and constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qgraph.calib.observers.catalog import Parameter
from qgraph.calib.observers.observe import Observer, ScaleAndOffset, has_signal, observe
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, condition
from qgraph.constraints.model import Group
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Op
from qgraph.solve.noise import Quantizer, noise_db
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.solve.pool import pooled
from qgraph.solve.unite import rendering_scheme, unite
from qgraph.solve.voices import Voices, reason
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
    members: Mapping[str, tuple[str, ...]],
    groups: Sequence[Group],
    voices: Mapping[str, Voices],
    calibration: Calibration,
) -> tuple[dict[str, GroupParameters], dict[tuple[str, str], TensorNoise]]:
    """Solve all groups, and every tensor alone, in one call of the observer.

    Args:
        members: the tensors read or made at the slots of each group, by group id.
        voices: which of them count, by group id.

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
    together = {group.id: _problems(group, voices[group.id], calibration) for group in groups}
    alone = {(group.id, name): ((name,), group.scheme) for group in groups for name in members[group.id]}
    answers = _answers({*alone.values(), *(one for several in together.values() for one in several)}, calibration)
    solved = {
        group.id: prescribed(group)
        if group.fixed
        else _parameters(group, voices[group.id], [answers[one] for one in together[group.id]], calibration)
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


def _problems(group: Group, voices: Voices, calibration: Calibration) -> tuple[Problem, ...]:
    """What has to be solved for a group: all that is heard in it at once, or each value alone."""
    if voices.large is None:
        return ((voices.heard, group.scheme),)
    signals = [name for name in voices.heard if has_signal(calibration.of(name))]
    if len(signals) < 2:
        return ((tuple(signals) or voices.heard, group.scheme),)
    return tuple(((name,), rendering_scheme(group.scheme)) for name in signals)


def _parameters(
    group: Group, voices: Voices, answers: Sequence[ScaleAndOffset | None], calibration: Calibration
) -> GroupParameters:
    """The parameters of a group that the target leaves open. One healthy member makes it healthy."""
    tensors = [calibration.of(name) for name in voices.heard]
    states = [condition(one) for one in tensors]
    state = QuantizationState.ACTIVATED
    if None not in states:
        state = condition(pooled(tensors)) or state
    known = [answer for answer in answers if answer is not None]
    if not known:
        return GroupParameters(state, reason=REASONS[state])
    scale, offset = known[0] if len(known) == 1 else unite(known, group.scheme)
    remarks = [REASONS[state]] if state in REASONS else []
    if voices.large is not None and len(known) > 1:
        remarks.append(f"each of {len(known)} values solved alone, the ranges united: {reason(voices.large)}")
    return GroupParameters(state, (scale,), (offset,), "; ".join(remarks) or None)


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


def remarks(tensor: str, voices: Voices, calibration: Calibration) -> list[str]:
    """What is special about the values of a tensor in a group."""
    found = []
    state = condition(calibration.of(tensor))
    if state is not None:
        found.append(REASONS[state])
    if tensor in voices.silenced:
        found.append(f"its statistics do not count: {reason(voices.silenced[tensor])}")
    return found
