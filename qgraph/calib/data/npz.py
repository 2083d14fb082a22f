"""Rows of a `.npz` file, streamed: no member is ever held whole, compressed or not, and nothing is unpickled.

A `.npz` is a zip of `.npy` members; each is a header and then the elements in row-major order, so the rows
along the first axis can be read one after the other straight from the zip stream.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qgraph.errors import DataError, NotFoundError

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)
"""What zipfile, zlib and the header reader raise on damaged, encrypted or unsupported files."""

_SAVE_AGAIN = "write the file again with numpy.savez, one contiguous array of numbers per input"


@dataclass(frozen=True, slots=True)
class _Member:
    """An open array: its rows are the next bytes of the stream."""

    name: str
    stream: IO[bytes]
    dtype: np.dtype[Any]
    rows: int
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize


def rows_of(path: Path, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield row after row of the arrays in `path`, as ``{name: array without the first axis}``.

    Args:
        names: the model's inputs; the file must have exactly these arrays, with as many rows each.

    Raises:
        DataError: the file is missing, no `.npz`, damaged, or its arrays cannot be streamed.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            found = _find_members(path, archive, names)
            members = [_open_member(path, archive, name, found[name], stack) for name in names]
        except FileNotFoundError:
            raise DataError("data file does not exist", str(path), "check the path") from None
        except IsADirectoryError:
            raise DataError("data is a folder", str(path), "pass a .npz file with one array per input") from None
        except PermissionError:
            raise DataError("data file may not be read", str(path), "check its permissions") from None
        except _BROKEN as error:
            raise DataError("not a readable .npz file", f"{path} ({error})", _SAVE_AGAIN) from None
        _check_rows(path, members)
        for _ in range(members[0].rows if members else 0):
            yield {member.name: _next_row(path, member) for member in members}


def _find_members(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """The member of each input; as numpy reads them, with or without the suffix ``.npy``."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        name = info.filename.removesuffix(".npy")
        if name not in names:
            unknown = NotFoundError.among("input", name, names, f"the model's inputs are {', '.join(names)}")
            raise DataError("data for an unknown input", f"{path}, array {name}", unknown.cure)
        if name in found:
            raise DataError("two arrays for one input", f"{path}, input {name}", _SAVE_AGAIN)
        found[name] = info
    for name in names:
        if name not in found:
            raise DataError("no data for an input of the model", f"{path}, input {name}", f"add the array {name}")
    return found


def _open_member(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, stack: ExitStack) -> _Member:
    """Open a member and read its header; the announced size must be that of the member."""
    stream = stack.enter_context(archive.open(info))
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError("array is not of numbers", f"{path}, input {name}", _SAVE_AGAIN)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.names is not None:
        raise DataError("array is not of numbers", f"{path}, input {name} ({dtype})", _SAVE_AGAIN)
    if not shape:
        raise DataError("array has no sample axis", f"{path}, input {name}", "its first axis must count samples")
    if fortran and len(shape) > 1:
        raise DataError("array is stored column by column", f"{path}, input {name}", _SAVE_AGAIN)
    if min(shape) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
        raise DataError("array is truncated", f"{path}, input {name} {list(shape)}", _SAVE_AGAIN)
    return _Member(name, stream, dtype, shape[0], tuple(shape[1:]))


def _check_rows(path: Path, members: Sequence[_Member]) -> None:
    if len({member.rows for member in members}) > 1:
        numbers = ", ".join(f"{member.name} has {member.rows}" for member in members)
        raise DataError("inputs with different numbers of samples", f"{path}: {numbers}", "give each as many")


def _next_row(path: Path, member: _Member) -> NDArray[Any]:
    try:
        data = member.stream.read(member.row_bytes)
    except _BROKEN as error:
        raise DataError("data file is damaged", f"{path}, input {member.name} ({error})", _SAVE_AGAIN) from None
    if len(data) != member.row_bytes:
        raise DataError("array is truncated", f"{path}, input {member.name}", _SAVE_AGAIN)
    return np.frombuffer(data, member.dtype).reshape(member.row_shape)
