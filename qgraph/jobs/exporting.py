"""What needs the model file again: writing a quantized model, and comparing it with the float one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qgraph.analysis.sessions import InMemory, open_session, run_once
from qgraph.analysis.verify import Verification
from qgraph.analysis.verify import verify as compare
from qgraph.calib.batches import batches, joined
from qgraph.calib.data import open_data
from qgraph.calib.images import ImageOptions
from qgraph.errors import ModelError, UsageError
from qgraph.formats.onnx_file import write_checked
from qgraph.formats.qdq import to_qdq
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.solve.run import RunData
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database, sqlite_file


@dataclass(frozen=True)
class Opened:
    """A stored run with its model: `run` is its id, `input_shapes` are shapes in which the model was fed, by input."""

    run: str
    data: RunData
    model: ImportedModel
    input_shapes: Mapping[str, tuple[int, ...]]


def open_run(database: Database, reference: str, model: Path | None) -> Opened:
    """Load a run, and its model from its stored place or another one.

    Raises:
        UsageError: the run has no scales.
        ModelError: the file is not there or not the stored model.
    """
    with database.reading() as connection:
        run = runs.resolve_run(connection, reference)
        if run.calibration is None:
            raise UsageError("the run has no scales to export", run.id, "run qgraph calibrate, then export its run")
        record = models.load_model(connection, run.model)
        calibration = calibrations.load_calibration(connection, run.calibration)
        data = runs.load_run(connection, run.id)
    path = model or (Path(record.path) if record.path else None)
    if path is None:
        raise ModelError("the model came from memory", record.name, "name its file with --model")
    imported = load_model(path)
    if imported.structure.fingerprint != record.fingerprint:
        cure = "give the file that was calibrated with --model, or calibrate this one"
        raise ModelError("not the model that was stored", str(path), cure)
    return Opened(run.id, data, imported, calibration.input_shapes)


def export(
    database: Database, reference: str, output: Path, *, model: Path | None = None, libraries: Sequence[Path] = ()
) -> str:
    """Write a run as a QDQ ONNX model, checked and run once before the file takes its name. Returns the run's id.

    Args:
        model: where the float model is now, if it was moved.
        libraries: with the model's custom ops; see `qgraph.calib.op_libraries`.

    Raises:
        UsageError: the run has no scales, or a library cannot be loaded.
        ModelError, ExportError: the model is not the stored one; the written one is not valid or does not run.
    """
    opened = open_run(database, reference, model)
    refuse_to_overwrite(output, opened, database)
    write_qdq(opened, output, libraries)
    return opened.run


def refuse_to_overwrite(output: Path, opened: Opened, database: Database) -> None:
    """Keep an export from replacing what it is made from, or anything that is no regular file."""
    place = output.resolve()
    if not output.parent.is_dir():
        raise UsageError("no such folder", str(output.parent), "create it, or choose another place")
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise UsageError("not a regular file", str(output), "choose another place")
    file = sqlite_file(database)
    kept = {} if file is None else {Path(f"{file.resolve()}{end}"): "the database" for end in ("", "-wal", "-shm")}
    kept[opened.model.path.resolve()] = "the float model"
    kept |= {path.resolve(): "the float model's weights" for path in opened.model.external_files}
    if place in kept:
        raise UsageError(f"the export would replace {kept[place]}", str(output), "choose another name with -o")


def _origin(database: Database, opened: Opened, report: Callable[[str], None]) -> ImportedModel:
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


def _reference(model: ImportedModel, libraries: Sequence[Path]) -> Path | InMemory:
    """The user's own file; or what was made of it where onnxruntime refuses the file, as with repeated op names."""
    try:
        open_session(model.path, optimized=False, libraries=libraries)
    except ModelError:
        return InMemory(model.serialized(), model.folder, str(model.path))
    return model.path


def write_qdq(opened: Opened, output: Path, libraries: Sequence[Path] = ()) -> None:
    """Write the QDQ model of a run to a file."""
    folder = opened.model.folder
    metadata = {"qgraph.run": opened.run, "qgraph.target": opened.data.settings.target}
    exported = to_qdq(opened.model.proto, opened.data, metadata, folder)
    trial = partial(run_once, shapes=opened.input_shapes, libraries=libraries)
    write_checked(exported, output, trial, folder)


def verify(
    database: Database,
    reference: str,
    data: object,
    *,
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    optimized: bool = True,
    libraries: Sequence[Path] = (),
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Verification, str]:
    """Export a run into a temporary file and compare it with the float model. Returns the comparison and the run's id.

    Args:
        steps: samples to use; None for all.
        images: how image files are made ready.
        optimized: integer kernels, as in deployment; False runs every node as it is written.
        libraries: with the model's custom ops.
        report: called with one line for each thing that the user should know.
    """
    opened = open_run(database, reference, model)
    origin = _origin(database, opened, report)
    structure = opened.model.structure
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    inputs = [tensors[name] for name in structure.inputs]
    with tempfile.TemporaryDirectory() as folder, closing(open_data(data, inputs, images=images)) as source:
        exported = Path(folder) / "exported.onnx"
        write_qdq(opened, exported, libraries)
        feeds = (joined(batch) for batch in batches(source.samples(steps), source))
        float_model = _reference(origin, libraries)
        compared = compare(float_model, exported, feeds, optimized=optimized, libraries=libraries)
        for line in source.notes():
            report(line)
        return compared, opened.run
