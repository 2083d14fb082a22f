"""Stored statistics of one model on one data set: how they are made, and the runs that are solved from them.

`calibrate`, `forecast` and `merge` are methods of `qgraph.api.Database`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from qgraph import arguments
from qgraph.answers import Answer
from qgraph.calib.data.shards import parse_shard
from qgraph.calib.passes import parse_memory
from qgraph.constraints.merge_methods import MergeOptions
from qgraph.constraints.overrides import Given as GivenOverrides
from qgraph.errors import UsageError
from qgraph.run import Run
from qgraph.solve.run import ForceOverlap, Parameter

if TYPE_CHECKING:
    from qgraph.api import Database
    from qgraph.calib.data.images import ImageOptions
    from qgraph.calib.statistics import TensorStatistics
    from qgraph.jobs.calibrating import Report, Ticker
    from qgraph.jobs.question import Question

DEFAULT_OBSERVER = "mse"


class Calibration:
    """Stored statistics of one model on one data set.

    Attributes:
        id: ``c1``, ``c2``, …
        location: the database that it is in.
        status: ``complete``, ``reused`` or ``partial``.
        samples: samples counted.
        resumed_from: samples that were counted before the call that returned this.
        inferences: samples that it ran.
    """

    def __init__(
        self, database: Database, reference: str, status: str, samples: int, resumed_from: int, inferences: int
    ) -> None:
        self._database = database
        self.location = database.location
        self.id = reference
        self.status = status
        self.samples = samples
        self.resumed_from = resumed_from
        self.inferences = inferences

    def __repr__(self) -> str:
        return f"<Calibration {self.id} ({self.status}, {self.samples} samples) in {self._database!r}>"

    def solve(
        self,
        *,
        target: str | Path,
        observer: str = DEFAULT_OBSERVER,
        force_overlap: ForceOverlap = False,
        weights: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        name: str | None = None,
        allow_partial: bool = False,
        overrides: GivenOverrides = None,
        device: str = "cpu",
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve a run: groups, scales, noise and prices on a target. No inference, no model file.

        Args:
            overrides: as for `Database.analyze`.
            device: as for `Database.solve`.
            **alignment: as for `Database.analyze`.
        """
        return self._database.solve(
            self.id,
            target=target,
            observer=observer,
            force_overlap=force_overlap,
            weights=weights,
            parameters=parameters,
            name=name,
            allow_partial=allow_partial,
            overrides=overrides,
            device=device,
            **alignment,
        )

    def statistics(self) -> Mapping[str, TensorStatistics]:
        """The statistics of every tensor that was collected."""
        from qgraph.jobs.calibrating import load_statistics  # heavy

        return load_statistics(self._database.store(), self.id)


