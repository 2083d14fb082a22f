"""Writing a run: as a quantized model, which needs the float model's file again, or as scales alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnx import ModelProto

from qgraph.analysis.sessions import run_once
from qgraph.errors import ModelError, UsageError
from qgraph.formats.onnx_file import write_checked
from qgraph.formats.qdq import to_qdq
from qgraph.formats.scale_files import format_named, write_scales
from qgraph.formats.scale_table import table_of
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.solve.run import RunData
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database, sqlite_file
from qgraph.store.records import RunRecord


@dataclass(frozen=True)
class Opened:
    """A stored run with its model.

    Attributes:
        run: its id.
        calibration: the id of that which it was solved from; None for an imported run without one.
        input_shapes: in which the model was fed, by input; empty if it was not.
    """

    run: str
    calibration: str | None
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
        run = _with_scales(runs.resolve_run(connection, reference))
        record = models.load_model(connection, run.model)
        shapes: Mapping[str, tuple[int, ...]] = {}
        if run.calibration is not None:  # an imported run may have none
            shapes = calibrations.load_calibration(connection, run.calibration).input_shapes
        data = runs.load_run(connection, run.id)
    path = model or (Path(record.path) if record.path else None)
    if path is None:
        raise ModelError("the model came from memory", record.name, "name its file with --model")
    imported = load_model(path)
    if imported.structure.fingerprint != record.fingerprint:
        cure = "give the file that was calibrated with --model, or calibrate this one"
        raise ModelError("not the model that was stored", str(path), cure)
    return Opened(run.id, run.calibration, data, imported, shapes)


def export(
    database: Database,
    reference: str,
    output: Path,
    *,
    model: Path | None = None,
    libraries: Sequence[Path] = (),
    quantized: bool = True,
) -> str:
    """Write a run as a QDQ ONNX model, checked and run once before the file takes its name. Returns the run's id.

    Args:
        model: where the float model is now, if it was moved.
        quantized: False writes the float model as it is analysed, of which the tensors' names in every format are.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.

    Raises:
        UsageError: the run has no scales, or a library cannot be loaded.
        ModelError, ExportError: the model is not the stored one; the written one is not valid or does not run.
    """
    opened = open_run(database, reference, model)
    refuse_to_overwrite(output, opened, database)
    if quantized:
        write_qdq(opened, output, libraries)
    else:
        _write(opened, opened.model.proto, output, libraries)
    return opened.run


def export_scales(database: Database, reference: str, output: Path, name: str) -> tuple[str, ...]:
    """Write the scales of a run in a format without a model, which is not needed.

    Args:
        name: one of `qgraph.formats.scale_files.FORMATS`.

    Returns:
        A line for each thing that the format cannot say.

    Raises:
        NotFoundError: no such run or format.
        UsageError, ExportError: the run has no scales, or the file cannot be written.
    """
    format_named(name)
    with database.reading() as connection:
        run = _with_scales(runs.resolve_run(connection, reference))
        record = models.load_model(connection, run.model)
        data = runs.load_run(connection, run.id)
    _refuse_special_places(output, database)
    if record.path is not None:
        _refuse(output, {Path(record.path).resolve(): "the float model"})
    settings = data.settings
    origin = {
        "run": run.id,
        "model": record.fingerprint,
        "target": settings.target,
        "target_version": settings.target_version,
        "observer": settings.observer or "",
    }
    return write_scales(table_of(data, origin), name, output)


def _with_scales(run: RunRecord) -> RunRecord:
    """Refuse a run of a structure alone: the few scales that the target prescribes are no answer."""
    if run.settings.observer is None:
        raise UsageError("the run has no scales", run.id, "run qgraph calibrate, then name its run")
    return run


def refuse_to_overwrite(output: Path, opened: Opened, database: Database) -> None:
    """Keep an export from replacing what it is made from, or anything that is no regular file."""
    _refuse_special_places(output, database)
    kept = {opened.model.path.resolve(): "the float model"}
    kept |= {path.resolve(): "the float model's weights" for path in opened.model.external_files}
    _refuse(output, kept)


def _refuse_special_places(output: Path, database: Database) -> None:
    if not output.parent.is_dir():
        raise UsageError("no such folder", str(output.parent), "create it, or choose another place")
    if is_there(output) and (output.is_symlink() or not output.is_file()):
        raise UsageError("not a regular file", str(output), "choose another place")
    file = sqlite_file(database)
    if file is not None:
        _refuse(output, {Path(f"{file.resolve()}{end}"): "the database" for end in ("", "-wal", "-shm")})


def is_there(output: Path) -> bool:
    """Whether there is anything of a name.

    Raises:
        UsageError: nothing can have the name, such as one that is too long.
    """
    try:
        return output.is_symlink() or output.exists()
    except OSError as error:
        raise UsageError("cannot write there", f"{output} ({error.strerror})", "choose another name") from error


def _refuse(output: Path, kept: Mapping[Path, str]) -> None:
    place = output.resolve()
    if place in kept:
        raise UsageError(f"the export would replace {kept[place]}", str(output), "choose another name with -o")


def write_qdq(opened: Opened, output: Path, libraries: Sequence[Path] = ()) -> None:
    """Write the QDQ model of a run to a file."""
    metadata = {"qgraph.run": opened.run, "qgraph.target": opened.data.settings.target}
    _write(opened, to_qdq(opened.model.proto, opened.data, metadata, opened.model.folder), output, libraries)


def _write(opened: Opened, made: ModelProto, output: Path, libraries: Sequence[Path]) -> None:
    trial = partial(run_once, shapes=opened.input_shapes, libraries=libraries)
    write_checked(made, output, trial, opened.model.folder)
