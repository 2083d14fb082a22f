"""Read a .tflite file into plain data, so that a damaged or hostile one ends in one error.

The flatbuffers package follows every offset that a file holds. Reads beyond the file raise, but a file can name the
same bytes many times over: 10,000 tensors that share one name of a megabyte would need 10 GB. In a file that a tool
wrote every byte is named about once, so all reads are paid from an allowance of a few times the file's size. What is
read is thereby bounded in time and memory, whatever the file says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tflite

from qgraph.errors import ModelError

IDENTIFIER = b"TFL3"
"""At byte 4 of every file of this format, after the schema's `file_identifier`."""

SHARING = 4
"""How often each byte of a file may be named, on average. Tools share strings and empty tables, and little else."""

BUILTIN_CODE = 10
"""Where the table of an OperatorCode has the place of its field `builtin_code`."""

TABLE_BYTES = 8
"""The least that a table takes in a file: its own offset and one that refers to it."""

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file has it.

    Attributes:
        dtype: in lower case, as ``int8``.
        shape: None for a dimension that is known at run time only; None in all where the rank is not known.
        scale, offset: the quantization; empty where the tensor has none.
        axis: the channel axis, where there are several scales.
        buffer: index of the buffer with its data.
        blockwise: scales that are given per block, in a form that is not read here.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    scale: tuple[float, ...]
    offset: tuple[int, ...]
    axis: int
    buffer: int
    blockwise: bool


@dataclass(frozen=True, slots=True)
class StoredOp:
    """An op as the file has it.

    Attributes:
        type: the builtin operator, as ``CONV_2D``, or the code of a custom one.
        inputs, outputs: indices of tensors of the subgraph; −1 for an optional one that is left out.
        variable: of a VAR_HANDLE, the name of the variable that it refers to.
    """

    type: str
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    variable: str | None


