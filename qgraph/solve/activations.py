"""Scales and noise of groups of activations and constants.

What has a quantizer of its own is a *channel*: each channel of a tensor where its scheme is per channel, else the
whole tensor, as its only one::

    group ─▶ problems: tensors heard together, a scheme ─▶ channels, pooled over the tensors ─▶ observer
          ─▶ one scale and offset per channel
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType

from qgraph.calib.observers.catalog import AUTO, candidates_of
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.isotone import ISOTONE
from qgraph.calib.observers.observe import Observer, ScaleAndOffset, has_signal, observe_all
from qgraph.calib.observers.order import kept_of
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, condition, merge
from qgraph.constraints.model import Group
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Op
from qgraph.solve.choose import choose
from qgraph.solve.limits import Limits, within
from qgraph.solve.noise import Quantizer, Quantizers, channel_noise_db
from qgraph.solve.parameters import GroupParameters, TensorNoise
from qgraph.solve.pool import pooled
from qgraph.solve.run import Choice
from qgraph.solve.unite import rendering_scheme, unite
from qgraph.solve.voices import Voices, reason
from qgraph.tqc import QuantizationState, Scheme, offset_for, to_float32

Problem = tuple[tuple[str, ...], Scheme, tuple[str, ...]]
"""Tensors that are solved together, sorted, how they are quantized, and tensors that merely repeat their values, but
whose rows are ranked: a reshape that is a graph output has rows of its own."""

Answer = tuple[ScaleAndOffset, ...] | None
"""Scale and offset of each channel; None where no channel has a finite value."""

Place = tuple[str, str]
"""The id of a group and a tensor in it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What activations are solved from.

    Attributes:
        statistics: of activations and constants, by tensor; one that is missing was never run.
        producers: the op that makes each tensor.
        observer: a name, ``auto`` too, or a function.
        channels: statistics of each channel, by tensor and axis, where a scheme is per channel.
        limits: of the tensors that a Clip makes.
        with_noise: whether anybody asks for the noise of tensors, and what they would have alone.
    """

    statistics: Mapping[str, TensorStatistics]
    producers: Mapping[str, Op]
    observer: str | Observer
    parameters: Mapping[str, Parameter]
    device: str
    channels: Mapping[tuple[str, int], Sequence[TensorStatistics]] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    with_noise: bool = True

    def of(self, tensor: str) -> TensorStatistics:
        """The statistics of a tensor."""
        return self.statistics.get(tensor, EMPTY_STATISTICS)

    def channels_of(self, tensor: str, scheme: Scheme) -> tuple[TensorStatistics, ...]:
        """The statistics of each channel that a scheme quantizes apart; none where the tensor has no finite value.

        Raises:
            StatisticsError: the scheme is per channel, and the statistics are of the whole tensor only.
        """
        if scheme.axis is None:
            return (self.of(tensor),)
        channels = self.channels.get((tensor, scheme.axis))
        if channels is not None:
            return tuple(channels)
        if self.of(tensor).minimum is None:
            return ()
        raise StatisticsError(
            "no statistics per channel were collected",
            f"{tensor}, axis {scheme.axis}",
            "calibrate again, naming this target (--target; with --lean, too): then they are collected",
        )

    @property
    def candidates(self) -> dict[str, tuple[str | Observer, Mapping[str, Parameter]]]:
        """The observers that are asked, in order of preference, each with its parameters; one, or those of auto."""
        if self.observer != AUTO:
            return {"": (self.observer, self.parameters)}
        return {name: (name, {}) for name in candidates_of(self.parameters)}


@dataclass(frozen=True, slots=True)
class SolvedActivations:
    """Parameters and choices by group id, noise by group id and tensor; choices only for ``auto``."""

    parameters: dict[str, GroupParameters]
    noise: dict[Place, TensorNoise]
    choices: dict[str, Choice]


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What one observer would give each group, and each tensor alone."""

    together: Mapping[str, GroupParameters]
    alone: Mapping[Place, Answer]


def prescribed(group: Group) -> GroupParameters:
    """What is known of a group before any data: the target's parameters, if it prescribes some."""
    if group.fixed is None:
        return GroupParameters(QuantizationState.INITIAL)
    origin = group.fixed.origin
    by = f"{origin.rule} at {origin.op} ({origin.op_type})" if origin.op_type else origin.source  # a user's pin
    return GroupParameters(
        QuantizationState.FIXED,
        (to_float32(group.fixed.scale),),
        (group.fixed.offset,),
        f"prescribed by {by}",
    )


