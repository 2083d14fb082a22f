"""Real models: few requantizes remain, and each group can be explained."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import load_model


def model(name: str) -> Graph:
    spec = find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Graph(load_model(Path(spec.origin).parent / "models" / name).structure)


@pytest.mark.parametrize(("name", "count"), [("ch_PP-OCRv4_det_infer.onnx", 0), ("ch_PP-OCRv4_rec_infer.onnx", 1)])
def test_joining_whole_families_leaves_few_requantizes(name: str, count: int) -> None:
    constraints = constrain(model(name), load_pack("tflite"))
    assert len(solve_groups(constraints, force_overlap=False).requantizes) == count
    assert solve_groups(constraints, force_overlap=True).requantizes == ()


@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "ppl_cuda"])
def test_every_float_tensor_of_a_real_model_is_accounted_for(target: str) -> None:
    graph = model("ch_PP-OCRv4_det_infer.onnx")
    constraints = constrain(graph, load_pack(target))
    assert all((plan.scheme is None) != (plan.reason is None) for plan in constraints.slots.values())
    planned = {plan.tensor for plan in constraints.slots.values()}
    assert {tensor.name for tensor in graph.tensors() if tensor.is_float} <= planned
