"""What may become a better model, and which of it is nearest to the float model at the outputs, as measured.

::

    models ─ solved by each observer ─▶ of each model the nearest ─┬──────────────────▶ biases corrected ─▶ the nearest
                                                                   └─ other ranges ─▶
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import log10
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qgraph.analysis.sessions import InMemory, open_session
from qgraph.calib.channels import means
from qgraph.calib.evidence import METHODS
from qgraph.calib.side_by_side import side_by_side
from qgraph.formats.qdq import to_qdq
from qgraph.improve.bias import (
    CHANNEL_AXIS,
    Means,
    analytic_corrections,
    bias_corrections,
    channel_means,
    with_corrections,
)
from qgraph.improve.effort import Effort, picked
from qgraph.improve.nearness import Outputs, Powers, powers_of, sure_gain_db
from qgraph.improve.pieces import Values
from qgraph.improve.ranges import better_ranges, costly_groups
from qgraph.improve.settings import Parts
from qgraph.improve.simulation import Simulation
from qgraph.improve.weighted import weighted_ops, with_biases
from qgraph.ir.onnx_import import ImportedModel
from qgraph.jobs.calibrating import Report, load_statistics
from qgraph.jobs.question import Question, settings_of
from qgraph.jobs.solving import answer
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import RunData
from qgraph.store import calibrations
from qgraph.store.database import Database
from qgraph.tqc import QuantizationState

SIGNAL = 0.999
"""What share of the signal at the outputs the samples hold that biases and ranges are measured on. A detector is silent
on most pictures; what shifts there says nothing about the others."""

MEASUREMENTS = 90
"""How often may be measured to find the costly groups."""

LEAST_GAIN_DB = 0.1
"""What a change must surely gain: of what is as good, that is taken which changes less."""

OBSERVERS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("mse", {}),
    ("percentile", {"percentile": 0.9999}),
    ("percentile", {"percentile": 0.99999}),
    ("minmax", {}),
    ("kl", {}),
)
"""What is tried beside the run's own observer."""

KEPT, ANALYTIC = "kept", "for weights"

SHARES = {"by half": 0.5, "in full": 1.0}
"""How much of the shift that is measured behind the analytic correction is taken back."""

WAYS = (KEPT, ANALYTIC, *SHARES)
"""How biases are corrected: not at all, for what rounding the weights shifts, or for what shifts an output as well."""

KEPT_OR_NOT = ("not kept", "kept")


@dataclass
class Workplace:
    """What all parts of the work share.

    Attributes:
        reference: the run's own model.
        feeds: samples to measure on, by input.
        expected: the outputs of the run's own model, for each of them.
        libraries: with the model's custom ops.
        effort: how much is measured.
        means: the means of what ops make in float, by model and samples: each is measured once.
        seconds: what each part took.
        done: a line for each part about what it did.
        closed: is left once everything is done.
    """

    reference: ImportedModel
    question: Question
    feeds: list[Values]
    expected: Sequence[Outputs]
    libraries: Sequence[Path]
    report: Report
    effort: Effort
    means: dict[tuple[Path, tuple[int, ...]], Means] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    closed: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what is done in the block to a part's time."""
        start = perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - start

    def tell(self, line: str) -> None:
        """Say what a part did, now and at the end."""
        self.done.append(line)
        self.report(line)

    def telling(self, most: int) -> list[int]:
        """The samples with the most signal at the outputs, which hold `SIGNAL` of it; some of them if too many do."""
        shares = np.zeros(len(self.feeds))
        for outputs in zip(*self.expected, strict=True):
            if np.issubdtype(np.asarray(outputs[0]).dtype, np.floating):
                energy = np.array([float(np.square(np.nan_to_num(one.astype(np.float64))).sum()) for one in outputs])
                shares += energy / (energy.sum() or 1.0)
        order = np.argsort(-shares, kind="stable")
        held = np.cumsum(shares[order])
        count = max(1, int(np.searchsorted(held, SIGNAL * held[-1]) + 1)) if held[-1] else len(order)
        return [int(order[index]) for index in picked(min(count, len(order)), most)]