def solve_activations(
    members: Mapping[str, tuple[str, ...]],
    groups: Sequence[Group],
    voices: Mapping[str, Voices],
    calibration: Calibration,
    given: Mapping[str, GroupParameters] = MappingProxyType({}),
) -> SolvedActivations:
    """Solve all groups, and every tensor alone, in one call of each observer.

    Args:
        members: the tensors read or made at the slots of each group, by group id.
        voices: which of them count, by group id.
        given: parameters that are known already, by group id: of these groups only the noise is computed.

    Raises:
        StatisticsError: a scheme is per channel, and the statistics are of whole tensors.
    """
    together = {
        group.id: () if group.id in given else _problems(group, members[group.id], voices[group.id], calibration)
        for group in groups
    }
    needs_noise = calibration.with_noise or len(calibration.candidates) > 1  # several are compared by it
    alone: dict[Place, Problem] = {
        (group.id, name): ((name,), group.scheme, ()) for group in groups for name in members[group.id] if needs_noise
    }
    tasks = _tasks({*alone.values(), *(one for several in together.values() for one in several)}, calibration)
    proposals = {}
    for name, answers in _answers(tasks, calibration).items():
        solved = {
            group.id: given[group.id]
            if group.id in given
            else prescribed(group)
            if group.fixed
            else _parameters(group, voices[group.id], [answers[one] for one in together[group.id]], calibration)
            for group in groups
        }
        proposals[name] = _Proposal(solved, {place: answers[problem] for place, problem in alone.items()})
    picked = _pick(members, groups, voices, proposals, calibration)
    return replace(picked, choices={one: choice for one, choice in picked.choices.items() if one not in given})


def _tasks(problems: set[Problem], calibration: Calibration) -> dict[Problem, tuple[TensorStatistics, ...]]:
    """The statistics of each channel of each problem, pooled over its tensors, in an order of their own."""
    ordered = sorted(problems, key=lambda one: (one[0], str(one[1]), one[2]))
    return {problem: _pooled(problem, calibration) for problem in ordered}


def _pooled(problem: Problem, calibration: Calibration) -> tuple[TensorStatistics, ...]:
    tensors, scheme, ranked = problem
    known = {name: channels for name in tensors if (channels := calibration.channels_of(name, scheme))}
    if len({len(channels) for channels in known.values()}) > 1:
        raise StatisticsError(
            "tensors that share scales per channel have different channels",
            ", ".join(f"{name}: {len(channels)}" for name, channels in known.items()),
            "drop the constraint that joins them",
        )
    together = tuple(pooled(channel) for channel in zip(*known.values(), strict=True))
    if scheme.axis is not None:
        return together
    rows = [replace(EMPTY_STATISTICS, rows=calibration.of(name).rows) for name in ranked]
    return tuple(
        replace(one, rows=reduce(merge, rows, replace(EMPTY_STATISTICS, rows=one.rows)).rows) for one in together
    )


def _answers(
    tasks: Mapping[Problem, tuple[TensorStatistics, ...]], calibration: Calibration
) -> dict[str, dict[Problem, Answer]]:
    """Scale and offset of each channel of each problem, by candidate."""
    statistics = [one for channels in tasks.values() for one in channels]
    schemes = [scheme for (_, scheme, _), channels in tasks.items() for _ in channels]
    candidates = calibration.candidates
    found = observe_all(list(candidates.values()), statistics, schemes, device=calibration.device)
    answers = {}
    for name, several in zip(candidates, map(iter, found), strict=True):
        answers[name] = {
            problem: _filled(channels, [next(several) for _ in channels], problem[1])
            for problem, channels in tasks.items()
        }
    return answers


def _filled(channels: Sequence[TensorStatistics], answers: Sequence[ScaleAndOffset | None], scheme: Scheme) -> Answer:
    """All channels' parameters. One without signal beside others that have some gets the largest scale of theirs.

    A tiny one would cost the bias that is derived from it its range, a huge one its precision.
    """
    live = [answer[0] for one, answer in zip(channels, answers, strict=True) if answer is not None and has_signal(one)]
    known = [(max(live), offset_for(0.0, max(live), scheme))] if live else [one for one in answers if one is not None]
    if not known:
        return None
    return tuple(
        answer if answer is not None and (has_signal(one) or not live) else known[0]
        for one, answer in zip(channels, answers, strict=True)
    )


def _problems(group: Group, members: tuple[str, ...], voices: Voices, calibration: Calibration) -> tuple[Problem, ...]:
    """What has to be solved for a group: all that is heard in it at once, or each value alone."""
    silent = {*voices.heard, *voices.silenced}
    ranked = tuple(name for name in members if name not in silent and calibration.of(name).rows)
    if voices.large is None:
        return ((voices.heard, group.scheme, ranked),)
    signals = [name for name in voices.heard if has_signal(calibration.of(name))]
    if len(signals) < 2:
        return ((tuple(signals) or voices.heard, group.scheme, ranked),)
    return tuple(((name,), rendering_scheme(group.scheme), ()) for name in signals)


