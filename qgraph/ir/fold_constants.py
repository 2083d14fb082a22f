"""Fold what only depends on constants, so that weights behind Cast, Transpose or Identity are constants.

The evaluation is onnx's reference implementation, the shapes are bounded beforehand by its shape inference.
The optimizers of the ONNX libraries are not used for this: they also remove and rename tensors
that carry data, and users must find the names of their own model.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qgraph.ir.onnx_tensors import elements, read_array

NOT_FOLDED = (
    "Bernoulli",
    "ConstantOfShape",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Multinomial",
    "QuantizeLinear",
    "RandomNormalLike",
    "RandomUniformLike",
)
"""Random ops, ops that say how a model is quantized already, and zeros that are best left unwritten."""

MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Ops whose result has as many elements as their input: folded whatever the size, if the data is inline."""

ELEMENTS = 1 << 20
"""Largest input and output, in elements, of any other op that is folded."""


def fold_constants(model: onnx_ir.Model, folder: Path) -> dict[str, tuple[str, ...]]:
    """Replace ops of the main graph whose inputs are all constants by their results, in place.

    Args:
        model: nodes in topological order; constants as initializers.
        folder: where external data lies; only that of small constants is read.

    Returns:
        For each new constant the names of the ops that it came from, sorted.
    """
    graph = model.graph
    origins: dict[str, tuple[str, ...]] = {}
    for node in list(graph):
        if not _candidate(node):
            continue
        sources = [value for value in node.inputs if value is not None]
        output = node.outputs[0]
        traced = {name for value in sources for name in origins.get(value.name or "", ())}
        names = tuple(sorted(traced | {node.name or ""}))
        if node.op_type == "Identity":
            # A second name for one constant: readers are sent to the first, so that the weight stays one.
            origins[sources[0].name or ""] = names
            output.replace_all_uses_with(sources[0])
            graph.remove(node, safe=True)
            continue
        array = _evaluate(node, model.opset_imports, folder)
        if array is None or output.name is None:
            continue
        constant = onnx_ir.Value(
            name=output.name,
            type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype)),
            shape=onnx_ir.Shape(array.shape),
            const_value=onnx_ir.tensor(array, name=output.name),
        )
        origins[output.name] = names
        output.replace_all_uses_with(constant)
        graph.remove(node, safe=True)
        graph.register_initializer(constant)
    return origins


def _candidate(node: onnx_ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type not in NOT_FOLDED
        and len(node.inputs) > 0
        and len(node.outputs) == 1
        and not node.outputs[0].is_graph_output()
        and all(value is None or _is_constant(value) for value in node.inputs)
        and not any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values())
    )


def _is_constant(value: onnx_ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and not value.is_graph_input()


def _evaluate(node: onnx_ir.Node, opsets: dict[str, int], folder: Path) -> np.ndarray | None:
    """The node's only output; None where it is too large or the reference implementation cannot."""
    tensors = {}
    for value in node.inputs:
        if value is None or value.name is None or value.const_value is None:
            continue
        is_external = isinstance(value.const_value, onnx_ir.ExternalTensor)
        limit = math.inf if node.op_type in MOVES and not is_external else ELEMENTS
        if value.const_value.size > limit or value.const_value.dtype == onnx_ir.DataType.STRING:
            return None
        tensors[value.name] = onnx_ir.serde.serialize_tensor(value.const_value)
        tensors[value.name].name = value.name
    proto = onnx_ir.serde.serialize_node(node)
    if node.op_type not in MOVES and not _is_bounded(proto, tensors, opsets):
        return None
    graph = helper.make_graph([proto], "constants", [], [onnx.ValueInfoProto(name=proto.output[0])])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets[""])])
    try:
        with np.errstate(all="ignore"):
            feeds = {name: read_array(tensor, folder) for name, tensor in tensors.items()}
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # noqa: BLE001 - the reference implementation has no error type of its own; the op just stays
        return None
    return result if isinstance(result, np.ndarray) and result.dtype.kind in "fiubV" else None


def _is_bounded(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], opsets: dict[str, int]) -> bool:
    """Whether shape inference can tell the output's size before evaluating, and it is small enough."""
    types = {name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for name, t in tensors.items()}
    data = {name: tensor for name, tensor in tensors.items() if elements(tensor) <= 1024}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
        output = onnx.shape_inference.infer_node_outputs(schema, node, types, data)[str(node.output[0])]
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError, KeyError):
        return False
    kind = output.tensor_type
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return False
    return bool(math.prod(dim.dim_value for dim in kind.shape.dim) <= ELEMENTS)
