"""A better model for a run: weights and biases changed so that its quantized form is nearer to the float model.

::

    model of the run ─ fold, equalize ─▶ prepared model ─ calibrate, solve ─▶ quantized ─ measure ─▶ biases
                                                                                                       │
    database ◀─ calibrate, solve ─ NAME.improved.onnx ◀────────────────────────────────────────────────┘

What is tried on the way lives in a temporary database; the user's gets the derived model, its calibration and run.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from qgraph.analysis.sessions import InMemory, open_session, run_float, run_once
from qgraph.calib.channels import magnitudes
from qgraph.calib.data.batches import batches, joined
from qgraph.calib.data.images import ImageOptions
from qgraph.calib.data.source import open_data
from qgraph.calib.plan import capabilities, plan_collection
from qgraph.errors import UsageError
from qgraph.formats.onnx_file import write_checked
from qgraph.improve.bias import CHANNEL_AXIS
from qgraph.improve.effort import FULL, effort_for, picked
from qgraph.improve.equalize import equalize
from qgraph.improve.fold import fold_factors
from qgraph.improve.pieces import Values, footprint
from qgraph.improve.settings import Parts
from qgraph.improve.weighted import weighted_ops
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.jobs.calibrating import CHECKPOINT_SECONDS, Report, Ticker, calibrate, load_statistics
from qgraph.jobs.exporting import Opened, open_run, refuse_to_overwrite
from qgraph.jobs.question import question_of, refuse_imported
from qgraph.jobs.solving import answer
from qgraph.jobs.trials import Calibrated, Candidate, Workplace, activations, chosen, finished
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database, open_database, sqlite_file
from qgraph.store.encoding import Encodable

MEMORY = 1 << 30
"""Bytes that the activations of all samples may take while biases are measured; with more, fewer samples are used."""


@dataclass(frozen=True, slots=True)
class Improved:
    """What a call of `improve` did.

    Attributes:
        run: the id of the new run.
        model: the derived model's file.
        seconds: what each part took, in the order of work.
        done: a line for each part about what it did.
        snr_db: of the outputs on the samples, before the biases are measured once more.
    """

    run: str
    model: Path
    calibration: str
    seconds: Mapping[str, float]
    done: tuple[str, ...]
    snr_db: float


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
    thorough: bool = False,
    name: str | None = None,
    libraries: Sequence[Path] = (),
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Improved:
    """Make a derived model of a run, calibrate it and solve it as the run was.

    Args:
        reference: the run.
        data: samples to calibrate and to measure on; see `qgraph.calib.data.source.open_data`.
        output: where the derived model goes; None for ``NAME.improved.onnx`` in the database's folder.
        model: where the float model is now, if it was moved.
        steps: samples to use; None for all.
        parts: which parts work; None for the defaults.
        thorough: compare on as many samples as if they were small, see `qgraph.improve.effort`.
        name: of the new run.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.
        report: called with each line that the user should know.
        tick: called with the samples that the derived model's calibration has counted, and the number of all.

    Raises:
        UsageError: the run has no scales, or the derived model would replace something.
        QgraphError: what reading the data or the model, calibrating and solving may raise.
    """
    parts = parts or Parts()
    opened = open_run(database, reference, model)
    refuse_imported(opened.run, opened.data.settings)
    place = output or _beside(database, opened.model)
    refuse_to_overwrite(place, opened, database)
    candidate = Candidate(opened.model, database, _calibration_of(database, opened), opened.data)
    with tempfile.TemporaryDirectory(prefix="qgraph-") as folder, ExitStack() as closed:
        samples = _Samples(data, steps, images, opened.input_shapes, tuple(libraries))
        work = _prepared(opened, samples, closed, report, thorough=thorough)
        best = chosen(work, _restructured(work, samples, candidate, Path(folder), parts), parts)
        with work.timed("bias"):
            proto = finished(work, best)
        metadata = {"qgraph.improved": opened.run, "qgraph.parts": " ".join(parts.on)}
        with work.timed("write"):
            write_checked(_named(proto, metadata), place, samples.trial_run, opened.model.folder)
    work.question = best.question
    # The biases were measured with these parameters, so the derived model keeps them: its own activations are no better
    # ground, as its biases make up for a rounding that it does not have in float.
    kept = activations(best.candidate.data)
    with work.timed("calibrate"):
        calibrated = samples.calibrated(database, place, work, tick=tick)
        with database.reading() as connection:
            record = calibrations.load_calibration(connection, calibrated)
        solved = answer(database, record, work.question, given=kept)
    with database.transaction() as connection:
        told = hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()
        run = runs.save_run(connection, record.model, record.id, solved, name=name, given=told)
        ids = [runs.resolve_run(connection, one).model for one in (run, opened.run)]
        if ids[0] != ids[1]:  # nothing may have helped: then it is still the same model
            how: dict[str, Encodable] = {"run": opened.run, "parts": asdict(parts), "done": tuple(work.done)}
            models.derive(connection, ids[0], ids[1], how)
    return Improved(run, place, calibrated, work.seconds, tuple(work.done), best.score_db)


def _calibration_of(database: Database, opened: Opened) -> str:
    with database.reading() as connection:
        calibration = runs.resolve_run(connection, opened.run).calibration
        if calibration is None:
            raise UsageError("the run has no calibration", opened.run, "run qgraph calibrate, then improve its run")
        identity = calibrations.load_calibration(connection, calibration).identity
    found, needed = json.loads(identity.capability or "{}"), capabilities(plan_collection(opened.model.structure))
    if found.get("channel_sums", 0) < int(needed["channel_sums"]):
        what = "a lean calibration, without the means and ranges of channels"
        raise UsageError(what, f"{calibration} of {opened.run}", "run qgraph calibrate without --lean, improve its run")
    return calibration


def _beside(database: Database, model: ImportedModel) -> Path:
    file = sqlite_file(database)
    if file is None:
        raise UsageError(
            "a database server has no folder for the derived model", model.path.name, "name a file with -o"
        )
    return file.resolve().parent / f"{model.path.stem}.improved.onnx"


@dataclass(frozen=True)
class _Samples:
    """What models are calibrated on, and how."""

    data: object
    steps: int | None
    images: ImageOptions | None
    shapes: Mapping[str, tuple[int, ...]]
    libraries: tuple[Path, ...]

    def trial_run(self, path: Path) -> None:
        """Run a model once, in the shapes in which the original was fed."""
        run_once(path, shapes=self.shapes, libraries=self.libraries)

    def calibrated(
        self,
        database: Database,
        path: Path,
        work: Workplace,
        *,
        checkpoint_every: float = CHECKPOINT_SECONDS,
        tick: Ticker | None = None,
    ) -> str:
        """Calibrate a changed model on the same data; returns the calibration's id."""
        done = calibrate(
            lambda: database,
            path,
            self.data,
            steps=self.steps,
            images=self.images,
            question=work.question,
            libraries=self.libraries,
            checkpoint_every=checkpoint_every,
            tick=tick,
        )
        return done.calibration


