"""From an ONNX file to a `Structure`, and back to the weights and the runnable model when they are needed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from qgraph.errors import ModelError, NotFoundError
from qgraph.ir.elements import Structure, Tensor
from qgraph.ir.fingerprint import fingerprint
from qgraph.ir.normalise import normalise, sort_nodes
from qgraph.ir.onnx_light import check
from qgraph.ir.onnx_structure import STANDARD_DOMAINS, data_inputs, read_ops, read_structure, standard_opset
from qgraph.ir.onnx_tensors import check_data, read_array
from qgraph.ir.onnx_walk import all_nodes, all_tensors, has_sparse, texts
from qgraph.ir.validate import validate

OLDEST_OPSET = 10
"""Older models are refused: onnx's converter is not reliable below it."""

EXPORT_AGAIN = "export the model again"


@dataclass(frozen=True)
class ImportedModel:
    """A model as it is analysed, calibrated and exported.

    Attributes:
        structure: everything but the weights.
        proto: the normalised model; its op and tensor names are those of the structure. Large external
            weights are still external: ask `constant` for them. Not to be changed.
        path: the user's file.
    """

    structure: Structure
    proto: onnx.ModelProto
    path: Path

    @property
    def folder(self) -> Path:
        """Where external data lies."""
        return self.path.parent

    @cached_property
    def _weights(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def constant(self, name: str) -> np.ndarray:
        """Read one constant of the normalised model, external data included.

        Raises:
            NotFoundError: no constant has that name.
            ModelError: its external data cannot be read.
        """
        if name not in self._weights:
            raise NotFoundError.among("constant", name, self._weights, "check the name in the model")
        return read_array(self._weights[name], self.folder)

    def serialized(self) -> bytes:
        """The normalised model as bytes, external weights left out.

        onnxruntime runs it from these bytes, also with more than 2 GB of external weights, if it is told
        their folder: ``options.add_session_config_entry(*model.external_folder_entry)``.
        """
        return bytes(self.proto.SerializeToString())

    @property
    def external_folder_entry(self) -> tuple[str, str]:
        """Key and value of the session setting by which onnxruntime finds the external weights."""
        return "session.model_external_initializers_file_folder_path", str(self.folder.resolve())


def load_model(path: Path) -> ImportedModel:
    """Read, check, fingerprint and normalise an ONNX model. No large weight is read unless it must be folded.

    Raises:
        ModelError: the file is missing, broken, not ONNX, not valid, of an opset that is not supported, or
            names external data that is missing or outside its folder.
    """
    with _without_collection():
        return _load(path)


def _load(path: Path) -> ImportedModel:
    model = _read(path)
    which = str(path)
    _check_support(model, which)
    _unify_domains(model)
    for tensor in all_tensors(model):
        check_data(tensor, path.parent)
    connections = _connections(model)
    validate(connections, which)
    sort_nodes(model, connections.ops)
    check(model, which)
    digest = fingerprint(model, path.parent)
    proto, origins = normalise(model, path.parent, which)
    structure = read_structure(proto, digest, path.parent, origins)
    validate(structure, which)
    return ImportedModel(structure, proto, path)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the cyclic garbage collector: on 100,000 ops its walks over live objects take a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:
        # protobuf's own error type, from a package that is not a dependency of ours.
        raise ModelError("not an ONNX model, or cut off", which, "copy or export it again") from error
    if not model.HasField("graph"):
        raise ModelError("the file has no ONNX graph", which, "give an .onnx model; copy or export it again")
    return model


def _check_support(model: onnx.ModelProto, which: str) -> None:
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
    if not all(isinstance(text, str) for text in texts(model)):
        raise ModelError("a name that is not UTF-8", which, EXPORT_AGAIN)
    if has_sparse(model):
        raise ModelError("sparse weights are not supported", which, "store the weights as dense tensors")


def _unify_domains(model: onnx.ModelProto) -> None:
    """Write the standard domain as ``""`` everywhere; it may also be called ``ai.onnx``."""
    version = standard_opset(model)
    others = [entry for entry in model.opset_import if entry.domain not in STANDARD_DOMAINS]
    model.ClearField("opset_import")
    model.opset_import.extend([helper.make_opsetid("", version), *others])
    for node in all_nodes(model):
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
