"""Build small .tflite files from a few words, with the schema package's own builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite


@dataclass(frozen=True)
class T:
    """A tensor; `data` makes it a constant."""

    name: str
    scale: tuple[float, ...] = ()
    offset: tuple[int, ...] = ()
    dtype: str = "INT8"
    shape: tuple[int, ...] = (1, 4)
    axis: int = 0
    data: np.ndarray | None = None


@dataclass(frozen=True)
class N:
    """An op: a builtin's name, or any other name for a custom one; tensors by name, None for one left out."""

    type: str
    inputs: Sequence[str | None] = ()
    outputs: Sequence[str] = ()
    variable: str = ""


@dataclass(frozen=True)
class G:
    """A subgraph."""

    tensors: Sequence[T]
    ops: Sequence[N]
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    name: str = "main"
    index: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, tensor in enumerate(self.tensors):
            self.index.setdefault(tensor.name, number)


def _vector(b: Any, start: Any, offsets: Sequence[int]) -> int:
    start(b, len(offsets))
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _tensor(b: Any, tensor: T, buffer: int) -> int:
    name = b.CreateString(tensor.name)
    shape = b.CreateNumpyVector(np.array(tensor.shape, np.int32))
    quantization = None
    if tensor.scale:
        scale = b.CreateNumpyVector(np.array(tensor.scale, np.float32))
        offset = b.CreateNumpyVector(np.array(tensor.offset or (0,) * len(tensor.scale), np.int64))
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, offset)
        tflite.QuantizationParametersAddQuantizedDimension(b, tensor.axis)
        quantization = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, getattr(tflite.TensorType, tensor.dtype))
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, name)
    if quantization is not None:
        tflite.TensorAddQuantization(b, quantization)
    return int(tflite.TensorEnd(b))


def _op(b: Any, op: N, graph: G, code: int) -> int:
    inputs = b.CreateNumpyVector(np.array([-1 if n is None else graph.index[n] for n in op.inputs], np.int32))
    outputs = b.CreateNumpyVector(np.array([graph.index[n] for n in op.outputs], np.int32))
    options = None
    if op.type == "VAR_HANDLE":
        name = b.CreateString(op.variable)
        tflite.VarHandleOptionsStart(b)
        tflite.VarHandleOptionsAddSharedName(b, name)
        options = tflite.VarHandleOptionsEnd(b)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, tflite.BuiltinOptions.VarHandleOptions)
        tflite.OperatorAddBuiltinOptions(b, options)
    return int(tflite.OperatorEnd(b))


def _code(b: Any, kind: str, *, old: bool) -> int:
    number = {name: code for code, name in tflite.BUILTIN_OPCODE2NAME.items()}.get(kind)
    custom = b.CreateString(kind) if number is None else None
    number = tflite.BuiltinOperator.CUSTOM if number is None else number
    tflite.OperatorCodeStart(b)
    if old:
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    if custom is not None:
        tflite.OperatorCodeAddCustomCode(b, custom)
    return int(tflite.OperatorCodeEnd(b))


def build(*graphs: G, old_codes: bool = True) -> bytes:
    """The file's bytes; without `old_codes` ops have the 32-bit code alone, as ai-edge-quantizer writes them."""
    b = flatbuffers.Builder(1024)
    kinds = sorted({op.type for graph in graphs for op in graph.ops})
    codes = _vector(b, tflite.ModelStartOperatorCodesVector, [_code(b, kind, old=old_codes) for kind in kinds])
    data: list[np.ndarray | None] = [None]
    subgraphs = []
    for graph in graphs:
        tensors = []
        for tensor in graph.tensors:
            number = 0
            if tensor.data is not None:
                data.append(tensor.data)
                number = len(data) - 1
            tensors.append(_tensor(b, tensor, number))
        ops = [_op(b, op, graph, kinds.index(op.type)) for op in graph.ops]
        name = b.CreateString(graph.name)
        all_tensors = _vector(b, tflite.SubGraphStartTensorsVector, tensors)
        all_ops = _vector(b, tflite.SubGraphStartOperatorsVector, ops)
        inputs = b.CreateNumpyVector(np.array([graph.index[n] for n in graph.inputs], np.int32))
        outputs = b.CreateNumpyVector(np.array([graph.index[n] for n in graph.outputs], np.int32))
        tflite.SubGraphStart(b)
        tflite.SubGraphAddName(b, name)
        tflite.SubGraphAddTensors(b, all_tensors)
        tflite.SubGraphAddOperators(b, all_ops)
        tflite.SubGraphAddInputs(b, inputs)
        tflite.SubGraphAddOutputs(b, outputs)
        subgraphs.append(tflite.SubGraphEnd(b))
    buffers = []
    for content in data:
        vector = None if content is None else b.CreateNumpyVector(np.frombuffer(content.tobytes(), np.uint8))
        tflite.BufferStart(b)
        if vector is not None:
            tflite.BufferAddData(b, vector)
        buffers.append(tflite.BufferEnd(b))
    all_buffers = _vector(b, tflite.ModelStartBuffersVector, buffers)
    all_subgraphs = _vector(b, tflite.ModelStartSubgraphsVector, subgraphs)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, all_subgraphs)
    tflite.ModelAddBuffers(b, all_buffers)
    b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
    return bytes(b.Output())
