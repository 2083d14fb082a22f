"""Fold constant factors and addends behind weighted ops into their weights and biases.

Some exporters write a scale and a shift behind a convolution, with one value for all channels or one for each. As ops
of their own they are quantized twice more than needed::

    Conv(x, w, b) ─▶ Mul(k) ─▶ Add(t) ─▶ y        Conv(x, w·k, b·k + t) ─▶ y

The op keeps its name, its output takes that of the last op that it swallowed, so y is found under the name that it had.

A fully connected layer that is written as a MatMul and an Add becomes a Gemm, which adds its bias in 32 bits::

    MatMul(x, w) ─▶ Add(t) ─▶ y                   Gemm(x, w, t) ─▶ y
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from qgraph.improve.pieces import reads
from qgraph.improve.weighted import Weighted, constants_of, weighted_ops, with_biases, with_constants

Wide = NDArray[np.float64]

FOLDABLE = ("Mul", "Div", "Add", "Sub")


@dataclass
class _Parts:
    """Weight and bias of one op while factors are folded into them, in float64, and what it swallowed."""

    op: Weighted
    weight: Wide
    bias: Wide
    output: str
    swallowed: list[NodeProto]


def fold_factors(model: ModelProto, folder: Path) -> tuple[ModelProto, Mapping[str, tuple[str, ...]]]:
    """Fold what only scales and shifts the channels of Conv, ConvTranspose and Gemm.

    Args:
        model: normalised, nodes in topological order; not changed.
        folder: where external data lies.

    Returns:
        A model that computes the same but for rounding, and the names of the ops that each op swallowed.
    """
    model = with_biases(_with_gemms(model))
    ops = weighted_ops(model.graph)
    values = constants_of(model, {name for op in ops for name in (op.weight, op.bias) if name}, folder)
    small = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT}
    uses = Counter(name for node in model.graph.node for name in reads(node))
    uses.update(value.name for value in model.graph.output)
    makers: dict[str, _Parts] = {}
    for op in ops:
        if op.bias is not None:
            wide = (values[op.weight].astype(np.float64), values[op.bias].astype(np.float64))
            makers[op.output] = _Parts(op, *wide, op.output, [])
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in FOLDABLE:
            continue
        parts = next((makers[name] for name in node.input if name in makers), None)
        if parts is None or uses[parts.output] != 1:
            continue
        other = node.input[1] if node.input[0] == parts.output else node.input[0]
        is_right = node.input[0] == parts.output
        if other not in small or not (is_right or node.op_type in ("Mul", "Add")):
            continue
        constant = _per_channel(constants_of(model, {other}, folder)[other], parts.op, values[parts.op.weight].ndim)
        if constant is None or not _apply(parts, node.op_type, constant):
            continue
        parts.swallowed.append(node)
        makers[node.output[0]] = makers.pop(parts.output)
        parts.output = node.output[0]
    return _rewritten(model, [parts for parts in makers.values() if parts.swallowed])


def _with_gemms(model: ModelProto) -> ModelProto:
    """A copy in which a MatMul of a matrix and a constant one is a Gemm, where only an Add of a vector reads it."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    constants = {one.name: tuple(one.dims) for one in graph.initializer if one.data_type == TensorProto.FLOAT}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads(node):
            readers.setdefault(name, []).append(node)
    shown = {value.name for value in graph.output}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type != "MatMul":
            continue
        after = readers.get(node.output[0], [])
        is_alone = len(after) == 1 and after[0].op_type == "Add" and node.output[0] not in shown
        weight = constants.get(node.input[1], ())
        # A weight that others read stays as it is, and so would the Add; a longer bias widens the output.
        matrices = ranks.get(node.input[0]) == 2 and len(weight) == 2 and len(readers[node.input[1]]) == 1
        if is_alone and matrices and any(constants.get(name) in ((1,), weight[1:]) for name in after[0].input):
            node.op_type = "Gemm"
    return result


def _per_channel(constant: NDArray[np.float32], op: Weighted, rank: int) -> Wide | None:
    """A constant operand as one value per output channel; None if it varies otherwise or would broadcast the output."""
    if constant.ndim > rank:
        return None
    aligned = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if aligned.size != aligned.shape[1] or aligned.size not in (1, op.channels):
        return None
    return np.broadcast_to(aligned.reshape(-1).astype(np.float64), (op.channels,))


def _apply(parts: _Parts, kind: str, constant: Wide) -> bool:
    """Fold one operand; False, with nothing changed, where the result would not be finite in float32."""
    shape = parts.op.weight_shape(parts.weight.ndim)
    weight, bias = parts.weight, parts.bias
    if kind in ("Mul", "Div"):
        with np.errstate(divide="ignore"):
            factor = constant if kind == "Mul" else 1 / constant
        weight, bias = weight * factor.reshape(shape), bias * factor
    else:
        bias = bias + (constant if kind == "Add" else -constant)
    largest = np.finfo(np.float32).max
    if not all(np.isfinite(array).all() and np.abs(array).max(initial=0) <= largest for array in (weight, bias)):
        return False
    parts.weight, parts.bias = weight, bias
    return True


def _rewritten(model: ModelProto, folded: list[_Parts]) -> tuple[ModelProto, Mapping[str, tuple[str, ...]]]:
    """The model without the ops that were swallowed and the constants that only they read."""
    changed = {parts.op.weight: parts.weight.astype(np.float32) for parts in folded}
    changed |= {parts.op.bias or "": parts.bias.astype(np.float32) for parts in folded}
    result = with_constants(model, changed)
    outputs = {parts.op.op: parts.output for parts in folded}
    gone = {node.output[0] for parts in folded for node in parts.swallowed}
    gone_tensors = {parts.op.output for parts in folded} | (gone - set(outputs.values()))
    nodes = [node for node in result.graph.node if node.output[0] not in gone]
    for node in nodes:
        if node.name in outputs:
            node.output[0] = outputs[node.name]
    read = {name for node in nodes for name in reads(node)} | {value.name for value in result.graph.output}
    kept = [one for one in result.graph.initializer if one.name in read]
    known = [one for one in result.graph.value_info if one.name not in gone_tensors]
    copy = ModelProto()
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(kept)
    copy.graph.value_info.extend(known)
    for field in ("node", "initializer", "value_info"):
        result.graph.ClearField(field)
    result.graph.MergeFrom(copy.graph)
    return result, {parts.op.op: tuple(node.name for node in parts.swallowed) for parts in folded}
