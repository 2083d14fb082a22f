"""The ops with weights in a model's proto: where their weight, bias and channels are, and how to change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qgraph.improve.pieces import reads
from qgraph.ir.onnx_tensors import read_array

Array = NDArray[np.float32]

TYPES = ("Conv", "ConvTranspose", "Gemm")
"""Ops that add a bias of one value per output channel; axis 1 of what they make is that of the channels."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """An op whose weight is a constant of the main graph, and its bias too if it has one.

    Attributes:
        op: its name.
        output: the tensor that it makes.
        channels: how many output channels it has.
        groups: independent parts of a convolution; 1 elsewhere.
    """

    op: str
    type: str
    data: str
    weight: str
    bias: str | None
    output: str
    channels: int
    groups: int
    transposed: bool

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel is made of one input channel, its own."""
        return self.type == "Conv" and self.groups == self.channels > 1

    def weight_shape(self, rank: int) -> tuple[int, ...]:
        """The shape by which a vector of one value per output channel is multiplied with a weight of that rank.

        Only for weights that have an axis of all output channels, see `output_axis`.
        """
        return tuple(-1 if axis == self.output_axis else 1 for axis in range(rank))

    @property
    def output_axis(self) -> int:
        """The weight's axis of output channels."""
        if self.type == "Gemm":
            return 0 if self.transposed else 1
        return 0 if self.type == "Conv" else 1

    @property
    def input_axis(self) -> int:
        """The weight's axis of input channels; of one group, where there are several."""
        return 1 - self.output_axis


def attribute(node: NodeProto, name: str, default: float) -> float:
    """An int or float attribute."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def weighted_ops(graph: GraphProto) -> list[Weighted]:
    """All ops with a float32 weight that can be changed without another op noticing, in the order of the graph.

    Left out are those that share weight or bias with another op, a Gemm whose factors are not 1, and a transposed
    convolution in groups, whose weight has no axis of all output channels.
    """
    constants = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in reads(node):
            uses[name] = uses.get(name, 0) + 1
    shown = {value.name for value in (*graph.output, *graph.input)}
    found = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in TYPES:
            continue
        own = [name for name in node.input[1:] if name]
        if any(name not in constants or uses[name] > 1 or name in shown for name in own):
            continue
        one = _weighted(node, constants)
        if one is not None:
            found.append(one)
    return found


def _weighted(node: NodeProto, constants: Mapping[str, TensorProto]) -> Weighted | None:
    groups, transposed = int(attribute(node, "group", 1)), bool(attribute(node, "transB", 0))
    if node.op_type == "Gemm" and any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    if node.op_type == "ConvTranspose" and groups != 1:
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    weight = constants[node.input[1]]
    one = Weighted(node.name, node.op_type, node.input[0], weight.name, bias, node.output[0], 0, groups, transposed)
    channels = weight.dims[one.output_axis]
    if bias is not None and list(constants[bias].dims) != [channels]:
        return None
    return Weighted(
        node.name, node.op_type, node.input[0], weight.name, bias, node.output[0], channels, groups, transposed
    )


def constants_of(model: ModelProto, names: set[str], folder: Path) -> dict[str, Array]:
    """The values of constants, external data included."""
    return {one.name: read_array(one, folder) for one in model.graph.initializer if one.name in names}


def with_constants(model: ModelProto, values: Mapping[str, NDArray[np.generic]]) -> ModelProto:
    """A copy of the model in which these constants have other values."""
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return result


def with_biases(model: ModelProto) -> ModelProto:
    """A copy in which every op of `weighted_ops` has a bias: one of zeros where it had none.

    The model computes what it did.
    """
    result = ModelProto()
    result.CopyFrom(model)
    missing = {one.op: one for one in weighted_ops(result.graph) if one.bias is None}
    taken = {name for node in result.graph.node for name in (*node.input, *node.output)}
    taken.update(one.name for one in result.graph.initializer)
    for node in result.graph.node:
        if node.name not in missing:
            continue
        name = f"{node.input[1]}_bias"
        while name in taken:
            name += "_"
        taken.add(name)
        zeros = np.zeros(missing[node.name].channels, np.float32)
        result.graph.initializer.append(numpy_helper.from_array(zeros, name))
        del node.input[2:]
        node.input.append(name)
    return result
