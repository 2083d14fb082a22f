"""One network at every opset: imported, calibrated, solved, exported, run; the same groups for every target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

import qgraph
from qgraph.constraints.pack import pack_names
from qgraph.ir.onnx_import import load_model
from qgraph.jobs.question import Question, pose

OPSETS = range(10, 24)


class Network:
    """Nodes and weights of one network, each op in the form that an opset has for it."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.random = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, name: str, value: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.normal(0, 0.3, shape).astype(np.float32))

    def add(self, op_type: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: object) -> None:
        outputs = [output] if isinstance(output, str) else output
        name = f"op_{outputs[0]}"
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name, **attributes))  # type: ignore[arg-type]

    def by_attribute(
        self,
        until: int,
        op_type: str,
        source: str,
        output: str | Sequence[str],
        **values: NDArray[np.generic] | np.generic,
    ) -> None:
        """An op whose parameters were attributes up to an opset, and are inputs since."""
        if self.opset <= until:
            self.add(op_type, [source], output, **{name: value.tolist() for name, value in values.items()})
        else:
            names = [self.constant(f"{output}_{name}", value) for name, value in values.items()]
            self.add(op_type, [source, *names], output)


def resize(network: Network, source: str, output: str) -> None:
    scales = network.constant("scales", np.array([1, 1, 2, 2], np.float32))
    if network.opset == 10:
        network.add("Resize", [source, scales], output, mode="nearest")
        return
    roi = network.constant("roi", np.zeros(0, np.float32)) if network.opset < 13 else ""
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    network.add("Resize", [source, roi, scales], output, mode="nearest", **how)


def build(opset: int) -> onnx.ModelProto:
    """The network at an opset."""
    n = Network(opset)
    n.add("Conv", ["x", n.weight("w1", 4, 3, 3, 3)], "conv1", pads=[1, 1, 1, 1])
    statistics = [n.constant(k, np.linspace(0.5, 1.5, 4).astype(np.float32)) for k in ("gamma", "beta", "mean", "var")]
    n.add("BatchNormalization", ["conv1", *statistics], "normal")
    n.by_attribute(10, "Clip", "normal", "relu6", min=np.float32(0), max=np.float32(6))
    n.add("Conv", ["relu6", n.weight("w2", 4, 4, 1, 1), n.weight("b2", 4)], "conv2")
    n.add("Add", ["relu6", "conv2"], "sum")
    n.add("MaxPool", ["sum"], "max", kernel_shape=[2, 2], strides=[2, 2])
    n.add("AveragePool", ["max"], "average", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
    resize(n, "average", "larger")
    n.add("Concat", ["larger", "sum"], "joined", axis=1)
    if opset < 11:
        n.add("Pad", ["joined"], "padded", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0)
    else:
        n.by_attribute(10, "Pad", "joined", "padded", pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    starts, ends, axes = (n.constant(k, np.array(v)) for k, v in (("from", [1, 1]), ("to", [9, 9]), ("axes", [2, 3])))
    n.add("Slice", ["padded", starts, ends, axes], "cut")
    if opset < 13:
        n.add("Split", ["cut"], ["left", "right"], axis=1, split=[2, 6])
    else:
        n.add("Split", ["cut", n.constant("parts", np.array([2, 6]))], ["left", "right"], axis=1)
    n.add("Transpose", ["right"], "turned", perm=[0, 2, 3, 1])
    n.add("Reshape", ["turned", n.constant("flat", np.array([0, 384]))], "rows")
    n.add("Gemm", ["rows", n.weight("w3", 10, 384), n.weight("b3", 10)], "dense", transB=1)
    n.add("MatMul", ["dense", n.weight("w4", 10, 5)], "logits")
    n.add("Softmax", ["logits"], "y", axis=1)
    n.add("Relu", ["left"], "z")
    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        n.nodes,
        "network",
        [values("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [values("y", TensorProto.FLOAT, ["n", 5]), values("z", TensorProto.FLOAT, ["n", 2, 8, 8])],
        n.weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


Groups = frozenset[tuple[str, ...]]
Scales = dict[str, list[float]]

TENSORS = ("x", *(name for node in build(OPSETS[-1]).graph.node for name in node.output))
"""What flows. The constants beside it differ: an older opset has attributes in their place."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32))
    return path


def groups_of(model: Path, target: str) -> Groups:
    """The tensors that share, from the structure alone."""
    groups = pose(load_model(model).structure, Question(target)).grouping.groups
    return frozenset(tuple(sorted({*TENSORS} & {*group.tensors})) for group in groups)


def _numbers(scale: float | Sequence[float | None] | None) -> list[float]:
    return [one for one in np.ravel(np.array(scale, dtype=object)).tolist() if one is not None]


def scales_of(model: Path, samples: Path, targets: Iterable[str]) -> dict[str, Scales]:
    """Calibrate, then solve, export and run for each target; the scale of each tensor that flows."""
    found: dict[str, Scales] = {}
    with qgraph.open(model.with_suffix(".db")) as database:
        calibration = database.calibrate(model, samples)
        for target in targets:
            run = calibration.solve(target=target, observer="mse")
            scales = {name: tensor["scale"] for name, tensor in run.scales()["tensors"].items() if name in TENSORS}
            found[target] = {name: _numbers(scale) for name, scale in scales.items()}
            exported = model.with_name(f"{target}.onnx")
            run.export(exported)
            session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
            outputs = session.run(None, {"x": np.load(samples)["x"]})
            assert [output.shape for output in outputs] == [(2, 5), (2, 2, 8, 8)]
            assert all(np.isfinite(output).all() for output in outputs)
    return found


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("newest") / "model.onnx"
    onnx.save(build(OPSETS[-1]), path)
    return path


@pytest.fixture(scope="module")
def scales_at_newest(newest: Path, samples: Path) -> dict[str, Scales]:
    return scales_of(newest, samples, pack_names())


@pytest.fixture(scope="module")
def groups_at_newest(newest: Path) -> dict[str, Groups]:
    return {target: groups_of(newest, target) for target in pack_names()}


@pytest.mark.parametrize("opset", OPSETS[:-1])
def test_every_opset_gives_the_same_groups_and_scales(
    opset: int, samples: Path, tmp_path: Path, groups_at_newest: dict[str, Groups], scales_at_newest: dict[str, Scales]
) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(build(opset), model)
    assert {target: groups_of(model, target) for target in pack_names()} == groups_at_newest
    assert any(len(group) > 2 for groups in groups_at_newest.values() for group in groups)
    # The scales of one target each: those of all would only repeat that the groups and the activations are the same.
    target = pack_names()[opset % len(pack_names())]
    scales = scales_of(model, samples, [target])[target]
    assert scales.keys() == scales_at_newest[target].keys()
    for name, scale in scales.items():
        assert scale == pytest.approx(scales_at_newest[target][name], rel=1e-4), name
