"""Writing an ONNX model so that its name only ever stands for a complete file that was checked and has run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from qgraph.errors import ExportError, QgraphError
from qgraph.formats.whole_file import folder_beside
from qgraph.ir.onnx_tensors import inline, is_external, size_in_bytes, stored_bytes
from qgraph.ir.onnx_walk import all_tensors

SMALLEST_MOVED = 1024
"""Bytes of the smallest weight that goes to the second file: shapes, axes and bounds stay where libraries see them."""

ALIGNMENT = 4096
"""Weights begin at multiples of a memory page, so that runtimes can map them."""

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
        with folder_beside(path) as temporary:
            written = _write(model, temporary, path.name, folder, in_one_file)
            _check(written[-1], path, trial)
            for file in written:
                file.replace(path.parent / file.name)
    except OSError as error:
        raise ExportError("cannot write the model", f"{path} ({error.strerror})", "choose another place") from error


def _write(model: ModelProto, temporary: Path, name: str, folder: Path | None, in_one_file: int) -> list[Path]:
    """Write the model's files and return them, the model itself last."""
    target = temporary / name
    has_external = any(is_external(tensor) for tensor in all_tensors(model))
    if sum(map(_stored_size, all_tensors(model))) <= in_one_file:
        if has_external:
            model = _inlined(model, folder or Path())
        target.write_bytes(model.SerializeToString(deterministic=True))
        return [target]
    light = _without_weights(model, folder or Path())
    data = _write_weights(model.graph.initializer, light, target, folder or Path())
    target.write_bytes(light.SerializeToString(deterministic=True))
    return [data, target]


def _stored_size(tensor: TensorProto) -> int:
    """Bytes of a tensor's data; small ones that are not stored as raw bytes may take a little more."""
    return 0 if tensor.data_type == TensorProto.STRING else size_in_bytes(tensor)


def _inlined(model: ModelProto, folder: Path) -> ModelProto:
    """A copy with all data in it."""
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in all_tensors(result):
        if is_external(tensor):
            inline(tensor, folder)
    return result


def _without_weights(model: ModelProto, folder: Path) -> ModelProto:
    """A copy without initializers of the main graph; what is external elsewhere is in it."""
    result = ModelProto()
    for part, copy, left_out in ((model, result, "graph"), (model.graph, result.graph, "initializer")):
        for field, value in part.ListFields():
            if field.name == left_out:
                continue
            if hasattr(value, "MergeFrom"):  # a message, or several values
                getattr(copy, field.name).MergeFrom(value)
            else:
                setattr(copy, field.name, value)
    return _inlined(result, folder)


def _write_weights(weights: Iterable[TensorProto], light: ModelProto, target: Path, folder: Path) -> Path:
    """Add initializers to `light`, the large ones as places in a file beside `target`, which is returned.

    The data goes from file to file in pieces. The file is named after it.
    """
    digest, unnamed, moved = hashlib.sha256(), target.with_name(f"{target.name}.data"), []
    with unnamed.open("wb") as file:
        for weight in weights:
            tensor = light.graph.initializer.add()
            if weight.data_type == TensorProto.STRING or size_in_bytes(weight) < SMALLEST_MOVED:
                tensor.CopyFrom(weight)
                if is_external(tensor):
                    inline(tensor, folder)
                continue
            file.write(bytes(-file.tell() % ALIGNMENT))
            offset = file.tell()
            for piece in stored_bytes(weight, folder):
                digest.update(piece)
                file.write(piece)
            tensor.name, tensor.data_type, tensor.doc_string = weight.name, weight.data_type, weight.doc_string
            tensor.dims.extend(weight.dims)
            moved.append((tensor, offset, file.tell() - offset))
    named = target.with_name(f"{target.name}.{digest.hexdigest()[:16]}.data")
    unnamed.replace(named)
    for tensor, offset, length in moved:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", named.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return named


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