@dataclass(frozen=True)
class Calibrated:
    """A model, somewhere on the way.

    Attributes:
        database: holds its calibration.
    """

    model: ImportedModel
    database: Database
    calibration: str

    def solved(self, question: Question, given: Mapping[str, GroupParameters] | None = None) -> Candidate:
        """The model solved for a question, or with some parameters of groups."""
        with self.database.reading() as connection:
            record = calibrations.load_calibration(connection, self.calibration)
        found = answer(self.database, record, question, given=given or {}, with_noise=False)
        return Candidate(self.model, self.database, self.calibration, found)


@dataclass(frozen=True)
class Candidate(Calibrated):
    """A model with a solution."""

    data: RunData

    def quantized(self, model: ModelProto | None = None) -> ModelProto:
        """The QDQ model, of other weights and biases if some are given."""
        return to_qdq(model or self.model.proto, self.data, {}, self.model.folder)


Attempt = tuple[Calibrated, Question, Mapping[str, GroupParameters]]
"""A model to be solved for a question, and the parameters of groups that are given."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate that was solved for a question, the correction of its biases, and how near its outputs are.

    Attributes:
        powers: of the outputs against those of the run's own float model, with integer kernels.
        proto: the float model with its biases corrected, if they are not measured again at the end.
    """

    candidate: Candidate
    question: Question
    powers: Powers
    way: str = KEPT
    proto: ModelProto | None = None

    @property
    def score_db(self) -> float:
        """The mean SNR of the outputs."""
        return -10 * log10(self.powers.noise()[0])


def activations(run: RunData) -> dict[str, GroupParameters]:
    """The parameters of the groups of activations, by id."""
    masters = {one.group: one for one in run.tqcs if one.group is not None and one.master is None}
    return {
        group: GroupParameters(one.state, one.scale, one.offset, one.reason)
        for group, one in masters.items()
        if one.role == "activation" and one.scale is not None
    }


def chosen(work: Workplace, candidates: Sequence[Calibrated], parts: Parts) -> Trial:
    """Take of the candidates, the observers, the ranges and the corrections what is nearest to the float model.

    What is there already stays unless something surely gains `LEAST_GAIN_DB`. The biases of the best are measured once
    more by the caller, see `finished`.
    """
    starts, rivals = _explored(work, candidates, parts)
    own = starts[0]
    plain, ranged = [_surest(one, own) for one in rivals], list[Trial]()
    if parts.ranges:
        with work.timed("ranges"):
            surest = _surest(plain, own)
            some = rivals[plain.index(surest)]
            begun = _starts(surest, some) if work.effort.all_ways else [surest]
            ranged = [_ranged(work, start, some) for start in begun]
    compared = [*plain, *ranged]
    finalists = compared if work.effort.all_ways else [_surest(compared, own)]
    if parts.bias:
        with work.timed("bias"):
            finalists = [_surest(_corrected_ways(work, one), own) for one in finalists]
    if work.effort.all_ways:
        compared = finalists
    best = _surest([own, *finalists], own)
    if len(candidates) > 1:
        is_kept = best.candidate.model is not candidates[0].model
        scores = [one.score_db for one in (compared if work.effort.all_ways else starts)]
        before = ("" if not parts.ranges else " before other ranges") if work.effort.all_ways else " before all else"
        work.tell(f"equalize: {KEPT_OR_NOT[is_kept]}; {scores[1]:.2f} dB instead of {scores[0]:.2f} dB{before}")
    if parts.observer:
        work.tell(f"observer: {_words(best.question)}; the run has {_words(own.question)}")
    if parts.weights:
        weights = [settings_of(one.question).weights for one in (best, own)]
        work.tell(f"weights: {weights[0]}; the run has {weights[1]}")
    if ranged:
        scores = [max(one.score_db for one in some) for some in (compared[len(plain) :], compared[: len(plain)])]
        is_kept = any(best.candidate is one.candidate for one in ranged)
        work.tell(f"ranges: {scores[0]:.2f} dB instead of {scores[1]:.2f} dB, {KEPT_OR_NOT[is_kept]}")
    if parts.bias:
        work.tell(f"biases: {'as they were' if best.way == KEPT else f'corrected {best.way}'}")
    work.tell(f"SNR of the outputs: {best.score_db:.2f} dB instead of {own.score_db:.2f} dB")
    return best


