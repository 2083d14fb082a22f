"""Real models with damaged structure: an answer for every target or one clear line, soon and in little memory."""

from __future__ import annotations

import resource
import time
from functools import cache
from pathlib import Path
from random import Random

import onnx
import pytest
from development_models import MODELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_mutations import MUTATIONS
from onnx import TensorProto, helper
from onnx_models import build, save_and_load, weight

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.pack import load_pack, pack_names
from qgraph.constraints.rules import constrain
from qgraph.errors import ModelError, QgraphError
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import load_model

NAMES = ("magika", "ppocr_cls_v2", "silero_op15")
"""Small ones: a transformed TensorFlow graph, a convolutional network, one with branches."""

SECONDS = 10
MEGABYTES = 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "weights.bin").write_bytes(bytes(1 << 16))
    for name in NAMES:
        MODELS[name].write(folder / name)
    return folder


@cache
def content(path: Path) -> bytes:
    return path.read_bytes()


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.no_cover
@given(
    name=st.sampled_from(NAMES),
    mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 32),
    noise=st.lists(st.integers(0, 1 << 32), max_size=3) | st.just([]),
)
@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_damaged_model_gets_an_answer_or_one_line(
    folder: Path, name: str, mutations: list[object], seed: int, noise: list[int]
) -> None:
    model, random = onnx.ModelProto.FromString(content(folder / name)), Random(seed)
    for mutate in mutations:
        assert callable(mutate)
        mutate(model, random)
    data = bytearray(model.SerializeToString())
    for number in noise:
        data[number % len(data)] = number % 256
    path = folder / "model.onnx"
    path.write_bytes(data)
    began, before, message = time.process_time(), peak_megabytes(), ""
    try:
        graph = Graph(load_model(path).structure)
        for target in pack_names():
            constraints = constrain(graph, load_pack(target))
            for force_overlap in (False, True):
                solve_groups(constraints, force_overlap=force_overlap)
    except QgraphError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 5000
    assert time.process_time() - began < SECONDS
    assert peak_megabytes() - before < MEGABYTES


node = helper.make_node


def sliced_behind_a_window(size: int) -> onnx.ModelProto:
    """A convolution whose window may be larger than its input, between two Slices."""
    nodes = [
        node("Slice", ["x", "from", "to"], ["s"]),
        node("Conv", ["s", "w"], ["c"]),
        node("Slice", ["c", "from", "to"], ["t"]),
        node("Relu", ["t"], ["y"]),
    ]
    bounds = {"from": [0, 0, 0, 0], "to": [1, 1, 9, 9]}
    return build(nodes, {"x": [1, 1, size, size]}, {"y": ["a", "b", "c", "d"]}, {"w": weight(1, 1, 5, 5), **bounds})


def test_a_window_larger_than_its_input_does_not_end_the_process(tmp_path: Path) -> None:
    shapes = {t.name: t.shape for t in save_and_load(tmp_path, sliced_behind_a_window(3)).structure.tensors}
    assert (shapes["s"], shapes["c"]) == ((1, 1, 3, 3), (1, 1, None, None))
    shapes = {t.name: t.shape for t in save_and_load(tmp_path, sliced_behind_a_window(8)).structure.tensors}
    assert (shapes["c"], shapes["t"]) == ((1, 1, 4, 4), (1, 1, 4, 4))


def test_a_declared_negative_size_is_unknown(tmp_path: Path) -> None:
    model = sliced_behind_a_window(8)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -4
    shapes = {t.name: t.shape for t in save_and_load(tmp_path, model).structure.tensors}
    assert shapes["x"] == (1, 1, None, 8)


@pytest.mark.parametrize("source", ["declared", "reshaped", "made"])
def test_a_vector_of_billions_of_elements_is_not_followed(tmp_path: Path, source: str) -> None:
    length = 3 << 30
    first = {
        "declared": (node("Relu", ["x"], ["v"]), [length]),
        "reshaped": (node("Reshape", ["x", "flat"], ["v"]), [3, 1 << 30]),
        "made": (node("Expand", ["x", "large"], ["v"]), [1]),
    }
    made, shape = first[source]
    nodes = [made, node("Add", ["v", "v"], ["w"]), node("Slice", ["w", "from", "to"], ["y"])]
    constants = {"flat": [-1], "large": [length], "from": [0], "to": [4]}
    before = peak_megabytes()
    imported = save_and_load(tmp_path, build(nodes, {"x": shape}, {"y": [4]}, constants))
    assert peak_megabytes() - before < MEGABYTES
    assert {t.name: t.shape for t in imported.structure.tensors}["y"] == (4,)


def refusal(model: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        save_and_load(folder, model)
    return str(caught.value)


def test_functions_that_call_each_other_are_refused(tmp_path: Path) -> None:
    model = build([node("F", ["x"], ["y"], domain="own")], {"x": [2]}, {"y": [2]}, domains=["own"])
    for name, called in (("F", "G"), ("G", "F")):
        nodes = [node(called, ["a"], ["b"], domain="own")]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], nodes, opsets))
    assert "Cycle detected" in refusal(model, tmp_path)


def test_an_attribute_given_twice_is_refused(tmp_path: Path) -> None:
    model = build([node("Softmax", ["x"], ["y"], axis=0)], {"x": [2]}, {"y": [2]})
    for value in (1.5, [1, 2]):
        model.graph.node[0].attribute.append(helper.make_attribute("axis", value))
    assert "not a valid ONNX model" in refusal(model, tmp_path)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000])
def test_external_data_with_an_impossible_name_is_refused(tmp_path: Path, location: str) -> None:
    model = build([node("Add", ["x", "w"], ["y"])], {"x": [2]}, {"y": [2]}, {"w": weight(2)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    assert "impossible name" in refusal(model, tmp_path)


def test_a_weight_of_absurd_dimensions_is_refused(tmp_path: Path) -> None:
    model = build([node("Add", ["x", "w"], ["y"])], {"x": [2]}, {"y": [2]}, {"w": weight(2)})
    model.graph.initializer[0].dims[:] = [(1 << 63) - 1] * 30
    message = refusal(model, tmp_path)
    assert "does not fill its shape" in message
    assert len(message) < 5000
