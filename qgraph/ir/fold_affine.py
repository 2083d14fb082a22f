"""Fold what scales and shifts the channels of a Conv, ConvTranspose or Gemm into its weight and bias.

That is a BatchNormalization, and, behind a convolution, the addition of a constant per channel, which is how some
exporters write the bias::

    Conv(x, w) -> Add(1×C×1×1) -> BatchNormalization -> y        Conv(x, w', b') -> y

For BatchNormalization matching and arithmetic are onnxscript's rules. Here are the conditions under which they
are exact and safe, and the names: the op keeps its name, its output takes that of what it swallowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir
from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from qgraph.ir.onnx_tensors import read_array

RULES: dict[str, RewriteRule] = {
    "Conv": fuse_batchnorm_into_conv_rule,
    "ConvTranspose": fuse_batchnorm_into_conv_transpose_rule,
    "Gemm": fuse_batchnorm_into_gemm_rule,
}

FLOATS = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE)
"""Half precision stays as it is: the folded weights would be rounded twice."""

EXTERNAL_BYTES = 1 << 28
"""Bytes of external weights that folding may bring into memory. The folded weights are stored in the model."""


@dataclass
class _Folding:
    """One sweep over a model: what it may still load, the names in use, and what was folded into which op."""

    model: onnx_ir.Model
    folder: Path
    budget: int = EXTERNAL_BYTES
    taken: set[str] = field(default_factory=set)
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def unused_name(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def fold_affine(model: onnx_ir.Model, folder: Path) -> dict[str, tuple[str, ...]]:
    """Fold every BatchNormalization and constant bias of the main graph that allows it, in place.

    Args:
        model: nodes in topological order; constants as initializers.
        folder: where external weights lie.

    Returns:
        For each op that swallowed others, their names in the order of the data.
    """
    folding = _Folding(model, folder)
    for graph in model.graphs():
        folding.taken.update(value.name or "" for value in (*graph.inputs, *graph.initializers.values()))
    folding.taken.update(value.name or "" for node in model.graph.all_nodes() for value in node.outputs)
    for node in list(model.graph):
        if node.domain == "" and node.op_type == "BatchNormalization":
            folded = _fold_batchnorm(folding, node)
        elif node.domain == "" and node.op_type == "Add":
            folded = _fold_bias(folding, node)
        else:
            continue
        if folded is not None:
            folding.origins[folded] = (*folding.origins.get(folded, ()), node.name or "")
    return folding.origins


def _producer(folding: _Folding, value: onnx_ir.Value | None, types: Sequence[str]) -> onnx_ir.Node | None:
    """The op of one of the types that makes a value which nothing else reads; its omitted inputs are dropped."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.graph is not folding.model.graph or node.domain != "":
        return None
    if node.op_type not in types or len(value.uses()) != 1 or value.is_graph_output():
        return None
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)
    return node


def _constants(folding: _Folding, values: Sequence[onnx_ir.Value | None]) -> bool:
    """Whether all are constants of one float type that may be changed; brings external ones into memory."""
    types, external = set(), []
    for value in values:
        if value is None or not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
            return False
        if value.const_value is None or value.graph is not folding.model.graph:
            return False
        types.add(value.const_value.dtype)
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            external.append((value, value.const_value))
    cost = sum(tensor.nbytes for _, tensor in external)
    if len(types) != 1 or not types <= set(FLOATS) or cost > folding.budget:
        return False
    folding.budget -= cost
    for value, tensor in external:
        array = read_array(onnx_ir.serde.serialize_tensor(tensor), folding.folder)
        value.const_value = onnx_ir.tensor(array, name=value.name)
    return True


