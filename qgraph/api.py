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
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from qgraph import arguments
from qgraph import calibration as calibrating
from qgraph.answers import Answer as Answer
from qgraph.calibration import DEFAULT_OBSERVER
from qgraph.calibration import Calibration as Calibration
from qgraph.constraints.merge_methods import MergeOptions, merge_methods
from qgraph.constraints.overrides import Given as GivenOverrides
from qgraph.constraints.overrides import given_overrides
from qgraph.errors import StoreError, UsageError
from qgraph.hints import DEFAULT_DATABASE
from qgraph.importing import import_scales
from qgraph.run import Run as Run
from qgraph.solve.run import ForceOverlap, Parameter
from qgraph.store import calibrations, queries, runs
from qgraph.store.database import Database as Store
from qgraph.store.database import is_there, open_database, watched_file
from qgraph.store.locations import shown, url_of
from qgraph.store.records import CalibrationStatus

if TYPE_CHECKING:
    from qgraph.passes.seed import *  # noqa: F403


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
        self._is_there: Callable[[], bool] = lambda: True
        self._store: Store | None = None
        if not create:
            self.store()

    def __repr__(self) -> str:
        return f"<Database {shown(url_of(self.location))}>"

    def store(self) -> Store:
        """The store below, opened when it is first needed: a refused job leaves no empty file behind.

        Raises:
            UsageError: `close` was called.
            StoreError: the file was removed or replaced since it was opened.
        """
        again = "open it again with qgraph.open"
        if self._closed:
            raise UsageError("the database is closed", shown(url_of(self.location)), again)
        if self._store is None:
            self._store = open_database(self.location, create=self._create)
            self._is_there = watched_file(self._store)
        if not self._is_there():
            what = "the database's file was removed or replaced since it was opened"
            raise StoreError(what, shown(url_of(self.location)), again)
        return self._store

    def store_if_any(self) -> Store | None:
        """The store below if there is one already; none is made."""
        return self.store() if self._store is not None or is_there(self.location) else None

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
        model: arguments.Model,
        target: str | Path,
        *,
        force_overlap: ForceOverlap = False,
        name: str | None = None,
        overrides: GivenOverrides = None,
        example_inputs: object = None,
        input_shapes: object = None,
        dynamic_shapes: object = None,
        onnx_file: str | Path | None = None,
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve which tensors share on a target, before any data: a run without scales.

        Args:
            model: an ONNX or TensorFlow Lite file, a torch module in evaluation mode, or an exported program.
            force_overlap: whether a tensor with several readers takes the scale of each: False requantizes instead,
                True never does; "auto" decides by the predicted noise, so before data it does as False.
            overrides: what is wanted against the target's word: a mapping such as ``{"float": ["type:Resize"],
                "bits": {"type:MatMul": 16}, "pin": {"x": [0.5, 0]}, "share": [["a", "b"]], "unshare": ["concat_1"]}``,
                or the path of a file that holds the same; see docs/overrides.md.
            **alignment: ``elementwise_merge_method``, ``concat_merge_method``, ``averagepool_method``,
                ``resize_method``: "Joint" (True), "Align to Input", "Align to Output", "Align to Large", "None" (False)
                or "Force None"; one that is not given is the target's to choose.
            example_inputs: of a module: a tensor, a tuple of arguments, or a dict of arguments by name.
            input_shapes: of a module, instead: a shape, or shapes by argument or as a list, of float inputs.
            dynamic_shapes: of a module, as for `torch.export.export`; "batch" makes the first axis of every input
                dynamic; without it the shapes are those of the example.
            onnx_file: where the ONNX file that is made of a module is kept; None for beside the database.

        Raises:
            QgraphError: a bad model, an unknown target, constraints that contradict each other.
        """
        from qgraph.jobs.question import Question

        question = Question(
            arguments.known_target(target),
            force_overlap,
            methods=merge_methods(**alignment),
            overrides=given_overrides(overrides),
        )
        from qgraph.jobs.solving import analyze  # heavy
        from qgraph.jobs.sources import source_of  # heavy

        with source_of(model, example_inputs, input_shapes, dynamic_shapes, onnx_file) as source:
            return Run(self, analyze(self.store, source, question, name=arguments.run_name(name)))

    # Functions on a database, told in `qgraph.calibration`.
    calibrate = calibrating.calibrate
    forecast = calibrating.forecast
    merge = calibrating.merge

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
        force_overlap: ForceOverlap = False,
        weights: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        name: str | None = None,
        allow_partial: bool = False,
        overrides: GivenOverrides = None,
        device: str = "cpu",
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve a run from the statistics of a calibration, or of another run's: no inference, no model file.

        Args:
            target: its name, or the path of a rule pack.
            force_overlap: False, True, or "auto": join where that lowers the predicted noise.
            overrides: as for `analyze`.
            device: "cpu" or "cuda", where observers compute; only on the CPU are scales promised bit for bit.
            **alignment: as for `analyze`.
        """
        from qgraph.jobs.question import Question, settings_of

        arguments.text("calibration", reference, "pass its id, as c1, or a run")
        arguments.text("observer", observer, "a run with scales needs one; see qgraph observers")
        if weights is not None:
            arguments.text("weights", weights, "use minmax or mse")
        given = arguments.mapping("parameters", parameters, "see qgraph observers for their names")
        question = Question(
            arguments.known_target(target),
            force_overlap,
            observer,
            given,
            weights,
            methods=merge_methods(**alignment),
            overrides=given_overrides(overrides),
        )
        settings_of(question)
        from qgraph.jobs.solving import solve  # heavy

        name, place = arguments.run_name(name), arguments.text("device", device, "use cpu or cuda")
        return Run(self, solve(self.store(), reference, question, name=name, allow_partial=allow_partial, device=place))

    import_scales = import_scales  # told in `qgraph.importing`

    def run(self, reference: str = "latest") -> Run:
        """A stored run, by id (``r1``), name or ``latest``."""
        arguments.text("run", reference, "pass its id, its name or latest")
        with self.store().reading() as connection:
            return Run(self, runs.resolve_run(connection, reference).id)

    def runs(self) -> Answer:
        """All runs, oldest first."""
        with self.store().reading() as connection:
            return queries.runs(connection)

    def remove(self, *references: Run | Calibration | str, with_dependents: bool = False) -> None:
        """Remove runs, calibrations (``c1``) and models (``m1``): all of them, or none if one is refused.

        Args:
            with_dependents: remove what was made from them, too; otherwise that is a reason to refuse.
        """
        from qgraph.store.removal import remove  # only this needs it

        named = [one if isinstance(one, str) else one.id for one in references]
        remove(self.store(), named, with_dependents=with_dependents)

    def copy(self, run: Run | str, to: str | Path, *, name: str | None = None) -> str:
        """Copy a run, with all that it rests on, to the database at a path or URL; return its id there.

        Args:
            name: of the run there; None keeps its name.
        """
        from qgraph.store.copying import copy_run  # only this needs it

        location = arguments.name_or_path("to", to, "name a file or a URL")
        with closing(open_database(location, create=True)) as target:
            return copy_run(
                self.store(), run if isinstance(run, str) else run.id, target, name=arguments.run_name(name)
            ).run

    def diff(
        self, a: Run | str, b: Run | str, *, fail_on: Iterable[str] = (), output: str | Path | None = None
    ) -> Answer:
        """Tell what differs from run `a` to run `b`, each given as such, by id or by name.

        They may be of two versions of a model: tensors are matched by name, then by structure, and named as in `a`.

        Args:
            fail_on: conditions such as ``"damage_db>1"``; those that hold are listed under ``"failed"``. See
                docs/diff.md.
            output: an ``.svg`` or ``.png`` file to draw a picture to; needs matplotlib.
        """
        from qgraph.jobs.comparing import compare  # only this question needs it

        first, second = (run if isinstance(run, Run) else self.run(run) for run in (a, b))
        given = [fail_on] if isinstance(fail_on, str) else list(fail_on) if isinstance(fail_on, Iterable) else [fail_on]
        if not all(isinstance(condition, str) for condition in given):
            raise UsageError("fail_on must be conditions", repr(fail_on), 'pass a list of texts such as "damage_db>1"')
        path = None if output is None else arguments.path("output", output)
        return compare(self.store(), first.id, second.id, fail_on=given, output=path)


def __getattr__(name: str) -> object:
    """Load one of the seed system's names, which are offered here, too, when it is first used."""
    if name.startswith("_"):
        raise AttributeError(f"module 'qgraph.api' has no attribute {name!r}")
    from qgraph.passes import seed  # heavy

    if name not in seed.__all__:
        raise AttributeError(f"module 'qgraph.api' has no attribute {name!r}")
    return getattr(seed, name)
