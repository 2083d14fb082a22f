"""onnx's shape inference on models as they come: with stale shapes, with contradictions, with sizes below zero.

At a Slice of a tensor of negative size onnx ends the whole process. Such sizes are inferred where the input of a
convolution or a pool is smaller than its window. So Slices behind those are shown to onnx in steps, each only after
what it reads is known to be sound::

    Conv ──▶ Slice ──▶ Pool ──▶ Slice        step 1 infers up to the first Slice, step 2 up to the second
    behind:    1                  2          windows, Slices in between counted once
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import helper

UNREGISTERED = "qgraph.unregistered"
"""A private domain: onnx leaves the ops in it alone."""

ONNX_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
    RuntimeError,
    ValueError,
)
"""What onnx's functions raise on a model that they cannot follow."""

WINDOWS = ("AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "Pad", "QLinearConv")
"""Ops whose output has a negative size where the input is too small for them."""

LONGEST_VECTOR = 1 << 20
"""Of longer vectors no elements are followed: inference keeps about 70 bytes for each element of a vector."""

GROWING = ("ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")
"""Ops whose output can be much larger than all of their inputs."""

STEPS = 4
"""Steps in which Slices are shown; the last one shows all that are left."""


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inferred shapes, or as it is: a model that onnx cannot follow is analysed without them.

    What the model says about its tensors lets inference go on behind ops that onnx does not know. It may also be
    stale, left by a tool that changed the graph; where onnx finds a contradiction, it only serves for the tensors of
    which inference knows nothing. The model may be changed.
    """
    _forget_negative_sizes(model.graph)
    for value in (*model.graph.input, *model.graph.value_info):
        if _is_long_vector(value):
            value.type.tensor_type.shape.dim[0].ClearField("dim_value")
    behind = _windows_before_slices(model.graph.node)
    for step in range(1, min(max(behind.values(), default=0), STEPS) + 1):
        partly = _infer_stated(_hiding(model, [index for index, windows in behind.items() if windows >= step]))
        if _forget_negative_sizes(partly.graph):
            for index in behind:
                partly.graph.node[index].domain = ""
            return partly
    return _infer_stated(model)


def _windows_before_slices(nodes: Sequence[onnx.NodeProto]) -> dict[int, int]:
    """By index of each Slice of data: how many windows lie before it, as drawn above."""
    if not any(node.op_type == "Slice" for node in nodes):
        return {}
    reached: dict[str, tuple[int, bool]] = {}  # by tensor: windows before it, and whether a Slice came after the last
    behind = {}
    for index, node in enumerate(nodes):
        windows, after_slice = max((reached[name] for name in node.input if name in reached), default=(0, True))
        if node.op_type in WINDOWS and after_slice:
            windows, after_slice = windows + 1, False
        if node.op_type == "Slice" and windows:
            behind[index] = windows
            after_slice = True
        if windows:
            reached.update((name, (windows, after_slice)) for name in node.output)
    return behind


def _hiding(model: onnx.ModelProto, hidden: Sequence[int]) -> onnx.ModelProto:
    """A copy in which onnx does not look at these nodes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for index in hidden:
        result.graph.node[index].domain = UNREGISTERED
    if all(entry.domain != UNREGISTERED for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(UNREGISTERED, 1))
    return result


def _forget_negative_sizes(graph: onnx.GraphProto) -> bool:
    """Make negative dimensions unknown; whether there were any."""
    found = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ()
        for dim in dims:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
                found = True
    return found


def _infer_stated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes inferred with the help of what the model states, as long as that is no contradiction."""
    try:
        return _infer(model, strict=bool(model.graph.value_info))
    except ONNX_ERRORS:
        stated = list(model.graph.value_info)
    try:
        model.graph.ClearField("value_info")
        result = _infer(model)
        inferred = {value.name for value in result.graph.value_info}
        result.graph.value_info.extend(value for value in stated if value.name not in inferred)
        return _infer(result)
    except ONNX_ERRORS:
        return model


def _infer(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """One pass of onnx's shape inference. Without `strict` it skips the ops where it meets a contradiction."""
    if _may_grow(model):
        bounded: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=strict)
        if any(_is_long_vector(value) for value in bounded.graph.value_info):
            return bounded
    result: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=strict)
    return result


def _may_grow(model: onnx.ModelProto) -> bool:
    """Whether some vector in the model may be long: its inputs are large, or there are ops that make much of little."""
    sizes = (
        math.prod(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.value_info)
    )
    return any(size > LONGEST_VECTOR for size in sizes) or any(node.op_type in GROWING for node in model.graph.node)


def _is_long_vector(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) == 1 and dims[0].dim_value > LONGEST_VECTOR
