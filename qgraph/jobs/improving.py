"""A better model for a run: weights and biases changed so that its quantized form is nearer to the float model.

::

    model of the run ─ fold, equalize ─▶ prepared model ─ calibrate, solve ─▶ quantized ─ measure ─▶ biases
                                                                                                       │
    database ◀─ calibrate, solve ─ NAME.improved.onnx ◀────────────────────────────────────────────────┘

What is tried on the way lives in a temporary database; the user's gets the derived model, its calibration and run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from qgraph.analysis.sessions import InMemory, run_once
from qgraph.analysis.verify import verify as compare
from qgraph.calib.batches import batches, joined
from qgraph.calib.channels import magnitudes
from qgraph.calib.data import open_data
from qgraph.calib.images import ImageOptions
from qgraph.errors import UsageError
from qgraph.formats.onnx_file import write_checked
from qgraph.formats.qdq import to_qdq
from qgraph.improve.bias import (
    CHANNEL_AXIS,
    bias_corrections,
    channel_means,
    with_corrections,
    with_rounded_weights,
)
from qgraph.improve.equalize import equalize
from qgraph.improve.fold import fold_factors
from qgraph.improve.pieces import Values, peak_bytes
from qgraph.improve.settings import Parts
from qgraph.improve.weighted import weighted_ops, with_biases
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.jobs.calibrating import Report, Ticker, calibrate, load_statistics
from qgraph.jobs.exporting import Opened, open_run, refuse_to_overwrite
from qgraph.jobs.question import Question, question_of, settings_of
from qgraph.jobs.solving import answer
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import RunData
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database, open_database, sqlite_file
from qgraph.store.encoding import Encodable

MEMORY = 1 << 30
"""Bytes that the activations of all samples may take while biases are measured; with more, fewer samples are used."""

MEASURED_SAMPLES = 16
"""How many samples biases are measured on while something is tried; the mean over the places of an image needs few."""

JUDGED_SAMPLES = 32
"""How many samples the outputs are compared on; by few of them the luckiest would be taken, and not the best."""

LEAST_GAIN_DB = 0.5
"""What a change must gain to be kept: less may be luck."""

OBSERVERS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("mse", {}),
    ("percentile", {"percentile": 0.9999}),
    ("percentile", {"percentile": 0.99999}),
    ("minmax", {}),
    ("kl", {}),
)
"""What is tried beside the run's own observer."""

KEPT, WEIGHTS = "kept", "for weights"

SHARES = {"by half": 0.5, "in full": 1.0}
"""How much of the measured shift of an op's output is taken back."""

WAYS = (KEPT, WEIGHTS, *SHARES)
"""How biases are corrected: not at all, for what rounding the weights shifts, or for all that shifts an output."""

BEST_POSSIBLE_DB = 100.0
"""What an output that is exact counts for in a mean."""


@dataclass(frozen=True, slots=True)
class Improved:
    """What a call of `improve` did.

    Attributes:
        run: the id of the new run.
        model: the derived model's file.
        seconds: what each part took, in the order of work.
        done: a line for each part about what it did.
    """

    run: str
    model: Path
    calibration: str
    seconds: Mapping[str, float]
    done: tuple[str, ...]


@dataclass
class _Work:
    """What the parts share.

    Attributes:
        reference: the run's own model.
        feeds: samples to measure on, by input.
        libraries: with the model's custom ops.
    """

    reference: ImportedModel
    question: Question
    shapes: Mapping[str, tuple[int, ...]]
    feeds: list[Values]
    data: object
    images: ImageOptions | None
    steps: int | None
    folder: Path
    libraries: Sequence[Path]
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    closed: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what is done in the block to a part's time."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def calibrated(self, database: Database, path: Path, tick: Ticker | None = None) -> str:
        """Calibrate a changed model on the same data; returns the calibration's id."""
        done = calibrate(
            lambda: database,
            path,
            self.data,
            steps=self.steps,
            images=self.images,
            question=self.question,
            libraries=self.libraries,
            tick=tick,
        )
        return done.calibration

    def tell(self, line: str) -> None:
        """Say what a part did, now and at the end."""
        self.done.append(line)
        self.report(line)