def calibrate(
    database: Database,
    model: arguments.Model,
    data: object,
    *,
    example_inputs: object = None,
    input_shapes: object = None,
    dynamic_shapes: object = None,
    onnx_file: str | Path | None = None,
    device: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    collate_fn: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
    checkpoint_every: float | None = None,
    max_memory: int | str | None = None,
    shard: str | None = None,
    extend: Calibration | str | None = None,
    lean: bool = False,
    op_library: arguments.Paths = None,
    question: Question | None = None,
    name: str | None = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Calibration:
    """Run a model once over calibration data; resume what was interrupted, reuse what is complete.

    Args:
        model: an ONNX file, a torch module in evaluation mode, or an exported program. A module is exported to
            ONNX; torch runs it.
        example_inputs, input_shapes, dynamic_shapes, onnx_file: of a module; see `Database.analyze`.
        device: "cpu" or "cuda", where the model runs.
        data: path of an ``.npz`` (one array per input, first axis = samples), of an image, or of a folder of
            either; an array or dict of arrays with such an axis; or any iterable of batches: arrays, tuples or
            dicts, as a torch ``DataLoader``; no ``len()`` needed. A module takes them as it is called, too.
        steps: batches to use; None for all.
        batch_size: samples per inference; results do not depend on it.
        collate_fn: turns an item of an iterable into an array, tuple or dict.
        images: how image files are made ready; None for the model's own size and pixels in 0..1.
        checkpoint_every: seconds between checkpoints.
        max_memory: what the process should stay below, in bytes or as ``"2G"``; if need be, all samples are run
            several times, and some activations counted each time.
        shard: ``"1/4"`` counts the first of four parts of the data only; `merge` makes one of all four.
        extend: a complete calibration of this database, as such or as ``"c1"``, to which samples are to be added: a
            new one is made, bit for bit that of all samples together. Those it counted are not run again.
        lean: collect only what `question`'s target needs, or any that quantizes no activation per channel: faster,
            but other targets may lack something, and `Run.improve` does.
        op_library: the path of a shared library with the model's custom ops, or several; onnxruntime loads them.
        question: what will be asked afterwards; what is wrong with it is said before anything runs.
        name: of the run that will be asked for; one that it cannot have is refused before anything runs.
        report: called with each line that a user should see.
        tick: called with samples counted and samples in all.

    Raises:
        QgraphError: a bad model, bad data, or another live process holds this calibration.
    """
    if question is not None:
        arguments.known_target(question.target)
    from qgraph.jobs.calibrating import CHECKPOINT_SECONDS, calibrate  # heavy
    from qgraph.jobs.sources import example_for, source_of  # heavy

    pause = arguments.seconds("checkpoint_every", checkpoint_every)
    collate = arguments.function("collate_fn", collate_fn)
    if example_inputs is None:
        example_inputs = example_for(model, data, collate, input_shapes)
    with source_of(model, example_inputs, input_shapes, dynamic_shapes, onnx_file) as source:
        done = calibrate(
            database.store,
            source,
            data,
            device=arguments.text("device", device, "use cpu or cuda"),
            question=question,
            name=arguments.run_name(name),
            steps=arguments.count("steps", steps),
            batch_size=arguments.count("batch_size", batch_size),
            collate=collate,
            images=images,
            checkpoint_every=CHECKPOINT_SECONDS if pause is None else pause,
            max_memory=None if max_memory is None else parse_memory(max_memory),
            shard=None if shard is None else parse_shard(arguments.text("shard", shard, "pass a text, as 1/4")),
            extend=None if extend is None else own_reference(extend, database.location),
            lean=lean,
            libraries=arguments.paths("op_library", op_library),
            known=database.store_if_any,
            report=report,
            tick=tick,
        )
    return Calibration(database, done.calibration, done.status, done.samples, done.resumed_from, done.inferences)


def forecast(
    database: Database,  # noqa: ARG001 - it is a method
    model: arguments.Model,
    data: object,
    *,
    example_inputs: object = None,
    input_shapes: object = None,
    dynamic_shapes: object = None,
    onnx_file: str | Path | None = None,
    device: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    collate_fn: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
    max_memory: int | str | None = None,
    shard: str | None = None,
    op_library: arguments.Paths = None,
    question: Question | None = None,
    lean: bool = False,
    report: Report = lambda _: None,
) -> Answer:
    """Tell what `calibrate` with these arguments would collect and take: one inference, nothing is stored.

    On the command line this is ``qgraph calibrate --dry-run``.

    What `calibrate` would refuse is refused. A one-shot iterator is used up; a module's ONNX file is not kept.
    """
    if question is not None:
        arguments.known_target(question.target)
    from qgraph.jobs.forecasting import as_json, forecast  # heavy
    from qgraph.jobs.sources import example_for, source_of  # heavy

    collate = arguments.function("collate_fn", collate_fn)
    if example_inputs is None:
        example_inputs = example_for(model, data, collate, input_shapes)
    with source_of(model, example_inputs, input_shapes, dynamic_shapes, onnx_file) as source:
        found = forecast(
            source,
            data,
            device=arguments.text("device", device, "use cpu or cuda"),
            steps=arguments.count("steps", steps),
            batch_size=arguments.count("batch_size", batch_size),
            collate=collate,
            images=images,
            max_memory=None if max_memory is None else parse_memory(max_memory),
            shard=None if shard is None else parse_shard(arguments.text("shard", shard, "pass a text, as 1/4")),
            libraries=arguments.paths("op_library", op_library),
            question=question,
            lean=lean,
            report=report,
        )
    return as_json(found)


def merge(database: Database, *calibrations: Calibration | str) -> Calibration:
    """Make one calibration of the shards of one data set, or of calibrations of different data.

    Args:
        *calibrations: of this database, as such or as ``"c1"``; of another one as ``"OTHER.db:c1"``.

    Raises:
        UsageError: they cannot be one calibration; it says why.
    """
    from qgraph.jobs.merging import merge  # heavy

    references = [
        (one.id if one.location == database.location else f"{one.location}:{one.id}")
        if isinstance(one, Calibration)
        else arguments.text("calibration", one, "pass its id, as c1")
        for one in calibrations
    ]
    done = merge(database.store(), references)
    return Calibration(database, done.calibration, done.status, done.samples, 0, 0)


def own_reference(calibration: Calibration | str, location: str) -> str:
    """The id of a calibration that must be of the database at a location.

    Raises:
        UsageError: it is of another one.
    """
    if not isinstance(calibration, Calibration):
        return arguments.text("calibration", calibration, "pass its id, as c1")
    if calibration.location != location:
        raise UsageError("a calibration of another database", calibration.location, "pass one of this database")
    return calibration.id
