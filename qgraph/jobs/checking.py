"""Check a quantized file against a target: no data, no database."""

from __future__ import annotations

from pathlib import Path

from qgraph.analysis.check import check
from qgraph.analysis.violation import Report
from qgraph.constraints.pack import load_pack
from qgraph.errors import ModelError
from qgraph.formats.quantized_onnx import read_quantized_onnx


def check_file(path: Path, target: str) -> Report:
    """Hold a quantized model, made by anyone, against a target's rules.

    Raises:
        NotFoundError, PackError: no such target, or its pack is not valid.
        ModelError: the file is not a model that can be read, or not quantized.
    """
    pack = load_pack(target)
    if path.suffix == ".tflite":
        raise ModelError("only ONNX models can be checked", str(path), "check the ONNX model that it was made from")
    return check(read_quantized_onnx(path), pack)
