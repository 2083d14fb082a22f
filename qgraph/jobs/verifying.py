"""Comparing a run's exported model with the float one, on the user's samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, tee
from pathlib import Path

from onnx import ModelProto

from qgraph.analysis.sessions import InMemory, open_session
from qgraph.analysis.sessions import Sample as Feed
from qgraph.analysis.verify import Verification
from qgraph.analysis.verify import verify as compare
from qgraph.analysis.verify_labels import Label, LabelOf, read_labels, refuse_left_over
from qgraph.analysis.verify_layers import DIVERGES_DB, Layers, verify_layers
from qgraph.calib.data.batches import batches, joined
from qgraph.calib.data.images import ImageOptions
from qgraph.calib.data.samples import Sample
from qgraph.calib.data.source import DataSource, open_data
from qgraph.errors import ExportError, ModelError
from qgraph.formats.qdq import to_qdq
from qgraph.ir.elements import Structure, Tensor
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.jobs.calibrating import Ticker
from qgraph.jobs.exporting import Opened, open_run, write_qdq
from qgraph.store import models, runs
from qgraph.store.database import Database

Report = Callable[[str], None]


def verify(
    database: Database,
    reference: str,
    data: object,
    *,
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    optimized: bool | None = None,
    layers: bool = False,
    below_db: float = DIVERGES_DB,
    labels: object = None,
    libraries: Sequence[Path] = (),
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> tuple[Verification, str]:
    """Export a run into a temporary file and compare it with the float model. Returns the comparison and the run's id.

    Args:
        steps: samples to use; None for all.
        images: how image files are made ready.
        optimized: integer kernels, as in deployment; False runs every node as it is written; None does both.
        layers: compare every quantized tensor too.
        below_db: see `qgraph.analysis.verify_layers.Layers`.
        labels: see `qgraph.analysis.verify_labels.read_labels`.
        libraries: with the model's custom ops.
        report: called with one line for each thing that the user should know.
        tick: called with the samples run and the number of all, if the data tells it.
    """
    opened = open_run(database, reference, model)
    label_of = None if labels is None else read_labels(labels, data)
    origin = origin_of(database, opened, report)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_data(data, model_inputs(opened.model.structure), images=images)) as source,
    ):
        exported = Path(folder) / "exported.onnx"
        try:
            write_qdq(opened, exported, libraries)
        except ExportError as error:
            raise _in_temporary_folder(error, folder) from error
        passes = _Passes(source, steps, tick)
        once, again = tee(passes.batches())
        position = count()
        compared = compare(
            reference_of(origin, libraries),
            exported,
            map(joined, once),
            optimized=optimized,
            labels=None if label_of is None else _labels(again, position, label_of),
            libraries=libraries,
        )
        if label_of is not None and steps is None:
            refuse_left_over(label_of, next(position))
        if layers:
            found = _layers(opened, passes, below_db, optimized=optimized is not False, libraries=libraries)
            compared = replace(compared, layers=found)
        for line in source.notes():
            report(line)
        return compared, opened.run


def _in_temporary_folder(error: ExportError, folder: str) -> ExportError:
    """An error about a file that the user did not name: one that cannot be written is no matter of its name."""
    if folder not in error.which:
        return error
    return ExportError(error.what, error.which, "make room there, or set TMPDIR to a folder elsewhere")


def model_inputs(structure: Structure) -> list[Tensor]:
    """The inputs of a model, in its order."""
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    return [tensors[name] for name in structure.inputs]


@dataclass(frozen=True)
class _Passes:
    """Starts passes over the samples of the user's data, each told to the user as it goes."""

    source: DataSource
    steps: int | None
    tick: Ticker | None

    def batches(self) -> Iterator[list[Sample]]:
        """One pass, batch by batch."""
        if self.tick is None:
            yield from batches(self.source.samples(self.steps), self.source)
            return
        total, done = sum(self.source.census(self.steps).values()), 0
        for batch in batches(self.source.samples(self.steps), self.source):
            yield batch
            done += len(batch)
            self.tick(done, total)

    def feeds(self) -> Iterator[Feed]:
        """One pass, as the model is fed."""
        return map(joined, self.batches())


def _labels(batches: Iterable[list[Sample]], position: Iterator[int], label_of: LabelOf) -> Iterator[list[Label]]:
    for batch in batches:
        yield [label_of(next(position), sample.where) for sample in batch]


def _layers(opened: Opened, passes: _Passes, below_db: float, *, optimized: bool, libraries: Sequence[Path]) -> Layers:
    folder = opened.model.folder

    def quantize(proto: ModelProto) -> ModelProto:
        return to_qdq(proto, opened.data, {}, folder)

    return verify_layers(
        opened.model.proto,
        quantize,
        opened.data,
        folder,
        passes.feeds,
        below_db=below_db,
        optimized=optimized,
        libraries=libraries,
    )


def origin_of(database: Database, opened: Opened, report: Callable[[str], None]) -> ImportedModel:
    """The model that a run's model was derived from in the end: what it is to be compared with; mostly its own."""
    with database.reading() as connection:
        own = record = models.load_model(connection, runs.resolve_run(connection, opened.run).model)
        while record.parent is not None:
            record = models.load_model(connection, record.parent)
    if record.id == own.id:
        return opened.model
    try:
        origin = load_model(Path(record.path or ""))
    except ModelError:
        origin = None
    if origin is None or origin.structure.fingerprint != record.fingerprint:
        report(f"compared with the improved model itself: the one it was made from is gone ({record.path})")
        return opened.model
    report(f"compared with the model that it was made from: {record.path}")
    return origin


def reference_of(model: ImportedModel, libraries: Sequence[Path]) -> Path | InMemory:
    """The user's own file; or what was made of it where onnxruntime refuses the file, as with repeated op names."""
    try:
        open_session(model.path, optimized=False, libraries=libraries)
    except ModelError:
        return InMemory(model.serialized(), model.folder, str(model.path))
    return model.path