def _prepared(opened: Opened, samples: _Samples, closed: ExitStack, report: Report, *, thorough: bool) -> Workplace:
    """Read the samples to measure on, as many as memory allows, and run the float model on them."""
    structure = opened.model.structure
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    inputs = [tensors[name] for name in structure.inputs]
    with closing(open_data(samples.data, inputs, images=samples.images)) as source:
        feeds: list[Values] = [dict(joined(batch)) for batch in batches(source.samples(samples.steps), source)]
        for line in source.notes():
            report(line)
    if not feeds:
        raise UsageError("no samples to improve on", str(samples.data), "give at least one")
    ends = [op.output for op in weighted_ops(opened.model.proto.graph)]
    size = footprint(opened.model.proto, ends, feeds[0], opened.model.folder, samples.libraries)
    effort = FULL if thorough else effort_for(size.made)
    taken = [feeds[index] for index in sorted(picked(len(feeds), max(1, MEMORY // size.peak)))]
    if len(taken) < len(feeds):
        report(f"what is tried is measured on {len(taken)} of {len(feeds)} samples, for memory")
    if effort != FULL:
        report(f"samples are large: less is tried, and outputs are compared on {effort.judged}; --thorough is slower")
    model = InMemory(opened.model.serialized(), opened.model.folder, opened.model.path.name)
    session = open_session(model, libraries=samples.libraries)
    names = [value.name for value in session.get_outputs()]
    expected = [
        list(run_float(session, names, feed, position).values()) for position, feed in enumerate(taken, start=1)
    ]
    question = question_of(opened.data.settings)
    return Workplace(opened.model, question, taken, expected, samples.libraries, report, effort, closed=closed)


def _restructured(
    work: Workplace, samples: _Samples, candidate: Candidate, folder: Path, parts: Parts
) -> list[Calibrated]:
    """The candidate folded, and that equalized, each calibrated anew if that changed anything.

    Folding is never worse. Equalizing may be: what the activations gain the weights may lose.
    """
    found: list[Calibrated] = [candidate]
    if parts.fold:
        with work.timed("fold"):
            proto, swallowed = fold_factors(candidate.model.proto, candidate.model.folder)
            work.tell(f"fold: {sum(map(len, swallowed.values()))} ops into {len(swallowed)}")
            found = [_calibrated(work, samples, proto, folder / "folded")] if swallowed else found
    if parts.equalize:
        with work.timed("equalize"):
            before = found[-1].model
            proto, factors = equalize(before.proto, before.structure, _magnitudes(candidate), before.folder)
            is_tried = len(factors) > work.effort.equalized * len(weighted_ops(proto.graph))
            work.tell(f"equalize: {len(factors)} tensors can be{'' if is_tried or not factors else ', too few to try'}")
            found += [_calibrated(work, samples, proto, folder / "equalized")] if is_tried else []
    return found


def _magnitudes(candidate: Candidate) -> dict[str, NDArray[np.float64]]:
    """The largest absolute value of each channel of what weighted ops read, from the candidate's calibration."""
    ranks = {tensor.name: len(tensor.shape) for tensor in candidate.model.structure.tensors if tensor.shape}
    return {
        name: magnitudes(one)
        for name, found in load_statistics(candidate.database, candidate.calibration).items()
        for one in found.channels
        if name in ranks and one.axis % ranks[name] == CHANNEL_AXIS
    }


def _calibrated(work: Workplace, samples: _Samples, proto: ModelProto, stem: Path) -> Calibrated:
    """A changed model, written beside its own database, and calibrated."""
    path, location = stem.with_suffix(".onnx"), stem.with_suffix(".db")
    write_checked(proto, path, samples.trial_run, work.reference.folder)
    trial = work.closed.enter_context(closing(open_database(str(location), create=True)))
    # Nothing resumes a trial, so that a checkpoint would be for nothing.
    return Calibrated(load_model(path), trial, samples.calibrated(trial, path, work, checkpoint_every=inf))


def _named(proto: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """The model with what made it in its metadata."""
    result = ModelProto()
    result.CopyFrom(proto)
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(result, dict(sorted({**kept, **metadata}.items())))
    return result
