"""What passes work on: a model, the database that remembers what was collected of it, and what was read from there.

Nothing is computed here that the jobs do not compute; what a calibration stored is read once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from qgraph import arguments
from qgraph.calib import plan as planning
from qgraph.calib.codec import decode
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rule_pack import RulePack
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import ImportedModel
from qgraph.jobs.question import Question
from qgraph.jobs.serving import serve, store_model
from qgraph.objects import many_objects
from qgraph.store import calibrations, models
from qgraph.store.evidence import ModelEvidence, load_evidence

if TYPE_CHECKING:
    from qgraph.api import Database


@dataclass(frozen=True, slots=True)
class Collected:
    """The statistics of a calibration: `activations` as collected, `all` with those of constants, by tensor."""

    calibration: str
    activations: Mapping[str, TensorStatistics]
    all: Mapping[str, TensorStatistics]
    input_shapes: Mapping[str, tuple[int, ...]]


@dataclass
class Workplace:
    """A model on a platform, and its database. Shared by a graph and its copies.

    Attributes:
        source: what is calibrated: the model's file, or a torch module that was exported.
        target: name of the platform's rule pack, or the path of a user's.
        options: further arguments of `qgraph.api.Database.calibrate`.
        device: where observers compute, ``cpu`` or ``cuda``.
        verbose: tell the user what is done, on standard error.
    """

    database: Database
    imported: ImportedModel
    source: Any
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    verbose: bool = False
    _evidence: ModelEvidence | None = None
    _collected: dict[str, Collected] = field(default_factory=dict)

    @property
    def structure(self) -> Structure:
        """The model's structure."""
        return self.imported.structure

    @cached_property
    def connections(self) -> Graph:
        """The model's connections."""
        return Graph(self.structure)

    @cached_property
    def pack(self) -> RulePack:
        """The platform's rules."""
        return load_pack(self.target)

    def report(self, line: str) -> None:
        """Tell the user something, if they want to be told."""
        if self.verbose:
            sys.stderr.write(f"{line}\n")

    @many_objects()
    def evidence(self) -> ModelEvidence:
        """What solving needs to know of the model's constants; computed when it is first needed, and stored."""
        if self._evidence is None:
            store = self.database.store()
            store_model(store, self.imported, serve(self.structure, store), Question(self.target))
            with store.reading() as connection:
                self._evidence = load_evidence(connection, self.model())
        return self._evidence

    def model(self) -> str:
        """The stored model's id."""
        with self.database.store().transaction() as connection:
            return models.save_model(connection, self.structure, str(self.imported.path.resolve()))

    def calibrate(self, dataloader: object, steps: int | None, collate_fn: Callable[[Any], object] | None) -> str:
        """Collect statistics; nothing is run where they are stored already. Returns the calibration's id."""
        data, count = first_items(dataloader, steps)
        done = self.database.calibrate(
            self.source,
            data,
            steps=count,
            collate_fn=collate_fn,
            question=Question(self.target),
            report=self.report,
            **self.options,
        )
        self.report(f"calibration {done.id}: {done.samples} samples, {done.inferences} run now")
        return done.id

    @many_objects()
    def collected(self, calibration: str) -> Collected:
        """The statistics of a calibration."""
        if calibration not in self._collected:
            evidence = self.evidence()
            with self.database.store().reading() as connection:
                blobs = calibrations.load_statistics(connection, calibration)
                shapes = calibrations.load_calibration(connection, calibration).input_shapes
            plan = planning.plan_collection(self.structure)
            activations = planning.complete(plan, {tensor: decode(blob) for tensor, blob in blobs.items()})
            constants = {tensor: decode(blob) for tensor, blob in evidence.constants.items()}
            self._collected[calibration] = Collected(calibration, activations, {**constants, **activations}, shapes)
        return self._collected[calibration]


@dataclass(frozen=True, slots=True)
class _FirstItems:
    """The first batches of a loader, as often as it can be iterated."""

    loader: Iterable[Any]
    steps: int

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.steps)


def first_items(dataloader: object, steps: int | None) -> tuple[object, int | None]:
    """What a loader yields in as many steps, whatever the size of its batches; and the steps that are left to count.

    Files, arrays and dicts of arrays have no batches of their own: their steps are samples.
    """
    count = arguments.count("calib_steps", steps)
    whole = isinstance(dataloader, str | os.PathLike | Mapping) or hasattr(dataloader, "__array__")
    if count is None or whole or not isinstance(dataloader, Iterable):
        return dataloader, count
    if iter(dataloader) is dataloader:
        return islice(dataloader, count), None
    return _FirstItems(dataloader, count), None
