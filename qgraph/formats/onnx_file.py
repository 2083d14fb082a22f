"""Writing an ONNX model so that its name only ever stands for a complete file that was checked and has run."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto, external_data_helper

from qgraph.errors import ExportError, QgraphError

IN_ONE_FILE = 1_900_000_000
"""Bytes up to which a model is one file; protobuf ends at 2 GiB. Above, weights go to a second file beside it."""


def write_checked(
    model: ModelProto,
    path: Path,
    trial: Callable[[Path], object],
    folder: Path | None = None,
    in_one_file: int = IN_ONE_FILE,
) -> None:
    """Write a model, check it with the full ONNX checker, run it once, and only then give the file its name.

    Everything happens in a temporary folder beside `path`, so a failure leaves no trace and an existing file as it
    was. A second file with weights is named after its content, so an older model of the same name never reads it.

    Args:
        model: not changed.
        trial: runs the file on a sample, and raises if it does not run.
        folder: where external data of `model` lies; it is copied into the new files.
        in_one_file: bytes from which weights go to a second file.

    Raises:
        ExportError: the checker or the trial failed, or the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
            written = _write(model, Path(temporary), path.name, folder, in_one_file)
            _check(written[-1], path, trial)
            for file in written:
                file.replace(path.parent / file.name)
    except OSError as error:
        raise ExportError("cannot write the model", f"{path} ({error.strerror})", "choose another place") from error


def _write(model: ModelProto, temporary: Path, name: str, folder: Path | None, in_one_file: int) -> list[Path]:
    """Write the model's files and return them, the model itself last."""
    target = temporary / name
    is_external = any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    if not is_external and model.ByteSize() <= in_one_file:
        target.write_bytes(model.SerializeToString(deterministic=True))
        return [target]
    complete = ModelProto()
    complete.CopyFrom(model)
    external_data_helper.load_external_data_for_model(complete, str(folder or ""))
    if complete.ByteSize() <= in_one_file:
        target.write_bytes(complete.SerializeToString(deterministic=True))
        return [target]
    data = f"{name}.{_content_digest(complete)}.data"
    onnx.save_model(complete, target, save_as_external_data=True, location=data)
    return [temporary / data, target]


def _content_digest(model: ModelProto) -> str:
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()[:16]


def _check(written: Path, path: Path, trial: Callable[[Path], object]) -> None:
    try:
        onnx.checker.check_model(str(written), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "the exported model is not valid ONNX", f"{path}: {_first_line(error)}", "check the float model first"
        ) from error
    try:
        trial(written)
    except QgraphError:
        raise
    except Exception as error:  # a runtime raises whatever it likes
        raise ExportError(
            "the exported model does not run", f"{path}: {' '.join(str(error).split())}", "report it with the model"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