def _fold_batchnorm(folding: _Folding, node: onnx_ir.Node) -> str | None:
    """The name of the op that swallowed the BatchNormalization, or None if it has to stay."""
    training = node.attributes.get("training_mode")
    # Before opset 14 more than one output meant training.
    if len(node.outputs) != 1 or len(node.inputs) != 5 or (training is not None and training.as_int() != 0):
        return None
    before = _producer(folding, node.inputs[0], tuple(RULES))
    if before is None or not _constants(folding, [*before.inputs[1:], *node.inputs[1:]]):
        return None
    graph = folding.model.graph
    # A negative variance or an overflow: such a model is left as it is.
    with np.errstate(all="ignore"):
        replacement = RULES[before.op_type].try_rewrite(folding.model, graph, node)
    if replacement is None or not all(
        value.const_value is not None and np.isfinite(value.const_value.numpy()).all()
        for value in replacement.new_initializers
    ):
        return None
    own = {value.name for value in before.inputs if value is not None}
    for value in replacement.new_initializers:
        if value.name not in own:
            value.name = folding.unused_name(value.name or "bias")
        graph.initializers[value.name or ""] = value
    (fused,) = replacement.new_nodes
    fused.name = before.name
    onnx_ir.convenience.replace_nodes_and_values(
        graph, node, replacement.match.nodes, [fused], replacement.match.outputs, replacement.new_outputs
    )
    return fused.name


def _fold_bias(folding: _Folding, node: onnx_ir.Node) -> str | None:
    """The name of the convolution that took the added constant as its bias, or None if the Add has to stay."""
    for data, added in (node.inputs, tuple(reversed(node.inputs))):
        before = _producer(folding, data, ("Conv", "ConvTranspose"))
        if before is None or added is None or not _constants(folding, [*before.inputs[1:], added]):
            continue
        bias = _bias(before, added)
        if bias is None:
            continue
        _set_bias(folding, before, added, bias)
        output, result = before.outputs[0], node.outputs[0]
        output.name, output.type, output.shape = result.name, result.type, result.shape
        onnx_ir.convenience.replace_all_uses_with(result, output, replace_graph_outputs=True)
        folding.model.graph.remove(node, safe=True)
        return before.name
    return None


def _bias(before: onnx_ir.Node, added: onnx_ir.Value) -> np.ndarray | None:
    """The sum of the op's bias and the added constant as one value per channel; None if it varies otherwise."""
    weight = before.inputs[1]
    if weight is None or weight.const_value is None or added.const_value is None:
        return None
    shape = weight.const_value.shape.numpy()
    group = before.attributes.get("group")
    groups = group.as_int() if group is not None else 1
    channels = shape[0] if before.op_type == "Conv" else shape[1] * groups
    constant = added.const_value.numpy()
    if constant.ndim > len(shape):
        return None
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if aligned.size != aligned.shape[1] or aligned.size not in (1, channels):
        return None
    old = before.inputs[2] if len(before.inputs) > 2 else None
    start = old.const_value.numpy() if old is not None and old.const_value is not None else 0
    total = np.broadcast_to(aligned.reshape(-1) + start, (channels,))
    return np.ascontiguousarray(total, dtype=constant.dtype)


def _set_bias(folding: _Folding, before: onnx_ir.Node, added: onnx_ir.Value, bias: np.ndarray) -> None:
    """Make `bias` the op's third input, under the name of the constant that it replaces if nothing else reads it."""
    graph = folding.model.graph
    old = before.inputs[2] if len(before.inputs) > 2 else None
    replaced = next((value for value in (old, added) if value is not None and len(value.uses()) == 1), None)
    if replaced is not None and replaced.name is not None:
        name = replaced.name
        del graph.initializers[name]
    else:
        name = folding.unused_name(f"{before.inputs[1].name if before.inputs[1] else before.name}_bias")
    value = onnx_ir.Value(
        name=name,
        type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(bias.dtype)),
        shape=onnx_ir.Shape(bias.shape),
        const_value=onnx_ir.tensor(bias, name=name),
    )
    graph.register_initializer(value)
    before.resize_inputs(3)
    before.replace_input_with(2, value)
