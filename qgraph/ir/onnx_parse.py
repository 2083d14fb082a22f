"""From a file to a model proto that is known to be complete, readable and soundly connected.

Large external data is checked to be there, but not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from qgraph.errors import ModelError
from qgraph.ir.elements import Structure, Tensor
from qgraph.ir.onnx_structure import STANDARD_DOMAINS, data_inputs, read_ops, standard_opset
from qgraph.ir.onnx_tensors import check_data
from qgraph.ir.onnx_walk import all_attributes, all_nodes, has_sparse, tensors_within, texts
from qgraph.ir.validate import validate

OLDEST_OPSET = 10
"""Older models are refused: onnx's converter is not reliable below it."""

TORCH_SUFFIXES = (".pt", ".pt2", ".pth")
"""Archives of torch, which unpickles part of them."""

EXPORT_AGAIN = "export the model again"


def parse(path: Path) -> tuple[onnx.ModelProto, Structure]:
    """Read an ONNX file and check everything about it that needs no library's opinion.

    Returns:
        The model, its standard domain written as ``""``, and its connections: ops in the order of the file, constants
        without types.

    Raises:
        ModelError: the file is missing, broken, not ONNX, of an opset that is not supported, badly connected, or
            names external data that is missing or outside its folder.
    """
    model = _read(path)
    which = str(path)
    nodes = list(all_nodes(model))  # walked once: on large models a walk takes as long as reading the file
    attributes = all_attributes(nodes)
    _check_support(model, nodes, attributes, which)
    _unify_domains(model, nodes)
    for tensor in tensors_within(model, attributes):
        check_data(tensor, path.parent)
    connections = _connections(model)
    validate(connections, which)
    return model, connections


def _read(path: Path) -> onnx.ModelProto:
    """Parse the file; external data is not touched."""
    which = str(path)
    if path.is_dir():
        raise ModelError("the model is a folder", which, "name the .onnx file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("no such model file", which, "check the path") from error
    except OSError as error:
        raise ModelError("the model file cannot be read", f"{which} ({error.strerror})", "check the file") from error
    if not data:
        raise ModelError("the model file is empty", which, "copy or export it again")
    if data[4:8] == b"TFL3":
        cure = "give the float .onnx; qgraph check and qgraph analyze read .tflite files, by that suffix"
        raise ModelError("a TensorFlow Lite model, which qgraph does not run", which, cure)
    if path.suffix.lower() in TORCH_SUFFIXES:
        what = "a torch file, and loading one may run code that is hidden in it"
        raise ModelError(what, which, "load it in Python if you trust it, and pass it to qgraph's Database.calibrate")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:
        # protobuf's own error type, from a package that is not a dependency of ours.
        raise ModelError("not an ONNX model, or cut off", which, "copy or export it again") from error
    if not model.HasField("graph"):
        raise ModelError("the file has no ONNX graph", which, "give an .onnx model; copy or export it again")
    return model


def _check_support(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], attributes: Sequence[onnx.AttributeProto], which: str
) -> None:
    opset, newest = standard_opset(model), onnx.defs.onnx_opset_version()
    if not opset:
        raise ModelError("the model names no operator set, or is cut off", which, EXPORT_AGAIN)
    if opset < OLDEST_OPSET:
        cure = f"export the model with opset {OLDEST_OPSET} to {newest}"
        raise ModelError(f"opset {opset} is too old", which, cure)
    if opset > newest:
        cure = f"update onnx (the installed one knows opset {newest}), or export an older opset"
        raise ModelError(f"opset {opset} is too new", which, cure)
    if not model.graph.node:
        raise ModelError("the model's graph has no ops", which, EXPORT_AGAIN)
    if set(map(type, texts(model, nodes, attributes))) != {str}:
        raise ModelError("a name that is not UTF-8", which, EXPORT_AGAIN)
    if has_sparse(model, attributes):
        raise ModelError("sparse weights are not supported", which, "store the weights as dense tensors")


def _unify_domains(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Write the standard domain as ``""`` everywhere; it may also be called ``ai.onnx``."""
    version = standard_opset(model)
    others = [entry for entry in model.opset_import if entry.domain not in STANDARD_DOMAINS]
    model.ClearField("opset_import")
    model.opset_import.extend([helper.make_opsetid("", version), *others])
    for node in nodes:
        if node.domain == "ai.onnx":
            node.domain = ""


def _connections(model: onnx.ModelProto) -> Structure:
    """Names and connections of the file as it is, so that all breaches are told before any library stops at one."""
    graph = model.graph
    constants = tuple(Tensor(tensor.name, "", None, constant=True) for tensor in graph.initializer)
    outputs = tuple(value.name for value in graph.output)
    return Structure(
        graph.name, "", standard_opset(model), tuple(read_ops(graph)), constants, data_inputs(graph), outputs
    )
