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

from qgraph.constraints import explain
from qgraph.constraints.merge_methods import MergeOptions, merge_methods
from qgraph.constraints.model import Edge, SlotPlan
from qgraph.errors import UsageError
from qgraph.solve.run import Parameter, RunData
from qgraph.store import calibrations, queries, runs
from qgraph.store.database import Database as Store
from qgraph.store.database import open_database
from qgraph.store.records import CalibrationStatus

if TYPE_CHECKING:
    from qgraph.analysis.verify import Verification
    from qgraph.calib.images import ImageOptions
    from qgraph.calib.statistics import TensorStatistics
    from qgraph.jobs.calibrating import Report, Ticker
    from qgraph.jobs.question import Question

Answer = dict[str, Any]

DEFAULT_DATABASE = "qgraph.db"
DEFAULT_OBSERVER = "mse"


def open(location: str | Path | None = None, *, create: bool = True) -> Database:  # noqa: A001 - qgraph.open is its name
    """Open a database by path or SQLAlchemy URL; without one, that of ``QGRAPH_DB`` or ``qgraph.db``.

    Args:
        create: make a file that is not there once something is stored; False refuses a missing one at once.

    Raises:
        StoreError: it cannot be opened, or its schema is of another version.
    """
    return Database(location or os.environ.get("QGRAPH_DB") or DEFAULT_DATABASE, create=create)


class Database:
    """An open database; close it, or use it in a ``with`` block."""

    def __init__(self, location: str | Path, *, create: bool) -> None:
        self.location = location
        self._create = create
        self._store: Store | None = None
        if not create:
            self.store()

    def store(self) -> Store:
        """The store below, opened when it is first needed: a refused job leaves no empty file behind."""
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
        """Let go of the file."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def analyze(
        self,
        model: str | Path,
        target: str,
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

        question = Question(target, force_overlap, methods=merge_methods(**alignment))
        return Run(self, analyze(self.store, Path(model), question, name=name))

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

        done = calibrate(
            self.store,
            Path(model),
            data,
            question=question,
            name=name,
            steps=steps,
            batch_size=batch_size,
            collate=collate_fn,
            images=images,
            checkpoint_every=CHECKPOINT_SECONDS if checkpoint_every is None else checkpoint_every,
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
                Path(model),
                data,
                steps=steps,
                batch_size=batch_size,
                collate=collate_fn,
                images=images,
                question=question,
                report=report,
            )
        )

    def calibration(self, reference: str) -> Calibration:
        """A stored calibration, written as ``c1``."""
        with self.store().reading() as connection:
            record = calibrations.load_calibration(connection, reference)
        status = "partial" if record.status == CalibrationStatus.PARTIAL else "reused"
        return Calibration(self, record.id, status, record.samples, record.samples, 0)

    def solve(
        self,
        reference: str,
        *,
        target: str,
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
            **alignment: as for `analyze`.
        """
        from qgraph.jobs.question import Question  # heavy
        from qgraph.jobs.solving import solve  # heavy

        question = Question(
            target, force_overlap, observer, parameters or {}, weights, methods=merge_methods(**alignment)
        )
        return Run(self, solve(self.store(), reference, question, name=name, allow_partial=allow_partial))

    def run(self, reference: str = "latest") -> Run:
        """A stored run, by id (``r1``), name or ``latest``."""
        with self.store().reading() as connection:
            return Run(self, runs.resolve_run(connection, reference).id)

    def runs(self) -> Answer:
        """All runs, oldest first."""
        with self.store().reading() as connection:
            return queries.runs(connection)

    def diff(self, a: str, b: str) -> Answer:
        """Tell what differs from run `a` to run `b`."""
        from qgraph.analysis.diff import as_json, diff  # only this question needs it

        first, second = self.run(a), self.run(b)
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
        target: str,
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


