"""Check a quantized file against a target: no data needed, and a database only for prices."""

from __future__ import annotations

from pathlib import Path

from qgraph.analysis.check import check
from qgraph.analysis.violation import Report
from qgraph.constraints.pack import load_pack
from qgraph.errors import ModelError
from qgraph.formats.quantized_model import QuantizedModel
from qgraph.formats.quantized_onnx import read_quantized_onnx
from qgraph.formats.tflite import read_tflite


def check_file(path: Path, target: str, *, run: str | None = None, database: str | Path = "") -> Report:
    """Hold a quantized model, made by anyone, against a target's rules.

    Args:
        run: its statistics price the repairs; see `qgraph.jobs.pricing.prices_of`.
        database: where the run is.

    Raises:
        NotFoundError, PackError: no such target, or its pack is not valid.
        ModelError: the file is not a model that can be read, or not quantized.
        StoreError, UsageError: as `qgraph.jobs.pricing.prices_of`.
    """
    pack = load_pack(target)
    model = read_quantized(path)
    if run is None:
        return check(model, pack)
    from qgraph.jobs.pricing import prices_of  # loads SQLAlchemy

    return check(model, pack, prices_of(model, database, run))


def read_quantized(path: Path) -> QuantizedModel:
    """Read a quantized model of any format.

    Raises:
        ModelError: the file is not a model that can be read, or not quantized.
    """
    if path.suffix.lower() != ".tflite":
        return read_quantized_onnx(path)
    model = read_tflite(path)
    if not model.quantizations:
        cure = "give a model with quantized tensors, or ask qgraph analyze about a float model"
        raise ModelError("nothing in the model is quantized", str(path), cure)
    return model
