"""From an ONNX file to a `Structure`, and back to the weights and the runnable model when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from qgraph.errors import NotFoundError
from qgraph.ir.elements import Structure
from qgraph.ir.fingerprint import fingerprint
from qgraph.ir.normalise import normalise, sort_nodes
from qgraph.ir.onnx_light import check
from qgraph.ir.onnx_parse import parse
from qgraph.ir.onnx_structure import read_structure
from qgraph.ir.onnx_tensors import external_folder_entry, read_array
from qgraph.ir.validate import validate
from qgraph.objects import many_objects


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

    @cached_property
    def external_files(self) -> tuple[Path, ...]:
        """The files beside the model that hold its external weights, sorted."""
        locations = {
            entry.value
            for tensor in self.proto.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        return tuple(self.folder / location for location in sorted(locations))

    @property
    def external_folder_entry(self) -> tuple[str, str]:
        """Key and value of the session setting by which onnxruntime finds the external weights."""
        return external_folder_entry(self.folder)


@many_objects()
def load_model(path: Path) -> ImportedModel:
    """Read, check, fingerprint and normalise an ONNX model. No large weight is read unless it must be folded.

    Raises:
        ModelError: the file is missing, broken, not ONNX, not valid, of an opset that is not supported, or
            names external data that is missing or outside its folder.
    """
    model, connections = parse(path)
    which = str(path)
    ops = sort_nodes(model, connections.ops)
    check(model, which)
    digest = fingerprint(model, path.parent)
    proto, origins = normalise(model, path.parent, which)
    # On a large model that is normal already, to read the ops again takes a tenth of the import.
    structure = read_structure(proto, digest, path.parent, origins, ops if proto is model else None)
    validate(structure, which)
    return ImportedModel(structure, proto, path)