def _parameters(group: Group, voices: Voices, answers: Sequence[Answer], calibration: Calibration) -> GroupParameters:
    """The parameters of a group that the target leaves open. One healthy member makes it healthy."""
    tensors = [calibration.of(name) for name in voices.heard]
    states = [condition(one) for one in tensors]
    state = QuantizationState.ACTIVATED
    if None not in states:
        state = condition(pooled(tensors)) or state
    known = [answer for answer in answers if answer is not None]
    if not known:
        return GroupParameters(state, reason=REASONS[state])
    united = known[0]
    if len(known) > 1:
        united = tuple(unite(channel, group.scheme) for channel in zip(*known, strict=True))
    bounds = [calibration.limits.get(name) for name in voices.heard]
    known_bounds = [one for one in bounds if one is not None]
    if bounds and len(known_bounds) == len(bounds):
        limits = min(low for low, _ in known_bounds), max(high for _, high in known_bounds)
        united = tuple(within(one, limits, group.scheme) for one in united)
    scale, offset = zip(*united, strict=True)
    remarks = [REASONS[state]] if state in REASONS else []
    if voices.large is not None and len(known) > 1:
        remarks.append(f"each of {len(known)} values solved alone, the ranges united: {reason(voices.large)}")
    return GroupParameters(state, scale, offset, "; ".join(remarks) or None)


def _pick(
    members: Mapping[str, tuple[str, ...]],
    groups: Sequence[Group],
    voices: Mapping[str, Voices],
    proposals: Mapping[str, _Proposal],
    calibration: Calibration,
) -> SolvedActivations:
    """Noise of each tensor in each of its groups and alone, and where there are several proposals, the best ones."""
    schemes = {group.id: group.scheme for group in groups}
    shared = {
        name: {group.id: proposal.together[group.id].quantizers(group.scheme) for group in groups}
        for name, proposal in proposals.items()
    }
    own = {
        name: {place: _quantizers(answer, schemes[place[0]]) for place, answer in proposal.alone.items()}
        for name, proposal in proposals.items()
    }
    wanted: dict[tuple[str, Quantizers], None] = {}
    for name in proposals:
        for (id_, tensor), alone_here in own[name].items():
            wanted |= {(tensor, one): None for one in (shared[name][id_], alone_here) if one is not None}
    noise = _noises(list(wanted), calibration)
    solved = SolvedActivations({}, {}, {})
    for group in groups:
        heard = [name for name in voices[group.id].heard if has_signal(calibration.of(name))]
        choice = _best({name: [noise.get((one, shared[name][group.id])) for one in heard] for name in proposals})
        if choice.observer and group.fixed is None and heard:
            solved.choices[group.id] = choice
        solved.parameters[group.id] = proposals[choice.observer].together[group.id]
        for tensor in members[group.id]:
            place = group.id, tensor
            alone = {name: noise.get((tensor, own[name].get(place))) for name in proposals}
            taken = alone[_best({name: [value] for name, value in alone.items()}).observer]
            solved.noise[place] = TensorNoise(noise.get((tensor, shared[choice.observer][group.id])), taken)
    return solved


def _quantizers(answer: Answer, scheme: Scheme) -> Quantizers | None:
    return None if answer is None else tuple(Quantizer(scale, offset, scheme) for scale, offset in answer)


def _noises(
    wanted: Sequence[tuple[str, Quantizers]], calibration: Calibration
) -> dict[tuple[str, Quantizers | None], float | None]:
    """Noise of each tensor under its quantizers."""
    channels = [calibration.channels_of(name, quantizers[0].scheme) for name, quantizers in wanted]
    found = channel_noise_db(channels, [quantizers for _, quantizers in wanted], device=calibration.device)
    return dict(zip(wanted, found, strict=True))


def _best(noise: Mapping[str, Sequence[float | None]]) -> Choice:
    """The observer to take, by the mean noise of several tensors; the first one where nothing is known."""
    means = {
        name: sum(known) / len(known)
        for name, values in noise.items()
        if (known := [v for v in values if v is not None])
    }
    if len(noise) == 1 or not means:
        return Choice(next(iter(noise)), "")
    return choose(means)


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


def order_remark(tensor: str, scheme: Scheme, parameters: GroupParameters, calibration: Calibration) -> str | None:
    """What the isotone observer achieved at a tensor: the share of rows in order, or why it had none to keep."""
    if calibration.observer != ISOTONE or not parameters.scale or scheme.axis is not None or parameters.offset is None:
        return None
    rows = calibration.of(tensor).rows
    if not rows:
        return "nothing ranks it, so isotone has no order to keep: solved by mse"
    kept, total = kept_of(rows, parameters.scale[0], parameters.offset[0], scheme)
    return f"order kept in {kept} of {total} rows ({kept / total:.2%})" if total else "no row of it has an order"
