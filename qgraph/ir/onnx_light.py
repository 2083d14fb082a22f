"""A model without its weights, for those parts of onnx that need a whole model but not the numbers.

The checker, the version converter and shape inference take a serialized model: with weights that is slow,
and impossible above 2 GB. Here large weights stand as typed inputs instead, and ops that onnx does not
know lie in a private domain, where onnx leaves them alone.
"""

from __future__ import annotations

import onnx
from onnx import helper

from qgraph.errors import ModelError
from qgraph.ir.onnx_inference import LONGEST_VECTOR, ONNX_ERRORS, UNREGISTERED, inferred
from qgraph.ir.onnx_structure import is_unregistered
from qgraph.ir.onnx_tensors import elements, is_external
from qgraph.ir.onnx_walk import all_nodes

SMALL = 1024
"""Weights with at most this many elements stay: axes, shapes and clip bounds decide shapes."""

MINIMUM_IR_VERSION = 4
"""From this version of the file format on an initializer need not be an input too."""


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without large weights, without doc strings of the graph, and without ops unknown to onnx."""
    source = model.graph
    result = onnx.ModelProto(
        ir_version=max(model.ir_version, MINIMUM_IR_VERSION),
        opset_import=model.opset_import,
        functions=model.functions,
    )
    graph = result.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    inputs = {value.name for value in source.input}
    for tensor in source.initializer:
        if elements(tensor) <= SMALL and not is_external(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            dims = list(tensor.dims) if len(tensor.dims) > 1 or elements(tensor) <= LONGEST_VECTOR else [None]
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, dims))
    unknown = [node for node in all_nodes(result) if is_unregistered(node)]
    for node in unknown:
        node.domain = UNREGISTERED
    if unknown:
        result.opset_import.append(helper.make_opsetid(UNREGISTERED, 1))
    return result


def check(model: onnx.ModelProto, which: str) -> None:
    """Raise `ModelError` with the words of onnx's checker if the model is not valid ONNX.

    Some exporters leave the shape of an output out; that is no error where it can be inferred.
    """
    checked = light(model)
    if any(_lacks_shape(value) for value in checked.graph.output):
        checked = inferred(checked)
    shapeless = [value.name for value in (*checked.graph.input, *checked.graph.output) if _lacks_shape(value)]
    if shapeless:
        what = "the model does not say how many dimensions an input or output has"
        cure = "declare its shape in the model; the dimensions themselves may be left open"
        raise ModelError(what, f"{which}: {', '.join(shapeless)}", cure)
    try:
        onnx.checker.check_model(checked)
    except (onnx.checker.ValidationError, ValueError) as error:
        cure = "repair or export the model again"
        raise ModelError("not a valid ONNX model", f"{which}: {library_words(error)}", cure) from error


def library_words(error: BaseException) -> str:
    """What a library says, to stand in the middle of a line: without blank space at its ends and a full stop."""
    return str(error).strip().rstrip(".")


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def convert_opset(model: onnx.ModelProto, version: int, which: str) -> onnx.ModelProto:
    """The model at another opset, by onnx's converter; its weights are neither copied nor read.

    Raises:
        ModelError: the converter cannot.
    """
    try:
        # With ranks known the converter needs no detours: a Softmax over the last axis stays one op.
        converted = onnx.version_converter.convert_version(inferred(light(model)), version)
    except ONNX_ERRORS as error:
        raise ModelError(
            f"onnx cannot convert the model to opset {version}",
            f"{which}: {library_words(error)}",
            f"export the model with opset {version} or newer",
        ) from error
    for node in all_nodes(converted):
        if node.domain == UNREGISTERED:
            node.domain = ""
    kept = {value.name for value in model.graph.input}
    graph = converted.graph
    small = {tensor.name for tensor in graph.initializer}
    own = [value for value in graph.input if value.name in kept]
    graph.ClearField("input")
    graph.input.extend(own)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in small)
    opsets = [entry for entry in converted.opset_import if entry.domain != UNREGISTERED]
    converted.ClearField("opset_import")
    converted.opset_import.extend(opsets)
    converted.metadata_props.extend(model.metadata_props)
    converted.ir_version = max(model.ir_version, helper.find_min_ir_version_for(opsets, ignore_unknown=True))
    return converted


def infer_shapes(model: onnx.ModelProto) -> None:
    """Write what onnx's shape inference finds into the model's `value_info`, and into outputs without a shape.

    What the file says about its tensors gives way where inference contradicts it.
    """
    complete = inferred(light(model))
    graph = model.graph
    own = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    found = [value for value in complete.graph.value_info if value.name not in own]
    graph.ClearField("value_info")
    graph.value_info.extend(found)
    for value, known in zip(graph.output, complete.graph.output, strict=True):
        if _lacks_shape(value):
            value.type.CopyFrom(known.type)
