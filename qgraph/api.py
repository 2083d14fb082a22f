"""The Python interface: a database, its calibrations and its runs.

    import qgraph

    db = qgraph.open("qgraph.db")
    calibration = db.calibrate("model.onnx", data)  # resumes if interrupted, reuses if complete
    run = calibration.solve(target="tflite", observer="mse")
    run.share("conv2_out")
    run.export("model.qdq.onnx")

Answers are plain dicts in the shape in which the command line prints them as JSON. Heavy libraries are loaded by
the jobs that need them, so opening a database and asking questions stays cheap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from qgraph import arguments
from qgraph.constraints.merge_methods import MergeOptions, merge_methods
from qgraph.errors import UsageError
from qgraph.run import Answer as Answer
from qgraph.run import Run as Run
from qgraph.solve.run import Parameter
from qgraph.store import calibrations, queries, runs
from qgraph.store.database import Database as Store
from qgraph.store.database import open_database
from qgraph.store.records import CalibrationStatus

if TYPE_CHECKING:
    from qgraph.calib.images import ImageOptions
    from qgraph.calib.statistics import TensorStatistics
    from qgraph.jobs.calibrating import Report, Ticker
    from qgraph.jobs.question import Question

DEFAULT_DATABASE = "qgraph.db"
DEFAULT_OBSERVER = "mse"


def open(location: str | Path | None = None, *, create: bool = True) -> Database:  # noqa: A001 - qgraph.open is its name
    """Open a database by path or SQLAlchemy URL; without one, that of ``QGRAPH_DB`` or ``qgraph.db``.

    Args:
        create: make a file that is not there once something is stored; False refuses a missing one at once.

    Raises:
        StoreError: it cannot be opened, or its schema is of another version.
        UsageError: the location is no path or URL.
    """
    if location is None:
        location = os.environ.get("QGRAPH_DB") or DEFAULT_DATABASE
    return Database(arguments.name_or_path("the database", location, "name a file or a URL"), create=create)


class Database:
    """An open database; close it, or use it in a ``with`` block."""

    def __init__(self, location: str, *, create: bool) -> None:
        self.location = location
        self._closed = False
        self._create = create
        self._store: Store | None = None
        if not create:
            self.store()

    def store(self) -> Store:
        """The store below, opened when it is first needed: a refused job leaves no empty file behind.

        Raises:
            UsageError: `close` was called.
        """
        if self._closed:
            raise UsageError("the database is closed", str(self.location), "open it again with qgraph.open")
        if self._store is None:
            self._store = open_database(self.location, create=self._create)
        return self._store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; nothing can be asked any more."""
        self._closed = True
        if self._store is not None:
            self._store.close()
            self._store = None

    def analyze(
        self,
        model: str | Path,
        target: str | Path,
        *,
        force_overlap: bool = False,
        name: str | None = None,
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve which tensors share on a target, before any data: a run without scales.

        Args:
            **alignment: ``elementwise_merge_method``, ``concat_merge_method``, ``averagepool_method``,
                ``resize_method``: "Joint" (True), "Align to Input", "Align to Output", "Align to Large", "None" (False)
                or "Force None"; one that is not given is the target's to choose.

        Raises:
            QgraphError: a bad model, an unknown target, constraints that contradict each other.
        """
        from qgraph.jobs.question import Question  # heavy
        from qgraph.jobs.solving import analyze  # heavy

        question = Question(_target(target), force_overlap, methods=merge_methods(**alignment))
        return Run(self, analyze(self.store, arguments.path("model", model), question, name=_usable(name)))

    def calibrate(
        self,
        model: str | Path,
        data: object,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        collate_fn: Callable[[Any], object] | None = None,
        images: ImageOptions | None = None,
        checkpoint_every: float | None = None,
        question: Question | None = None,
        name: str | None = None,
        report: Report = lambda _: None,
        tick: Ticker | None = None,
    ) -> Calibration:
        """Run a model once over calibration data; resume what was interrupted, reuse what is complete.

        Args:
            model: an ONNX file.
            data: path of an ``.npz`` (one array per input, first axis = samples), of an image, or of a folder of
                either; an array or dict of arrays with such an axis; or any iterable of batches: arrays, tuples or
                dicts, as a torch ``DataLoader``; no ``len()`` needed.
            steps: batches to use; None for all.
            batch_size: samples per inference; results do not depend on it.
            collate_fn: turns an item of an iterable into an array, tuple or dict.
            images: how image files are made ready; None for the model's own size and pixels in 0..1.
            checkpoint_every: seconds between checkpoints.
            question: what will be asked afterwards; what is wrong with it is said before anything runs.
            name: of the run that will be asked for; one that it cannot have is refused before anything runs.
            report: called with each line that a user should see.
            tick: called with samples counted and samples in all.

        Raises:
            QgraphError: a bad model, bad data, or another live process holds this calibration.
        """
        from qgraph.jobs.calibrating import CHECKPOINT_SECONDS, calibrate  # heavy

        pause = arguments.seconds("checkpoint_every", checkpoint_every)
        done = calibrate(
            self.store,
            arguments.path("model", model),
            data,
            question=question,
            name=_usable(name),
            steps=arguments.count("steps", steps),
            batch_size=arguments.count("batch_size", batch_size),
            collate=collate_fn,
            images=images,
            checkpoint_every=CHECKPOINT_SECONDS if pause is None else pause,
            report=report,
            tick=tick,
        )
        return Calibration(self, done.calibration, done.status, done.samples, done.resumed_from, done.inferences)

    def forecast(
        self,
        model: str | Path,
        data: object,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        collate_fn: Callable[[Any], object] | None = None,
        images: ImageOptions | None = None,
        question: Question | None = None,
        report: Report = lambda _: None,
    ) -> Answer:
        """Tell what `calibrate` with these arguments would collect and take: one inference, nothing is stored.

        A one-shot iterator is used up.

        Raises:
            QgraphError: what `calibrate` would refuse.
        """
        from qgraph.jobs.forecasting import as_json, forecast  # heavy

        return as_json(
            forecast(
                arguments.path("model", model),
                data,
                steps=arguments.count("steps", steps),
                batch_size=arguments.count("batch_size", batch_size),
                collate=collate_fn,
                images=images,
                question=question,
                report=report,
            )
        )

    def calibration(self, reference: str) -> Calibration:
        """A stored calibration, written as ``c1``."""
        arguments.text("calibration", reference, "pass its id, as c1")
        with self.store().reading() as connection:
            record = calibrations.load_calibration(connection, reference)
        status = "partial" if record.status == CalibrationStatus.PARTIAL else "reused"
        return Calibration(self, record.id, status, record.samples, record.samples, 0)

    def solve(
        self,
        reference: str,
        *,
        target: str | Path,
        observer: str = DEFAULT_OBSERVER,
        force_overlap: bool = False,
        weights: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        name: str | None = None,
        allow_partial: bool = False,
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve a run from the statistics of a calibration, or of another run's: no inference, no model file.

        Args:
            target: its name, or the path of a rule pack.
            **alignment: as for `analyze`.
        """
        from qgraph.jobs.question import Question  # heavy
        from qgraph.jobs.solving import solve  # heavy

        arguments.text("calibration", reference, "pass its id, as c1, or a run")
        arguments.text("observer", observer, "a run with scales needs one; see qgraph observers")
        if weights is not None:
            arguments.text("weights", weights, "use minmax or mse")
        question = Question(
            _target(target), force_overlap, observer, parameters or {}, weights, methods=merge_methods(**alignment)
        )
        return Run(self, solve(self.store(), reference, question, name=_usable(name), allow_partial=allow_partial))

    def run(self, reference: str = "latest") -> Run:
        """A stored run, by id (``r1``), name or ``latest``."""
        arguments.text("run", reference, "pass its id, its name or latest")
        with self.store().reading() as connection:
            return Run(self, runs.resolve_run(connection, reference).id)

    def runs(self) -> Answer:
        """All runs, oldest first."""
        with self.store().reading() as connection:
            return queries.runs(connection)

    def diff(self, a: Run | str, b: Run | str) -> Answer:
        """Tell what differs from run `a` to run `b`, each given as such, by id or by name."""
        from qgraph.analysis.diff import as_json, diff  # only this question needs it

        first, second = (run if isinstance(run, Run) else self.run(run) for run in (a, b))
        return {"a": first.id, "b": second.id, **as_json(diff(first.data(), second.data()))}


class Calibration:
    """Stored statistics of one model on one data set.

    Attributes:
        id: ``c1``, ``c2``, …
        status: ``complete``, ``reused`` or ``partial``.
        samples: samples counted.
        resumed_from: samples that were counted before the call that returned this.
        inferences: samples that it ran.
    """

    def __init__(
        self, database: Database, reference: str, status: str, samples: int, resumed_from: int, inferences: int
    ) -> None:
        self._database = database
        self.id = reference
        self.status = status
        self.samples = samples
        self.resumed_from = resumed_from
        self.inferences = inferences

    def solve(
        self,
        *,
        target: str | Path,
        observer: str = DEFAULT_OBSERVER,
        force_overlap: bool = False,
        weights: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        name: str | None = None,
        allow_partial: bool = False,
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve a run: groups, scales, noise and prices on a target. No inference, no model file.

        Args:
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
            **alignment,
        )

    def statistics(self) -> Mapping[str, TensorStatistics]:
        """The statistics of every tensor that was collected."""
        from qgraph.jobs.calibrating import load_statistics  # heavy

        return load_statistics(self._database.store(), self.id)


def _target(target: str | Path) -> str:
    return arguments.name_or_path("target", target, "see qgraph targets, or pass the path of a rule pack")


def _usable(name: str | None) -> str | None:
    """A name that a run can have, seen before anything is computed."""
    if name is not None:
        runs.check_name_is_usable(arguments.text("name", name))
    return name
