"""What needs the model file again: writing a quantized model, and comparing it with the float one."""

from __future__ import annotations

import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path

from qgraph.analysis.sessions import run_once
from qgraph.analysis.verify import Verification
from qgraph.analysis.verify import verify as compare
from qgraph.calib.data import open_data
from qgraph.errors import ModelError, UsageError
from qgraph.formats.onnx_file import write_checked
from qgraph.formats.qdq import to_qdq
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.solve.run import RunData
from qgraph.store import models, runs
from qgraph.store.database import Database


def open_model(database: Database, reference: str, model: Path | None) -> tuple[ImportedModel, RunData, str]:
    """The model of a run, from its stored place or another one, its data and its id.

    Raises:
        ModelError: the file is not there or not the stored model.
    """
    with database.reading() as connection:
        run = runs.resolve_run(connection, reference)
        record = models.load_model(connection, run.model)
        data = runs.load_run(connection, run.id)
    path = model or (Path(record.path) if record.path else None)
    if path is None:
        raise ModelError("the model came from memory", record.name, "name its file with --model")
    imported = load_model(path)
    if imported.structure.fingerprint != record.fingerprint:
        cure = "give the file that was calibrated with --model, or calibrate this one"
        raise ModelError("not the model that was stored", str(path), cure)
    return imported, data, run.id


def export(database: Database, reference: str, output: Path, *, model: Path | None = None) -> str:
    """Write a run as a QDQ ONNX model, checked and run once before the file takes its name. Returns the run's id.

    Raises:
        UsageError: the run has no scales.
        ModelError, ExportError: the model is not the stored one; the written one is not valid or does not run.
    """
    imported, data, run = open_model(database, reference, model)
    write_qdq(imported, data, run, output)
    return run


def write_qdq(imported: ImportedModel, data: RunData, run: str, output: Path) -> None:
    """Write the QDQ model of a run to a file."""
    if data.settings.observer is None:
        raise UsageError("the run has no scales to export", run, "run qgraph calibrate, then export its run")
    metadata = {"qgraph.run": run, "qgraph.target": data.settings.target}
    exported = to_qdq(imported.proto, data, metadata, imported.folder)
    write_checked(exported, output, run_once, imported.folder)


def verify(
    database: Database,
    reference: str,
    data: object,
    *,
    model: Path | None = None,
    steps: int | None = None,
    optimized: bool = True,
) -> tuple[Verification, str]:
    """Export a run into a temporary file and compare it with the float model. Returns the comparison and the run's id.

    Args:
        steps: samples to use; None for all.
        optimized: integer kernels, as in deployment; False runs every node as it is written.
    """
    imported, solved, run = open_model(database, reference, model)
    tensors = {tensor.name: tensor for tensor in imported.structure.tensors}
    inputs = [tensors[name] for name in imported.structure.inputs]
    with tempfile.TemporaryDirectory() as folder, closing(open_data(data, inputs)) as source:
        exported = Path(folder) / "exported.onnx"
        write_qdq(imported, solved, run, exported)
        feeds = (sample.arrays for sample in islice(source.samples(), steps))
        return compare(imported.path, exported, feeds, optimized=optimized), run
