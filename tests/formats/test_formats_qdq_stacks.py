"""A product with a stack of constant matrices is exported so that onnxruntime runs it, for every target that has it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qgraph


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "qnn", "tensorrt", "xnnpack"])
@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 3, 4, 5)])
def test_a_stack_of_matrices_is_exported_and_near(tmp_path: Path, target: str, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=shape).astype(np.float32), "stack")
    read = (*shape[:-2], 6, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "stack"], ["y"], name="multiply")],
        "stacks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, read)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*shape[:-2], 6, 5))],
        [weight],
    )
    model = tmp_path / "stacks.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    samples = [{"x": random.normal(size=read).astype(np.float32)} for _ in range(4)]
    with qgraph.open(tmp_path / "qgraph.db") as db:
        run = db.calibrate(model, samples).solve(target=target, observer="minmax")
        run.export(tmp_path / "stacks.int8.onnx")
        assert run.verify(samples).outputs["y"].snr_db > 30