@dataclass(frozen=True)
class _Candidate:
    """A model with a solution, somewhere on the way.

    Attributes:
        database: holds its calibration.
    """

    model: ImportedModel
    data: RunData
    database: Database
    calibration: str

    def quantized(self, model: ModelProto | None = None) -> ModelProto:
        """The QDQ model, of other weights and biases if some are given."""
        return to_qdq(model or self.model.proto, self.data, {}, self.model.folder)


def improve(
    database: Database,
    reference: str,
    data: object,
    *,
    output: Path | None = None,
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    parts: Parts | None = None,
    name: str | None = None,
    libraries: Sequence[Path] = (),
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Improved:
    """Make a derived model of a run, calibrate it and solve it as the run was.

    Args:
        reference: the run.
        data: samples to calibrate and to measure on; see `qgraph.calib.data.open_data`.
        output: where the derived model goes; None for ``NAME.improved.onnx`` in the database's folder.
        model: where the float model is now, if it was moved.
        steps: samples to use; None for all.
        parts: which parts work; None for the defaults.
        name: of the new run.
        libraries: with the model's custom ops; see `qgraph.calib.op_libraries`.
        report: called with each line that the user should know.
        tick: called with the samples that the derived model's calibration has counted, and the number of all.

    Raises:
        UsageError: the run has no scales, or the derived model would replace something.
        QgraphError: what reading the data or the model, calibrating and solving may raise.
    """
    parts = parts or Parts()
    opened = open_run(database, reference, model)
    place = output or _beside(database, opened.model)
    refuse_to_overwrite(place, opened, database)
    with tempfile.TemporaryDirectory(prefix="qgraph-") as folder, ExitStack() as closed:
        work = _prepared(opened, data, images, steps, Path(folder), libraries, report)
        work.closed = closed
        with database.reading() as connection:
            calibration = runs.resolve_run(connection, opened.run).calibration or ""
        candidate = _Candidate(opened.model, opened.data, database, calibration)
        best = _chosen(work, _restructured(work, candidate, database, opened, parts), parts)
        with work.timed("bias"):
            proto = _corrected(best.candidate, best.way, work.feeds, libraries)
        metadata = {"qgraph.improved": opened.run, "qgraph.parts": " ".join(parts.on)}
        with work.timed("write"):
            trial = partial(run_once, shapes=opened.input_shapes, libraries=libraries)
            write_checked(_named(proto, metadata), place, trial, opened.model.folder)
    with work.timed("calibrate"):
        calibrated = work.calibrated(database, place, tick)
        with database.reading() as connection:
            record = calibrations.load_calibration(connection, calibrated)
        solved = answer(database, record, work.question, given=_activations(best.candidate.data))
    with database.transaction() as connection:
        run = runs.save_run(connection, record.model, record.id, solved, name=name)
        ids = [runs.resolve_run(connection, one).model for one in (run, opened.run)]
        if ids[0] != ids[1]:  # nothing may have helped: then it is still the same model
            how: dict[str, Encodable] = {"run": opened.run, "parts": asdict(parts), "done": tuple(work.done)}
            models.derive(connection, ids[0], ids[1], how)
    return Improved(run, place, calibrated, work.seconds, tuple(work.done))


def _activations(run: RunData) -> dict[str, GroupParameters]:
    """The parameters of the groups of activations.

    The biases were measured with them, so the derived model keeps them: its own activations are no better ground, as
    its biases make up for a rounding that it does not have in float.
    """
    masters = {one.group: one for one in run.tqcs if one.group is not None and one.master is None}
    return {
        group: GroupParameters(one.state, one.scale, one.offset, one.reason)
        for group, one in masters.items()
        if one.role == "activation" and one.scale is not None
    }


def _beside(database: Database, model: ImportedModel) -> Path:
    file = sqlite_file(database)
    if file is None:
        raise UsageError(
            "a database server has no folder for the derived model", model.path.name, "name a file with -o"
        )
    return file.resolve().parent / f"{model.path.stem}.improved.onnx"


def _prepared(
    opened: Opened,
    data: object,
    images: ImageOptions | None,
    steps: int | None,
    folder: Path,
    libraries: Sequence[Path],
    report: Report,
) -> _Work:
    """Read the samples to measure on: as many as memory allows, evenly spread."""
    structure = opened.model.structure
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    with closing(open_data(data, [tensors[name] for name in structure.inputs], images=images)) as source:
        feeds: list[Values] = [dict(joined(batch)) for batch in batches(source.samples(steps), source)]
        for line in source.notes():
            report(line)
    if not feeds:
        raise UsageError("no samples to improve on", str(data), "give at least one")
    ends = [op.output for op in weighted_ops(opened.model.proto.graph)]
    most = max(1, MEMORY // peak_bytes(opened.model.proto, ends, feeds[0], opened.model.folder, libraries))
    chosen = [feeds[index] for index in _spread(len(feeds), most)]
    if len(chosen) < len(feeds):
        report(f"biases are measured on {len(chosen)} of {len(feeds)} samples, for memory")
    question = question_of(opened.data.settings)
    return _Work(opened.model, question, opened.input_shapes, chosen, data, images, steps, folder, libraries, report)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread."""
    chosen = min(count, most)
    return [index * count // chosen for index in range(chosen)]


def _restructured(
    work: _Work, candidate: _Candidate, database: Database, opened: Opened, parts: Parts
) -> list[_Candidate]:
    """The candidate folded, and that equalized, each calibrated and solved anew if that changed anything.

    Folding is never worse. Equalizing may be: what the activations gain the weights may lose.
    """
    found, folder = [candidate], candidate.model.folder
    if parts.fold:
        with work.timed("fold"):
            proto, swallowed = fold_factors(candidate.model.proto, folder)
            work.tell(f"fold: {sum(map(len, swallowed.values()))} ops into {len(swallowed)}")
            found = [_solved(work, proto, "folded")] if swallowed else found
    if parts.equalize:
        with work.timed("equalize"):
            before = found[-1].model
            sizes = _magnitudes(database, opened)
            proto, factors = equalize(before.proto, before.structure, sizes, before.folder)
            work.tell(f"equalize: {len(factors)} tensors can be")
            found += [_solved(work, proto, "equalized")] if factors else []
    return found


def _magnitudes(database: Database, opened: Opened) -> dict[str, NDArray[np.float64]]:
    """The largest absolute value of each channel of what weighted ops read, from the run's calibration."""
    with database.reading() as connection:
        calibration = runs.resolve_run(connection, opened.run).calibration or ""
    ranks = {tensor.name: len(tensor.shape) for tensor in opened.model.structure.tensors if tensor.shape}
    return {
        name: magnitudes(one)
        for name, found in load_statistics(database, calibration).items()
        for one in found.channels
        if name in ranks and one.axis % ranks[name] == CHANNEL_AXIS
    }


def _solved(work: _Work, proto: ModelProto, name: str) -> _Candidate:
    """A changed model, written, calibrated and solved in the temporary folder."""
    path, location = work.folder / f"{name}.onnx", work.folder / f"{name}.db"
    trial_run = partial(run_once, shapes=work.shapes, libraries=work.libraries)
    write_checked(proto, path, trial_run, work.reference.folder)
    trial = work.closed.enter_context(closing(open_database(str(location), create=True)))
    calibrated = work.calibrated(trial, path)
    with trial.reading() as connection:
        record = calibrations.load_calibration(connection, calibrated)
    return _Candidate(load_model(path), answer(trial, record, work.question), trial, calibrated)


@dataclass(frozen=True)
class _Trial:
    """A candidate with its biases corrected in one of `WAYS`, and how near its outputs are to the float model's."""

    candidate: _Candidate
    question: Question
    way: str
    score_db: float


def _chosen(work: _Work, candidates: Sequence[_Candidate], parts: Parts) -> _Trial:
    """Take of the candidates, and then of the observers, what is nearest to the float model.

    What is there already stays unless something gains `LEAST_GAIN_DB`. The biases of the best are measured again by the
    caller, on all samples.
    """
    with work.timed("equalize"):
        trials = [_best(work, one, work.question, parts) for one in candidates]
        best = _best_of(trials)
        if len(trials) > 1:
            kept = "kept" if best is not trials[0] else "not kept"
            work.tell(f"equalize: {trials[-1].score_db:.2f} dB instead of {trials[0].score_db:.2f} dB, {kept}")
    if parts.observer:
        with work.timed("observer"):
            rivals = [_best(work, best.candidate, one, parts) for one in _questions(work.question)]
            own, best = best, _best_of([best, *rivals])
            work.tell(f"observer: {_words(best.question)}, {best.score_db:.2f} dB; own {own.score_db:.2f} dB")
    work.question = best.question
    work.tell(f"biases: {'as they were' if best.way == KEPT else f'corrected {best.way}'}")
    return best


def _best_of(trials: Sequence[_Trial]) -> _Trial:
    """The trial with the best score; the first one unless that gains enough."""
    best = max(trials, key=lambda trial: trial.score_db)
    return best if best.score_db > trials[0].score_db + LEAST_GAIN_DB else trials[0]


def _best(work: _Work, candidate: _Candidate, question: Question, parts: Parts) -> _Trial:
    """The best way to correct the biases of a candidate that is solved for a question."""
    if question is not work.question:
        with candidate.database.reading() as connection:
            record = calibrations.load_calibration(connection, candidate.calibration)
        candidate = replace(candidate, data=answer(candidate.database, record, question))
    measured = [work.feeds[index] for index in _spread(len(work.feeds), MEASURED_SAMPLES)]
    judged = [work.feeds[index] for index in _spread(len(work.feeds), JUDGED_SAMPLES)]
    ways = WAYS if parts.bias else WAYS[:1]
    scores = {
        way: _score(work, candidate, _corrected(candidate, way, measured, work.libraries), judged) for way in ways
    }
    told = ", ".join(f"{way} {score:.2f}" for way, score in scores.items())
    work.report(f"{_words(question)}, SNR in dB with biases {told}")
    return _best_of([_Trial(candidate, question, way, score) for way, score in scores.items()])


def _questions(own: Question) -> Iterator[Question]:
    """The question with other observers than the run's own."""
    for observer, given in OBSERVERS:
        other = replace(own, observer=observer, parameters=given, weights=settings_of(own).weights)
        if settings_of(other) != settings_of(own):
            yield other


def _words(question: Question) -> str:
    given = ", ".join(f"{name}={value}" for name, value in question.parameters.items())
    return f"{question.observer} ({given})" if given else str(question.observer)


def _score(work: _Work, candidate: _Candidate, proto: ModelProto, feeds: Sequence[Values]) -> float:
    """The mean SNR of the outputs against the run's own float model, in dB."""
    name = work.reference.path.name
    reference = InMemory(work.reference.serialized(), work.reference.folder, name)
    quantized = InMemory(candidate.quantized(proto).SerializeToString(), work.reference.folder, name)
    found = compare(reference, quantized, feeds, libraries=work.libraries).outputs.values()
    return sum(min(one.snr_db, BEST_POSSIBLE_DB) for one in found) / max(1, len(found))


def _corrected(candidate: _Candidate, way: str, feeds: Sequence[Values], libraries: Sequence[Path]) -> ModelProto:
    """The candidate's float model with its biases corrected in one of `WAYS`."""
    folder, proto = candidate.model.folder, with_biases(candidate.model.proto)
    if way == KEPT:
        return candidate.model.proto
    ops = weighted_ops(proto.graph)
    expected = channel_means(proto, ops, feeds, folder, libraries=libraries)
    if way == WEIGHTS:
        rounded = with_rounded_weights(proto, ops, candidate.data, folder)
        found = bias_corrections(rounded, ops, expected, feeds, folder, libraries=libraries)
        return with_corrections(proto, found, folder)
    quantized = candidate.quantized()
    found = bias_corrections(quantized, ops, expected, feeds, folder, share=SHARES[way], libraries=libraries)
    return with_corrections(proto, found, folder)


def _named(proto: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """The model with what made it in its metadata."""
    result = ModelProto()
    result.CopyFrom(proto)
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(result, dict(sorted({**kept, **metadata}.items())))
    return result
