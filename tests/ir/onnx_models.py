"""Small float32 ONNX models made in a line, imported through a file, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from qgraph.ir.onnx_import import ImportedModel, load_model

Load = Callable[[onnx.ModelProto], ImportedModel]
Shapes = Mapping[str, Sequence[int | str]]

_RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    """Normally distributed float32 numbers."""
    return _RNG.standard_normal(shape).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    weights: Mapping[str, Any] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model with float32 inputs and outputs of the given shapes."""
    graph = helper.make_graph(
        nodes,
        "tested",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def save_and_load(folder: Path, model: onnx.ModelProto) -> ImportedModel:
    """Import a model through a file in `folder`."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return load_model(path)


def run(model: onnx.ModelProto | ImportedModel, **feeds: np.ndarray) -> list[np.ndarray]:
    """The outputs by onnxruntime, without its own optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if isinstance(model, ImportedModel):
        options.add_session_config_entry(*model.external_folder_entry)
        data = model.serialized()
    else:
        data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]
