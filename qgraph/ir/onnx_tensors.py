"""The data of ONNX tensors, inline or in files beside the model, read only when asked for.

A location outside the model's folder is refused before the file is opened: a model is data from
anywhere, and must not choose which files of the machine are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper

from qgraph.errors import ModelError

CHUNK = 1 << 22
"""Bytes of external data in memory at a time while it is streamed."""


@dataclass(frozen=True, slots=True)
class ExternalRange:
    """Where in which file the bytes of a tensor lie."""

    path: Path
    offset: int
    length: int


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data lies in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def elements(tensor: onnx.TensorProto) -> int:
    """Number of elements by the tensor's shape."""
    return math.prod(tensor.dims)


def dtype_name(data_type: int) -> str:
    """The element type in lower case, such as ``float32``; ``""`` for none or one that is not known."""
    try:
        data = onnx_ir.DataType(data_type)
    except ValueError:
        return ""
    return {"UNDEFINED": "", "FLOAT": "float32", "DOUBLE": "float64"}.get(data.name, data.name.lower())


def size_in_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the data by shape and element type; types below 8 bits are packed."""
    return -(-elements(tensor) * onnx_ir.DataType(tensor.data_type).bitwidth // 8)


def external_range(tensor: onnx.TensorProto, folder: Path) -> ExternalRange:
    """Where the data of an external tensor lies.

    Raises:
        ModelError: the location is missing, leaves `folder` (also through a link), or the file is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    which = f"{tensor.name} at {location!r}"
    cure = "keep the weights beside the model file, in the same folder"
    root = folder.resolve()
    try:
        path = (root / location).resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:  # a name that the file system cannot have, such as one with a null
        raise ModelError("external data with an impossible name", which, cure) from error
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise ModelError("external data outside the model's folder", which, cure)
    if not is_file:
        raise ModelError("external data is missing", f"{which} (looked in {folder})", cure)
    expected = size_in_bytes(tensor)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError as error:
        raise ModelError("external data with a broken position", which, "export the model again") from error
    if offset < 0 or length != expected or offset + length > path.stat().st_size:
        what = f"external data does not hold the {expected} bytes of its tensor"
        raise ModelError(what, f"{which}, offset {offset}, length {length}", "copy or export the weights again")
    return ExternalRange(path, offset, length)


def stored_bytes(tensor: onnx.TensorProto, folder: Path) -> Iterator[bytes]:
    """The data as little-endian bytes in chunks, the same however the file encodes it. Not for strings."""
    if is_external(tensor):
        place = external_range(tensor, folder)
        with place.path.open("rb") as file:
            file.seek(place.offset)
            for start in range(0, place.length, CHUNK):
                yield file.read(min(CHUNK, place.length - start))
    elif tensor.HasField("raw_data"):
        yield tensor.raw_data
    else:
        yield onnx_ir.serde.deserialize_tensor(tensor).tobytes()


def inline(tensor: onnx.TensorProto, folder: Path) -> None:
    """Move the data of an external tensor into the tensor."""
    data = b"".join(stored_bytes(tensor, folder))
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = data


def read_array(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """The tensor as an array of its shape; float16 and smaller floats in their own numpy types.

    External data is mapped from its file where numpy has the type, so that only what is looked at comes into memory.
    The array is read-only then; the file must not be cut while it is in use.

    Raises:
        ModelError: external data that cannot be read.
    """
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    place = external_range(tensor, folder)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if place.length and place.length == elements(tensor) * kind.itemsize:
        stored = kind.newbyteorder("<") if kind.kind in "iufc" else kind
        return np.memmap(place.path, stored, "r", place.offset, tuple(tensor.dims))
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    inline(copy, folder)
    return numpy_helper.to_array(copy)


def check_data(tensor: onnx.TensorProto, folder: Path) -> None:
    """Raise `ModelError` if the data is not there or its size does not fit the shape. Reads no external data."""
    if not dtype_name(tensor.data_type):
        raise ModelError("a tensor of unknown type", f"{tensor.name}: {tensor.data_type}", "update onnx")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError("a tensor with a negative dimension", f"{tensor.name}: {tuple(tensor.dims)}", "export again")
    which = f"{tensor.name}: {dtype_name(tensor.data_type)} {tuple(tensor.dims)}"
    if tensor.data_type == onnx.TensorProto.STRING:
        fits = not is_external(tensor) and len(tensor.string_data) == elements(tensor)
    elif is_external(tensor):
        external_range(tensor, folder)
        fits = True
    elif tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == size_in_bytes(tensor)
    else:
        fits = _is_readable(tensor)
    if not fits:
        raise ModelError("a tensor whose data does not fill its shape", which, "export the model again")


def _is_readable(tensor: onnx.TensorProto) -> bool:
    try:
        numpy_helper.to_array(tensor)
    except (TypeError, ValueError):
        return False
    return True


def external_folder_entry(folder: Path) -> tuple[str, str]:
    """Key and value of the session setting by which onnxruntime finds the external weights of a model in memory."""
    return "session.model_external_initializers_file_folder_path", str(folder.resolve())