class Run:
    """A stored run: one target, observer and set of options on one model; its `id` is ``r1``, ``r2`` and so on."""

    def __init__(self, database: Database, reference: str) -> None:
        self._database = database
        self.id = reference

    def _ask(self, question: Callable[..., Answer], *arguments: object, **options: object) -> Answer:
        with self._database.store().reading() as connection:
            return question(connection, self.id, *arguments, **options)

    def show(self) -> Answer:
        """Tell what the run is, and how many groups, requantizes and states it has."""
        return self._ask(queries.show)

    def tensor(self, name: str) -> Answer:
        """All that the run says of one tensor, slot by slot, and the statistics that it was solved from."""
        from qgraph.jobs.describing import describe_statistics  # loads numpy

        return {
            **self._ask(queries.tensor, name),
            "statistics": describe_statistics(self._database.store(), self.id, name),
        }

    def groups(self, *, by_cost: bool = False) -> Answer:
        """All groups that share scale and offset; `by_cost` lists the dearest first."""
        return self._ask(queries.groups, by_cost=by_cost)

    def scales(self) -> Answer:
        """Scale and offset of every tensor, and the requantizes."""
        return self._ask(queries.scales)

    def share(self, tensor: str) -> Answer:
        """Tell who shares scale and offset with a tensor."""
        return self._ask(queries.share, tensor)

    def why(self, a: str, b: str) -> Answer:
        """The shortest chain of constraints that makes two tensors (or slots) share; empty if they do not."""
        with self._database.store().reading() as connection:
            start, end = (queries.slot_of(connection, self.id, name) for name in (a, b))
            group = queries.group_of(connection, self.id, start)
            shared = group is not None and group == queries.group_of(connection, self.id, end)
            edges = queries.edges_of_group(connection, self.id, group) if shared and group is not None else ()
        path = explain.why(edges, start, end) if shared else None
        return {"a": a, "b": b, "shared": shared, "path": [edge_as_json(edge) for edge in path or ()]}

    def why_not(self, a: str, b: str) -> Answer:
        """Tell what keeps two tensors (or slots) apart: the shortest chain between them, and where it is cut."""
        with self._database.store().reading() as connection:
            start, end = (queries.slot_of(connection, self.id, name) for name in (a, b))
            data = runs.load_run(connection, self.id)
        plans = (
            SlotPlan(tqc.slot, tqc.tensor, tqc.role, tqc.scheme, tqc.reason if tqc.scheme is None else None)
            for tqc in data.tqcs
        )
        chain = explain.why_not(data.grouping.joined, explain.barriers(plans, data.grouping), start, end)
        steps = [step_as_json(step) for step in chain or ()]
        cuts = [step["barrier"] for step in steps if step["barrier"]]
        reason = f"{a} and {b} share" if chain is not None else f"no rule or tensor leads from {a} to {b}"
        if cuts:
            reason = f"{a} and {b} are kept apart: {'; '.join(cuts)}"
        return {"a": a, "b": b, "shared": chain is not None and not cuts, "reason": reason, "path": steps}

    def data(self) -> RunData:
        """The whole run as frozen plain data."""
        with self._database.store().reading() as connection:
            return runs.load_run(connection, self.id)

    def diff(self, other: Run) -> Answer:
        """Tell what differs from this run to the other one."""
        return self._database.diff(self.id, other.id)

    def export(self, output: str | Path, *, format: str = "qdq", model: str | Path | None = None) -> None:  # noqa: A002
        """Write a model that runs with these scales; it is checked and run once before the file takes its name.

        Args:
            format: ``qdq``, an ONNX model with QuantizeLinear and DequantizeLinear.
            model: where the float model is now, if it was moved.
        """
        if format != "qdq":
            raise UsageError("unknown format", format, "use qdq")
        from qgraph.jobs.exporting import export  # heavy

        export(self._database.store(), self.id, Path(output), model=None if model is None else Path(model))

    def verify(
        self,
        data: object,
        *,
        steps: int | None = None,
        images: ImageOptions | None = None,
        model: str | Path | None = None,
        optimized: bool = True,
        report: Report = lambda _: None,
    ) -> Verification:
        """Run the exported model against the float one on the same samples.

        Args:
            data: as for `Database.calibrate`; use samples that were not calibrated on.
            images: as for `Database.calibrate`.
            optimized: with onnxruntime's integer kernels; False runs every node as it is written.
            report: called with each line that a user should see.
        """
        from qgraph.jobs.exporting import verify  # heavy

        place = None if model is None else Path(model)
        found, _ = verify(
            self._database.store(),
            self.id,
            data,
            model=place,
            steps=steps,
            images=images,
            optimized=optimized,
            report=report,
        )
        return found


def step_as_json(step: explain.Step) -> Answer:
    """One step of a chain that may be cut: an edge, and what keeps its ends apart (None where nothing does)."""
    edge = {"kind": None, "rule": None, "op": None, "op_type": None, "source": None}
    if step.edge is not None:
        edge = edge_as_json(step.edge)
    return {**edge, "from": step.a, "to": step.b, "barrier": step.barrier}


def edge_as_json(edge: Edge) -> Answer:
    """One step of a chain, with the keys of the command line's JSON."""
    return {
        "kind": str(edge.kind),
        "rule": edge.rule,
        "op": edge.op,
        "op_type": edge.op_type,
        "from": edge.a,
        "to": edge.b,
        "source": edge.source,
    }
