"""What follows is computed bit for bit as if it had been collected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from activations import activations
from development_models import IMAGENET_MEAN, IMAGENET_STD
from hypothesis import given
from numpy.typing import NDArray
from package_file import package_file
from photographs import photographs
from small_models import build, inputs_of, small_cnn

from qgraph.calib.collect import Progress, collect, unchanged
from qgraph.calib.data.source import open_data
from qgraph.calib.followers import Follower
from qgraph.calib.plan import CollectionPlan, capabilities, complete, plan_collection
from qgraph.calib.provenance import UNKNOWN
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.calib.statistics import TensorStatistics, same_statistics, statistics_of
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Structure
from qgraph.ir.onnx_import import ImportedModel, load_model


def collected(model: ImportedModel, plan: CollectionPlan, data: NDArray[np.float32]) -> Progress[TensorStatistics]:
    inputs = inputs_of(model.structure)
    return collect(OnnxRunner(model.proto, plan.exposed), open_data(data, inputs), plan, keep=unchanged)


def without_followers(plan: CollectionPlan) -> CollectionPlan:
    every = dict(plan.atoms) | {follower.tensor: follower.atoms for follower in plan.followers}
    parts = {name: replace(one, source=name, bounds=(-np.inf, np.inf)) for name, one in plan.parts.items()}
    return replace(plan, atoms=dict(sorted(every.items())), followers=(), parts=parts)


def anonymous(statistics: TensorStatistics) -> TensorStatistics:
    """Without provenance: of all samples that a Relu gives a zero, the one with the least value is known."""
    return replace(statistics, provenance=UNKNOWN)


def assert_followers_are_exact(model: ImportedModel, data: NDArray[np.float32]) -> None:
    plan = plan_collection(model.structure)
    assert plan.followers
    followed = complete(plan, collected(model, plan, data).statistics)
    measured = collected(model, without_followers(plan), data).statistics
    assert followed.keys() == measured.keys()
    assert [name for name in measured if not same_statistics(*map(anonymous, (followed[name], measured[name])))] == []


def test_followers_of_the_small_cnn_are_exact(tmp_path: Path) -> None:
    assert_followers_are_exact(small_cnn(tmp_path), np.random.default_rng(1).normal(size=(3, 3, 8, 9)).astype("f"))


def test_followers_of_a_text_detector_are_exact() -> None:
    model = load_model(package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"))
    assert_followers_are_exact(model, photographs(2, 96, 96, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=True))


def test_every_float_activation_is_collected_or_follows(tmp_path: Path) -> None:
    structure = small_cnn(tmp_path).structure
    plan = plan_collection(structure)
    floats = {tensor.name for tensor in structure.tensors if tensor.is_float and not tensor.constant}
    assert sorted([*plan.tensors, *(follower.tensor for follower in plan.followers)]) == sorted(floats)


def test_tensors_that_numpy_cannot_hold_are_not_collected(tmp_path: Path) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13]>
        mixed (float[n, 4] x) => (float[n, 4] y)
        {
            wide = Cast <to: int = 11> (x)
            half = Cast <to: int = 10> (wide)
            brain = Cast <to: int = 16> (half)
            y = Cast <to: int = 1> (brain)
        }
        """,
    )
    plan = plan_collection(model.structure)
    assert plan.tensors == ("half", "wide", "x", "y")
    statistics = collected(model, plan, np.ones((3, 4), np.float32)).statistics
    assert sorted(statistics) == ["half", "wide", "x", "y"]


def test_what_follows_and_what_is_collected(tmp_path: Path) -> None:
    plan = plan_collection(small_cnn(tmp_path).structure)
    rules = {follower.tensor: follower.rule for follower in plan.followers}
    assert rules == {
        "r": "relu", "c6": "clip", "both": "sum", "clipped": "sum", "t": "same", "f": "same", "f2": "same",
        "f3": "same", "f4": "same", "f5": "same",
    }  # fmt: skip
    assert "mixed" in plan.tensors, "its atom 6.0 is not counted in one of its inputs"
    assert "p" in plan.tensors, "a pool drops values"
    assert "sizes" in plan.tensors


def test_atoms_are_clip_bounds_and_travel_with_the_values(tmp_path: Path) -> None:
    plan = plan_collection(small_cnn(tmp_path).structure)
    with_six = {name for name, atoms in plan.atoms.items() if atoms == (6.0,)}
    assert with_six == {"p", "mixed", "y"}
    assert {f.tensor for f in plan.followers if f.atoms == (6.0,)} == {"c6", "clipped", "t", "f2", "f3", "f4", "f5"}
    assert plan.atoms["a"] == ()


def test_bounds_of_other_clipping_ops_are_atoms(tmp_path: Path) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13]>
        bounds (float[n, 3] x, bool[n, 3] mask) => (float[n, 3] h, float[n, 3] low, float[n, 3] masked, float[n, q] pad)
        <float one = {-1.5}, float fill = {-10000.0}, float seven = {7.0}, int64[4] pads = {0, 1, 0, 1},
         float[9, 1] data = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}>
        {
            h = HardSigmoid (x)
            low = Max (x, one)
            masked = Where (mask, low, fill)
            pad = Pad (x, pads, seven)
        }
        """,
    )
    atoms = plan_collection(model.structure).atoms
    assert atoms["h"] == (1.0,)
    assert atoms["low"] == (-1.5,)
    assert atoms["masked"] == (-10000.0, -1.5)
    assert atoms["pad"] == (7.0,)


def test_bounds_that_bind_nothing_are_no_atoms(tmp_path: Path) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13]>
        free (float[n, 3] x) => (float[n, 3] y)
        <float low = {0.0}, float high = {3.4028235e38}>
        { y = Clip (x, low, high) }
        """,
    )
    assert plan_collection(model.structure).atoms["y"] == ()


@given(activations())
def test_relu_follows_from_any_bits(values: NDArray[np.float32]) -> None:
    plan = CollectionPlan({"a": (1.0, 6.0)}, (Follower("b", "relu", ("a",), (6.0,)),))
    followed = complete(plan, {"a": statistics_of(values, (1.0, 6.0))})["b"]
    assert same_statistics(followed, statistics_of(np.maximum(values, np.float32(0)), (6.0,)))


@given(activations(), activations())
def test_concat_follows_from_any_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    plan = CollectionPlan({"a": (), "b": (6.0,)}, (Follower("c", "sum", ("a", "b", "b"), ()),))
    followed = complete(plan, {"a": statistics_of(a), "b": statistics_of(b, (6.0,))})["c"]
    assert same_statistics(followed, statistics_of(np.concatenate([a, b, b])))


def test_a_missing_statistic_is_named(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="not collected: a, mixed"):
        complete(plan_collection(small_cnn(tmp_path).structure), {})


def test_capabilities_change_with_the_plan_and_not_otherwise(tmp_path: Path) -> None:
    structure = small_cnn(tmp_path).structure
    assert capabilities(plan_collection(structure)) == capabilities(plan_collection(structure))
    fewer = replace(structure, ops=tuple(op for op in structure.ops if op.type != "Relu"))
    assert isinstance(fewer, Structure)
    assert capabilities(plan_collection(fewer)) != capabilities(plan_collection(structure))