def _explored(work: Workplace, candidates: Sequence[Calibrated], parts: Parts) -> tuple[list[Trial], list[list[Trial]]]:
    """The models as the run was solved; and of those that are followed, these and the trials of all else."""
    questions = list(_questions(work.question)) if parts.observer else []
    with work.timed("observer"):
        starts = _trials(work, [(one, work.question, {}) for one in candidates])
        followed = starts if work.effort.all_ways else [_surest(starts, starts[0])]
        others = iter(_trials(work, [(one.candidate, question, {}) for one in followed for question in questions]))
        rivals = [[one, *islice(others, len(questions))] for one in followed]
    if parts.weights:
        with work.timed("weights"):
            weighted = _trials(work, [_otherwise_weighted(_surest(some, starts[0])) for some in rivals])
            rivals = [[*some, one] for some, one in zip(rivals, weighted, strict=True)]
    return starts, rivals


def _surest(trials: Sequence[Trial], own: Trial) -> Trial:
    """The trial that surely gains most on the run's own; of those that lack less than `LEAST_GAIN_DB`, the first."""
    gains = [sure_gain_db(one.powers, own.powers) for one in trials]
    return next(one for one, gain in zip(trials, gains, strict=True) if gain > max(gains) - LEAST_GAIN_DB)


def _questions(own: Question) -> Iterator[Question]:
    """The question with other observers than the run's own."""
    for observer, given in OBSERVERS:
        other = replace(own, observer=observer, parameters=given, weights=settings_of(own).weights)
        if settings_of(other) != settings_of(own):
            yield other


def _otherwise_weighted(best: Trial) -> Attempt:
    """A trial's model with scales of weights by another method."""
    own = settings_of(best.question).weights
    question = replace(best.question, weights=next(method for method in METHODS if method != own))
    return best.candidate, question, activations(best.candidate.data)


def _words(question: Question) -> str:
    given = ", ".join(f"{name}={value}" for name, value in question.parameters.items())
    return f"{question.observer} ({given})" if given else str(question.observer)


def _trials(work: Workplace, attempts: Iterable[Attempt]) -> list[Trial]:
    """Models solved for questions, their biases as they are, and how near their outputs are.

    Side by side: each is solved and run in one thread, which is faster than one after the other in two.
    """
    found = side_by_side(partial(_trial, work), attempts)
    for one in found:
        words = f"{_words(one.question)}, weights {settings_of(one.question).weights}"
        work.report(f"{one.candidate.model.path.stem}, {words}: {one.score_db:.2f} dB")
    return found


def _trial(work: Workplace, attempt: Attempt) -> Trial:
    model, question, given = attempt
    if isinstance(model, Candidate) and not given and settings_of(question) == model.data.settings:
        candidate = model
    else:
        candidate = model.solved(question, given)
    return Trial(candidate, question, _powers(work, candidate.quantized()))


def _starts(surest: Trial, rivals: Sequence[Trial]) -> list[Trial]:
    """The trials whose ranges others are tried in: the surest, and that of least error of the values themselves.

    The latter is best for all that costs little, which the outputs tell only once what costs much is mended.
    """
    least = next((one for one in rivals if one.question.observer == "mse"), surest)
    return [surest] if surest.question.observer == "mse" else list(dict.fromkeys((surest, least)))