@dataclass(frozen=True, slots=True)
class Subgraph:
    """One of the file's subgraphs; the first one is the model, others are bodies and initialisers."""

    name: str
    tensors: tuple[StoredTensor, ...]
    ops: tuple[StoredOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """A file's content. `buffers` are bytes (uint8 views into the file, not copied), empty where there are none."""

    subgraphs: tuple[Subgraph, ...]
    buffers: tuple[np.ndarray, ...]


def read_tflite_file(path: Path) -> tuple[TfliteFile, bytes]:
    """Read a file.

    Returns:
        Its content in plain data, all indices inside their bounds, and its bytes.

    Raises:
        ModelError: the file is missing, is not of this format, or is damaged.
    """
    content = _bytes(path)
    which = str(path)
    if content[4:8] != IDENTIFIER:
        raise ModelError("not a TensorFlow Lite model", which, "give a .tflite file; copy or convert it again")
    try:
        return _Reader(content).file(), content
    except _BROKEN as error:
        reason = f" ({error})" if isinstance(error, _DamageError) else ""
        cure = "copy or convert it again"
        raise ModelError("a damaged TensorFlow Lite model", f"{which}{reason}", cure) from error


def _bytes(path: Path) -> bytes:
    which = str(path)
    if path.is_dir():
        raise ModelError("the model is a folder", which, "name the .tflite file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("no such model file", which, "check the path") from error
    except OSError as error:
        raise ModelError("the model file cannot be read", f"{which} ({error.strerror})", "check the file") from error


class _DamageError(Exception):
    """What the file says cannot be so."""


_BROKEN = (_DamageError, struct.error, TypeError, ValueError, IndexError, OverflowError, AttributeError)
"""What the flatbuffers package raises for offsets that lead out of the file, or into the middle of something else."""


class _Reader:
    """Walks a file's tables once and pays for every byte."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = SHARING * len(content) + 4096
        self._model = tflite.Model.GetRootAs(content, 0)

    def _pay(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _DamageError("the same bytes are named too often")

    def _tables(self, length: Callable[[], int], at: Callable[[int], Any], read: Callable[[Any], Entry]) -> list[Entry]:
        """Read a vector of tables."""
        count = length()
        self._pay(count * TABLE_BYTES)
        return [read(at(index)) for index in range(count)]

    def _numbers(self, length: Callable[[], int], array: Callable[[], Any], width: int) -> list[Any]:
        """Read a vector of numbers of `width` bytes; an empty one where it is left out."""
        count = length()
        self._pay(count * width)
        found: list[Any] = array().tolist() if count else []
        return found

    def _text(self, value: bytes | None) -> str:
        self._pay(len(value or b""))
        return (value or b"").decode("utf-8", errors="replace")

    def file(self) -> TfliteFile:
        model = self._model
        buffers = self._tables(model.BuffersLength, model.Buffers, self._buffer)
        codes = self._tables(model.OperatorCodesLength, model.OperatorCodes, self._code)

        def subgraph(table: Any) -> Subgraph:
            return self._subgraph(table, codes, len(buffers))

        subgraphs = self._tables(model.SubgraphsLength, model.Subgraphs, subgraph)
        if not subgraphs:
            raise _DamageError("it has no subgraph")
        return TfliteFile(tuple(subgraphs), tuple(buffers))

    def _buffer(self, table: Any) -> np.ndarray:
        """A buffer's data; that of large models lies behind the flatbuffer, at an offset from the file's start."""
        offset, size = table.Offset(), table.Size()
        if offset > 1:
            if offset + size > len(self._content):
                raise _DamageError("a buffer ends behind the file")
            self._pay(size)
            return np.frombuffer(self._content, np.uint8, size, offset)
        count = table.DataLength()
        self._pay(count)
        data: np.ndarray = table.DataAsNumpy() if count else np.zeros(0, np.uint8)
        return data

    def _code(self, table: Any) -> tuple[str, bool]:
        """Type of an op, and whether it is a custom one.

        Old files have an 8-bit code alone, new ones both fields, and what ai-edge-quantizer adds the new field alone:
        for that, `OperatorCode.BuiltinCode` of the schema package returns the old one's default, which is ADD.
        """
        place = table._tab.Offset(BUILTIN_CODE)
        new = struct.unpack_from("<i", self._content, place + table._tab.Pos)[0] if place else 0
        code = max(new, table.DeprecatedBuiltinCode())
        if code == tflite.BuiltinOperator.CUSTOM:
            return self._text(table.CustomCode()) or "CUSTOM", True
        return tflite.BUILTIN_OPCODE2NAME.get(code, f"BUILTIN_{code}"), False

    def _subgraph(self, table: Any, codes: Sequence[tuple[str, bool]], buffers: int) -> Subgraph:
        def tensor(entry: Any) -> StoredTensor:
            return self._tensor(entry, buffers)

        tensors = self._tables(table.TensorsLength, table.Tensors, tensor)

        def op(entry: Any) -> StoredOp:
            return self._op(entry, codes, len(tensors))

        ops = self._tables(table.OperatorsLength, table.Operators, op)
        name = self._text(table.Name())
        inputs = self._indices(table.InputsLength, table.InputsAsNumpy, len(tensors), lowest=0)
        outputs = self._indices(table.OutputsLength, table.OutputsAsNumpy, len(tensors), lowest=0)
        return Subgraph(name, tuple(tensors), tuple(ops), inputs, outputs)

    def _indices(
        self, length: Callable[[], int], array: Callable[[], Any], count: int, *, lowest: int = -1
    ) -> tuple[int, ...]:
        found = self._numbers(length, array, 4)
        if any(not lowest <= index < count for index in found):
            raise _DamageError("an op or a subgraph names a tensor that is not there")
        return tuple(found)

    def _op(self, table: Any, codes: Sequence[tuple[str, bool]], tensors: int) -> StoredOp:
        if not 0 <= table.OpcodeIndex() < len(codes):
            raise _DamageError("an op of a type that is not there")
        kind, is_custom = codes[table.OpcodeIndex()]
        inputs = self._indices(table.InputsLength, table.InputsAsNumpy, tensors)
        outputs = self._indices(table.OutputsLength, table.OutputsAsNumpy, tensors)
        variable = self._variable(table) if kind == "VAR_HANDLE" and not is_custom else None
        return StoredOp(kind, is_custom, inputs, outputs, variable)

    def _variable(self, table: Any) -> str | None:
        union = table.BuiltinOptions()
        if union is None or table.BuiltinOptionsType() != tflite.BuiltinOptions.VarHandleOptions:
            return None
        options = tflite.VarHandleOptions()
        options.Init(union.Bytes, union.Pos)
        container, name = self._text(options.Container()), self._text(options.SharedName())
        return f"{container}/{name}" if container else name

    def _tensor(self, table: Any, buffers: int) -> StoredTensor:
        name = self._text(table.Name())
        if not 0 <= table.Buffer() < buffers:
            raise _DamageError(f"tensor {name} names a buffer that is not there")
        dtype = _DTYPES.get(table.Type(), f"type_{table.Type()}")
        quantization = table.Quantization()
        scale: list[float] = []
        offset: list[int] = []
        axis, blockwise = 0, False
        if quantization is not None:
            scale = self._numbers(quantization.ScaleLength, quantization.ScaleAsNumpy, 4)
            offset = self._numbers(quantization.ZeroPointLength, quantization.ZeroPointAsNumpy, 8)
            axis = quantization.QuantizedDimension()
            blockwise = quantization.DetailsType() != tflite.QuantizationDetails.NONE
        return StoredTensor(
            name, dtype, self._shape(table), tuple(scale), tuple(offset), axis, table.Buffer(), blockwise
        )

    def _shape(self, table: Any) -> tuple[int | None, ...] | None:
        shape = self._numbers(table.ShapeLength, table.ShapeAsNumpy, 4)
        signature = self._numbers(table.ShapeSignatureLength, table.ShapeSignatureAsNumpy, 4)
        sizes = signature if len(signature) == len(shape) else shape
        if not sizes and table.ShapeIsNone() and not table.HasRank():
            # The converter leaves the shape of a scalar out, too: a constant is told by its data.
            return None
        return tuple(None if size < 0 else size for size in sizes)


_DTYPES = {value: name.lower() for name, value in vars(tflite.TensorType).items() if isinstance(value, int)}
