"""What a Clip makes of statistics is what statistics of the clipped values are."""

import math
from pathlib import Path

import numpy as np
import pytest
from activations import activations
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_models import build, inputs_of

from qgraph.calib.clipping import clipped, clips_whole_bins
from qgraph.calib.collect import collect, unchanged
from qgraph.calib.data.source import open_data
from qgraph.calib.plan import complete, plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.calib.statistics import same_statistics, statistics_of

BOUNDS = [(0.0, 6.0), (-1.0, 1.0), (0.0, math.inf), (-math.inf, 0.0), (-0.5, 2.0), (-math.inf, math.inf), (-6.0, 0.0)]


@settings(deadline=None)
@given(activations(), st.sampled_from(BOUNDS))
def test_it_is_exact_for_every_bit_pattern(values: NDArray[np.float32], bounds: tuple[float, float]) -> None:
    low, high = bounds
    atoms = tuple(sorted({bound for bound in bounds if math.isfinite(bound)} | {0.25, -8.0}))
    source = statistics_of(values, atoms=(0.25, -8.0))
    with np.errstate(invalid="ignore"):
        expected = statistics_of(np.clip(values, np.float32(low), np.float32(high)), atoms)
    assert same_statistics(clipped(source, low, high, atoms), expected)


@pytest.mark.parametrize(
    "bounds", [(0.1, 6.0), (0.0, 0.3), (1.0, 2.0), (-2.0, -1.0), (0.0, 0.0), (0.0, 3.4028234663852886e38)]
)
def test_other_bounds_are_not_taken(bounds: tuple[float, float]) -> None:
    assert not clips_whole_bins(*bounds)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_these_bounds_are(bounds: tuple[float, float]) -> None:
    assert clips_whole_bins(*bounds)


def test_the_runtime_clips_as_it_is_computed(tmp_path: Path) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13]>
        clip (float[n, 4] x) => (float[n, 4] y, float[n, 4] z)
        <float low = {0}, float high = {6}>
        { a = Neg (x)
          y = Clip (a, low, high)
          z = Clip (a, , high) }
        """,
    )
    plan = plan_collection(model.structure)
    assert [follower.tensor for follower in plan.followers] == ["y", "z"]
    data = np.random.default_rng(0).normal(0, 5, (50, 4)).astype(np.float32)
    data[3, 1], data[4, 2], data[5, 0] = -6.0, 0.0, 1.0
    found = collect(
        OnnxRunner(model.proto, plan.exposed), open_data(data, inputs_of(model.structure)), plan, keep=unchanged
    )
    known = complete(plan, found.statistics)
    assert known["y"].zeros == (data >= 0).sum()
    assert known["y"].atoms == known["z"].atoms == ((6.0, (data <= -6).sum()),)
    every = OnnxRunner(model.proto, ["y", "z"])
    raw = [every.run({"x": row[None]}) for row in data]
    for name in ("y", "z"):
        expected = statistics_of(np.concatenate([one[name] for one in raw]), (6.0,), samples=len(data))
        assert known[name].bins.tolist() == expected.bins.tolist()
        assert known[name].counts.tolist() == expected.counts.tolist()
        assert (known[name].minimum, known[name].maximum) == (expected.minimum, expected.maximum)
    special = np.array([[np.nan, np.inf, -np.inf, 2.0]], np.float32)
    assert np.array_equal(every.run({"x": special})["y"], [[np.nan, 0, 6, 0]], equal_nan=True)