def _ranged(work: Workplace, start: Trial, rivals: Sequence[Trial]) -> Trial:
    """A trial with other ranges for the costly groups; those that the rivals of the same model have are tried, too.

    The samples are dealt out: groups are found on some, and a range must be better on the others, too.
    """
    run, samples = start.candidate.data, work.telling(work.effort.ranged)
    feeds, expected = [work.feeds[index] for index in samples], [work.expected[index] for index in samples]
    simulation = Simulation(start.candidate.model, run, feeds, expected, work.libraries)
    first = range(0, len(samples), work.effort.ranged // work.effort.searched)
    others = [number for number in range(len(samples)) if number not in first]
    noises = [partial(simulation.noise, samples=part) for part in (first, others) if part]
    parameters = {group: one for group, one in activations(run).items() if group in simulation.groups}
    proposals: dict[str, list[GroupParameters]] = {}
    for rival in rivals:
        for group, one in activations(rival.candidate.data).items():
            proposals.setdefault(group, []).append(replace(one, reason=f"as {_words(rival.question)} has it"))
    known = [group for group in simulation.groups if group in parameters]  # a constant may lead a group
    free = [group for group in known if parameters[group].state == QuantizationState.ACTIVATED]
    costly = costly_groups(free, parameters, noises[0], work.effort.costly, MEASUREMENTS)
    changed = better_ranges(costly, parameters, proposals, noises)
    solved = start.candidate.solved(start.question, {**activations(run), **changed})
    work.report(f"other ranges for {len(changed)} of {len(parameters)} groups")
    return replace(start, candidate=solved, powers=_powers(work, solved.quantized()))


def _corrected_ways(work: Workplace, best: Trial) -> list[Trial]:
    """A trial with its biases corrected in each of `WAYS`."""
    samples = work.telling(work.effort.biased)
    trials = [best]
    for way in WAYS[1:]:
        proto = corrected(work, best.candidate, way, samples)
        powers = _powers(work, best.candidate.quantized(proto))
        trials.append(replace(best, way=way, powers=powers, proto=None if work.effort.all_ways else proto))
    work.report("biases, SNR in dB: " + ", ".join(f"{one.way} {one.score_db:.2f}" for one in trials))
    return trials


def _powers(work: Workplace, quantized: ModelProto) -> Powers:
    """How near a model's outputs are."""
    samples = sorted(picked(len(work.feeds), work.effort.judged))
    model = InMemory(quantized.SerializeToString(), work.reference.folder, work.reference.path.name)
    session = open_session(model, libraries=work.libraries, threads=1)
    found = side_by_side(lambda index: session.run(None, dict(work.feeds[index])), samples)
    return powers_of([work.expected[index] for index in samples], found)


def finished(work: Workplace, best: Trial) -> ModelProto:
    """The float model of the best trial, its biases measured on all samples with signal if that is not too much."""
    if best.proto is not None:
        return best.proto
    return corrected(work, best.candidate, best.way, work.telling(len(work.feeds)))


def corrected(work: Workplace, candidate: Candidate, way: str, samples: Sequence[int]) -> ModelProto:
    """The candidate's float model with its biases corrected in one of `WAYS`.

    Args:
        samples: the numbers of those to measure on.
    """
    if way == KEPT:
        return candidate.model.proto
    folder, proto = candidate.model.folder, with_biases(candidate.model.proto)
    ops = weighted_ops(proto.graph)
    analytic = analytic_corrections(proto, ops, candidate.data, _input_means(candidate), folder)
    result = with_corrections(proto, analytic, folder)
    if way == ANALYTIC:
        return result
    feeds = [work.feeds[index] for index in samples]
    key = candidate.model.path, tuple(samples)
    if key not in work.means:
        work.means[key] = channel_means(proto, ops, feeds, folder, libraries=work.libraries)
    expected = work.means[key]
    quantized = candidate.quantized(result)
    found = bias_corrections(quantized, ops, expected, feeds, folder, share=SHARES[way], libraries=work.libraries)
    return with_corrections(result, found, folder)


def _input_means(candidate: Candidate) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel of what weighted ops read, from the candidate's calibration."""
    ranks = {tensor.name: len(tensor.shape) for tensor in candidate.model.structure.tensors if tensor.shape}
    return {
        name: np.nan_to_num(means(one))
        for name, found in load_statistics(candidate.database, candidate.calibration).items()
        for one in found.channels
        if name in ranks and one.axis % ranks[name] == CHANNEL_AXIS
    }
