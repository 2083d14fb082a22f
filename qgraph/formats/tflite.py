"""Read a quantized TensorFlow Lite model, made by anyone, as ops that rule packs know and the parameters in it.

Every tensor of the file is a tensor here, under its own name, and has one scale and zero point wherever it is
read::

    x (0.1, -128) ─ CONV_2D ─ y (0.2, 3) ─┬─ QUANTIZE ─ z (0.3, 0) ─ CONCATENATION ─ …      z is another tensor
                                          └─ MAX_POOL_2D ─ …                               reads y with (0.2, 3)

Integers that stand for numbers (they have a scale) are seen as float tensors; QUANTIZE and DEQUANTIZE are
ops that no rule ties. A *variable* is what VAR_HANDLE, READ_VARIABLE and ASSIGN_VARIABLE refer to by one name, in any
subgraph: it keeps integers between two ops or two runs, so that all of them must mean the same.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qgraph.errors import ModelError
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.tflite_file import StoredOp, StoredTensor, Subgraph, TfliteFile, read_tflite_file
from qgraph.formats.tflite_ops import ASSIGN, CONTROL_FLOW, CONVERSIONS, READ, VARIABLE, meaning_of
from qgraph.ir.elements import SMALL_CONSTANT, Op, Structure, Tensor
from qgraph.ir.order import topological
from qgraph.ir.slots import graph_constant, graph_input, graph_output, input_slot, output_slot
from qgraph.ir.validate import validate

OPSET = 23
"""Packs ask for an opset where old ONNX models lack something; this format lacks nothing of that kind."""

CUSTOM_DOMAIN = "tflite.custom"

INTEGERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **{f"int{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (4, 8, 16, 32, 64)},
        **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
    }
)
"""Types that can be quantized, each with its least and greatest integer."""


def read_tflite(path: Path) -> QuantizedModel:
    """Read a model; one that is not quantized at all has no quantizations.

    Raises:
        ModelError: the file is missing, damaged, not of this format, badly connected, or states a scale that is none.
    """
    content, raw = read_tflite_file(path)
    names = _tensor_names(content.subgraphs)
    constants = _Constants(content, str(path))
    parts = [_part(graph, names[index], constants) for index, graph in enumerate(content.subgraphs)]
    ops = _named([op for part in parts for op in part.ops])
    structure = Structure(
        name=content.subgraphs[0].name,
        fingerprint=hashlib.blake2b(raw, digest_size=32).hexdigest(),
        opset=OPSET,
        ops=tuple(ops),
        tensors=tuple(sorted((tensor for part in parts for tensor in part.tensors), key=lambda tensor: tensor.name)),
        inputs=tuple(name for part in parts for name in part.inputs),
        outputs=tuple(name for part in parts for name in part.outputs),
    )
    validate(structure, str(path))
    structure = _sorted(structure)
    quantizations = {name: entry for part in parts for name, entry in part.quantizations.items()}
    slots = {slot: (quantizations[tensor],) for slot, tensor in _slots(structure) if tensor in quantizations}
    return QuantizedModel(
        structure,
        MappingProxyType(dict(sorted(slots.items()))),
        unread=tuple(sorted(name for part in parts for name in part.unread)),
        is_stored=True,
    )


def _sorted(structure: Structure) -> Structure:
    ops, _ = topological(structure.ops)
    return Structure(
        structure.name,
        structure.fingerprint,
        structure.opset,
        tuple(ops),
        structure.tensors,
        structure.inputs,
        structure.outputs,
    )


def _slots(structure: Structure) -> Iterator[tuple[str, str]]:
    """Every slot with the tensor that flows through it."""
    for op in structure.ops:
        yield from ((input_slot(op.name, i), name) for i, name in enumerate(op.inputs) if name is not None)
        yield from ((output_slot(op.name, i), name) for i, name in enumerate(op.outputs) if name is not None)
    yield from ((graph_input(name), name) for name in structure.inputs)
    yield from ((graph_output(name), name) for name in structure.outputs)
    yield from ((graph_constant(tensor.name), tensor.name) for tensor in structure.tensors if tensor.constant)


def _tensor_names(subgraphs: Sequence[Subgraph]) -> list[list[str]]:
    """Unique names: the file's own; one that occurs twice gets the subgraph's name and then its index behind it."""
    counts = Counter(tensor.name for graph in subgraphs for tensor in graph.tensors)
    taken: set[str] = set()
    result = []
    for place, graph in enumerate(subgraphs):
        names = []
        for index, tensor in enumerate(graph.tensors):
            name = tensor.name
            if not name or (counts[name] > 1 and place):
                name = f"{name}@{graph.name or place}"
            if name in taken:
                name = f"{name}#{index}"
            while name in taken:
                name += "#"
            taken.add(name)
            names.append(name)
        result.append(names)
    return result


@dataclass(frozen=True, slots=True)
class _Part:
    """What one subgraph adds to the model. Its ops have no unique names yet."""

    ops: list[Op]
    tensors: list[Tensor]
    inputs: list[str]
    outputs: list[str]
    quantizations: Mapping[str, Quantization]
    unread: list[str]


def _part(graph: Subgraph, names: Sequence[str], constants: _Constants) -> _Part:
    made = {index for op in graph.ops for index in op.outputs if index >= 0}
    given = made | set(graph.inputs)
    used = given | {index for op in graph.ops for index in op.inputs if index >= 0} | set(graph.outputs)
    quantizations, tensors, unread = {}, [], []
    for index in sorted(used):
        stored, name, is_constant = graph.tensors[index], names[index], index not in given
        found = constants.quantization(stored, name, is_constant=is_constant)
        if found is not None:
            quantizations[name] = found
        elif stored.blockwise:
            unread.append(name)
        tensors.append(constants.tensor(stored, name, found, is_constant=is_constant))
    handles = {op.outputs[0]: op.variable for op in graph.ops if op.variable is not None and op.outputs}
    return _Part(
        [_op(op, names, handles) for op in graph.ops],
        tensors,
        [names[index] for index in dict.fromkeys(graph.inputs)],
        [names[index] for index in dict.fromkeys(graph.outputs)],
        quantizations,
        unread,
    )


def _op(stored: StoredOp, names: Sequence[str], handles: Mapping[int, str]) -> Op:
    inputs = [names[index] if index >= 0 else None for index in stored.inputs]
    outputs = tuple(names[index] if index >= 0 else None for index in stored.outputs)
    label = next(filter(None, (*outputs, *reversed(inputs))), "")
    if stored.is_custom:
        return Op(f"{stored.type}@{label}", stored.type, CUSTOM_DOMAIN, tuple(inputs), outputs)
    meaning = meaning_of(stored.type)
    attributes = dict(meaning.attributes)
    if stored.type in (READ, ASSIGN) and stored.inputs and stored.inputs[0] in handles:
        attributes[VARIABLE] = handles[stored.inputs[0]]
    return Op(
        name=f"{stored.type}@{label}",
        type=meaning.op_type,
        domain="",
        inputs=_ordered(inputs, meaning.inputs),
        outputs=outputs,
        attributes=MappingProxyType(attributes),
        excluded=_excluded(stored.type),
    )


def _ordered(inputs: Sequence[str | None], order: tuple[int | None, ...] | None) -> tuple[str | None, ...]:
    if order is None:
        return tuple(inputs)
    placed = [inputs[index] if index is not None and index < len(inputs) else None for index in order]
    return (*placed, *(name for index, name in enumerate(inputs) if index not in order))


def _excluded(builtin: str) -> str | None:
    if builtin in CONVERSIONS:
        return "it converts between parameters"
    return "control flow" if builtin in CONTROL_FLOW else None


def _named(ops: Sequence[Op]) -> list[Op]:
    """Ops have no names in this format: ``TYPE@first_output``, or the last input of one that makes nothing."""
    taken: set[str] = set()
    result = []
    for op in ops:
        name = f"_{op.name}" if op.name.startswith("graph:") else op.name
        while name in taken:
            name += "@"
        taken.add(name)
        result.append(Op(name, op.type, op.domain, op.inputs, op.outputs, op.attributes, op.excluded))
    return result


class _Constants:
    """The data behind tensors, looked at once per buffer."""

    def __init__(self, content: TfliteFile, which: str) -> None:
        self._buffers = content.buffers
        self._which = which
        self._ranges: dict[tuple[int, str], tuple[int, int]] = {}

    def quantization(self, stored: StoredTensor, name: str, *, is_constant: bool) -> Quantization | None:
        """How the file quantizes a tensor; None where it does not."""
        if not stored.scale or stored.dtype not in INTEGERS or stored.blockwise:
            return None
        self._check(stored, name)
        low, high = INTEGERS[stored.dtype]
        if is_constant and self._buffers[stored.buffer].size:
            low, high = self._range(stored)
        count = len(stored.scale)
        offset = stored.offset if len(stored.offset) == count else (stored.offset or (0,)) * count
        return Quantization(stored.dtype, stored.scale, offset, stored.axis if count > 1 else None, low, high)

    def _check(self, stored: StoredTensor, name: str) -> None:
        low, high = INTEGERS[stored.dtype]
        count, wrong = len(stored.scale), ""
        if any(not (math.isfinite(scale) and scale > 0) for scale in stored.scale):
            wrong = "a scale that is no positive number"
        elif len(stored.offset) not in (0, 1, count):
            wrong = f"{count} scales and {len(stored.offset)} zero points"
        elif any(not low <= offset <= high for offset in stored.offset):
            wrong = f"a zero point outside {stored.dtype}"
        elif count > 1 and not self._fits(stored):
            wrong = f"{count} scales along axis {stored.axis} of {_size(stored)}"
        if wrong:
            raise ModelError(f"a tensor with {wrong}", f"{self._which}: {name}", "convert the model again")

    def _fits(self, stored: StoredTensor) -> bool:
        """Whether there are as many scales as channels, as far as the shape is known."""
        if stored.shape is None:
            return True
        return 0 <= stored.axis < len(stored.shape) and stored.shape[stored.axis] in (None, len(stored.scale))

    def _range(self, stored: StoredTensor) -> tuple[int, int]:
        """The least and the greatest integer in a constant."""
        key = stored.buffer, stored.dtype
        if key not in self._ranges:
            values = self._elements(stored)
            self._ranges[key] = (int(values.min()), int(values.max())) if values.size else (0, 0)
        return self._ranges[key]

    def _elements(self, stored: StoredTensor) -> np.ndarray:
        data = self._buffers[stored.buffer]
        if stored.dtype == "int4":  # two in a byte, the low half first
            halves = np.stack([data << 4, data & 0xF0], axis=-1).reshape(-1).view(np.int8) >> 4
            elements = math.prod(size or 0 for size in stored.shape or ())
            return halves[:elements] if 0 < elements < halves.size else halves
        kind = np.dtype(stored.dtype).newbyteorder("<")
        return data[: data.size - data.size % kind.itemsize].view(kind)

    def tensor(self, stored: StoredTensor, name: str, found: Quantization | None, *, is_constant: bool) -> Tensor:
        """The tensor of the float model."""
        dtype = "float32" if found is not None else stored.dtype
        shape = stored.shape
        if shape is None and is_constant:
            shape = ()
        values = self._values(stored, found) if is_constant else None
        return Tensor(name, dtype, shape, is_constant, values)

    def _values(self, stored: StoredTensor, found: Quantization | None) -> tuple[float, ...] | tuple[int, ...] | None:
        """The elements of a small constant, in numbers."""
        size = self._buffers[stored.buffer].size
        if not size or size > SMALL_CONSTANT * 8:
            return None
        is_plain = stored.dtype in ("float32", "float64") or stored.dtype in INTEGERS
        if not is_plain or (found is not None and found.axis is not None):
            return None
        values = self._elements(stored)
        if values.size > SMALL_CONSTANT:
            return None
        if found is None:
            return tuple(values.tolist())
        return tuple(found.scale[0] * (int(value) - found.offset[0]) for value in values)


def _size(stored: StoredTensor) -> str:
    return "×".join("?" if size is None else str(size) for size in stored.shape or ())
