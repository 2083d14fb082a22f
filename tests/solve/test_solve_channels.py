"""Activations with a scale for each channel: solved, priced, and passed on to the bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.observers.observe import observe
from qgraph.calib.statistics import TensorStatistics, merge, statistics_of
from qgraph.constraints.model import Constraints, Derived, Group, Grouping, Origin, Requantize, SlotPlan
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Structure
from qgraph.solve.bias import bias_scale, input_scales
from qgraph.solve.run import RunData, RunSettings
from qgraph.solve.solver import solve
from qgraph.tqc import QuantizationState, Scheme, TqcRecord, to_float32

TENSOR = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
CHANNEL = replace(TENSOR, axis=1)
WEIGHT = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
BIAS = Scheme(32, signed=True, symmetric=True, quant_min=-(2**31), quant_max=2**31 - 1, axis=0)
SIZES = (0.1, 1.0, 40.0)
Channels = Mapping[tuple[str, int], Sequence[TensorStatistics]]


def values(seed: int = 0) -> list[np.ndarray]:
    """Three channels of very different sizes."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(4000).astype(np.float32) * size for size in SIZES]


def channels_of(arrays: Sequence[np.ndarray]) -> tuple[TensorStatistics, ...]:
    return tuple(statistics_of(array) for array in arrays)


def whole_of(arrays: Sequence[np.ndarray]) -> TensorStatistics:
    return statistics_of(np.concatenate([array.ravel() for array in arrays]))


def run_of(
    plans: Sequence[SlotPlan],
    groups: Sequence[Group],
    statistics: Mapping[str, TensorStatistics],
    channels: Channels,
    *,
    observer: str = "mse",
    requantizes: Sequence[Requantize] = (),
    weights: Sequence[WeightSolution] = (),
    biases: Sequence[BiasMagnitude] = (),
) -> RunData:
    constraints = Constraints("t", "1", True, {plan.slot: plan for plan in plans}, (), (), (), (), ())
    grouping = Grouping(tuple(sorted(groups, key=lambda group: group.id)), tuple(requantizes), ())
    settings = RunSettings("t", "1", False, observer, weights="minmax" if weights else None)
    structure = Structure("m", "f", 18, (), (), (), ())
    return solve(structure, constraints, grouping, statistics, weights, biases, settings, channels=channels)


def plan(slot: str, tensor: str, scheme: Scheme = CHANNEL, role: str = "activation") -> SlotPlan:
    return SlotPlan(slot, tensor, role, scheme, None)


def one_group(arrays: Sequence[np.ndarray], observer: str = "mse") -> TqcRecord:
    group = Group("g", ("a:out:0",), ("x",), "a:out:0", CHANNEL)
    channels = {("x", 1): channels_of(arrays)}
    (record,) = run_of([plan("a:out:0", "x")], [group], {"x": whole_of(arrays)}, channels, observer=observer).tqcs
    return record


@pytest.mark.parametrize("observer", ["minmax", "percentile", "kl", "mse"])
def test_every_channel_has_the_scale_that_it_would_have_as_a_tensor(observer: str) -> None:
    record = one_group(values(), observer)
    alone = observe(observer, channels_of(values()), [TENSOR] * 3)
    assert record.scale is not None
    assert record.offset is not None
    assert list(zip(record.scale, record.offset, strict=True)) == alone
    assert record.state == QuantizationState.ACTIVATED


def test_noise_is_that_of_all_channels_together() -> None:
    arrays = values()
    record = one_group(arrays)
    assert record.scale is not None
    assert record.offset is not None
    energy = 0.0
    for array, scale, offset in zip(arrays, record.scale, record.offset, strict=True):
        x = array.astype(np.float64)
        energy += float((((np.clip(np.round(x / scale) + offset, 0, 255) - offset) * scale - x) ** 2).sum())
    signal = sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays)
    assert record.noise_db == pytest.approx(10 * np.log10(energy / signal), abs=0.05)
    assert record.price_db == 0


def test_channels_without_signal_get_the_largest_scale_of_the_others() -> None:
    arrays = [values()[1], np.zeros(10, np.float32), np.full(3, np.nan, np.float32), values()[0]]
    record = one_group(arrays, "minmax")
    alone = [one for one in observe("minmax", channels_of([arrays[0], arrays[3]]), [TENSOR] * 2) if one is not None]
    assert record.scale == (alone[0][0], alone[0][0], alone[0][0], alone[1][0])
    assert record.offset == (alone[0][1], 0, 0, alone[1][1])


def test_channels_of_zeros_only_get_scale_one() -> None:
    record = one_group([np.zeros(4, np.float32)] * 2)
    assert (record.state, record.scale, record.offset) == (QuantizationState.ALL_ZERO, (1.0, 1.0), (0, 0))


def test_members_of_a_group_are_pooled_channel_by_channel() -> None:
    a, b = values(1), [array * 3 for array in values(2)]
    plans = [plan("a:out:0", "x"), plan("b:out:0", "y")]
    group = Group("g", ("a:out:0", "b:out:0"), ("x", "y"), "a:out:0", CHANNEL)
    statistics, channels = {"x": whole_of(a), "y": whole_of(b)}, {("x", 1): channels_of(a), ("y", 1): channels_of(b)}
    record = run_of(plans, [group], statistics, channels, observer="minmax").tqcs[0]
    both = [merge(*pair) for pair in zip(channels_of(a), channels_of(b), strict=True)]
    assert record.scale == tuple(one[0] for one in observe("minmax", both, [TENSOR] * 3) if one is not None)
    with pytest.raises(StatisticsError, match="different channels: x: 3, y: 2"):
        run_of(plans, [group], statistics, {**channels, ("y", 1): channels_of(b)[:2]})


def test_a_requantize_from_one_scale_to_one_for_each_channel_has_a_price() -> None:
    arrays = values()
    plans = [plan("a:out:0", "x", TENSOR), plan("b:in:0", "x")]
    groups = [
        Group("g", ("a:out:0",), ("x",), "a:out:0", TENSOR),
        Group("h", ("b:in:0",), (), "b:in:0", CHANNEL),
    ]
    again = [Requantize("x", "b:in:0", "a:out:0")]
    run = run_of(plans, groups, {"x": whole_of(arrays)}, {("x", 1): channels_of(arrays)}, requantizes=again)
    first, second = run.tqcs
    assert first.scale is not None
    assert second.scale is not None
    assert (len(first.scale), len(second.scale)) == (1, 3)
    twice = 0.0
    signal = once = 0.0
    assert first.offset is not None
    assert second.offset is not None
    for array, scale, offset in zip(arrays, second.scale, second.offset, strict=True):
        x = array.astype(np.float64)
        y = (np.clip(np.round(x / first.scale[0]) + first.offset[0], 0, 255) - first.offset[0]) * first.scale[0]
        z = (np.clip(np.round(y / scale) + offset, 0, 255) - offset) * scale
        once, twice, signal = once + ((y - x) ** 2).sum(), twice + ((z - x) ** 2).sum(), signal + (x**2).sum()
    assert run.requantize_price_db["b:in:0"] == pytest.approx(10 * np.log10(twice / once), abs=0.05)


def test_what_was_not_collected_is_said_with_its_axis() -> None:
    group = Group("g", ("a:out:0",), ("x",), "a:out:0", CHANNEL)
    with pytest.raises(StatisticsError, match="no statistics per channel were collected: x, axis 1; calibrate again"):
        run_of([plan("a:out:0", "x")], [group], {"x": statistics_of([1.0])}, {})
    (record,) = run_of([plan("a:out:0", "x")], [group], {}, {}).tqcs
    assert record.state == QuantizationState.NEVER_RUN


def test_a_depthwise_bias_has_the_scale_of_its_own_input_channel() -> None:
    arrays = values()
    groups = [
        Group("x", ("conv:in:0",), ("x",), "conv:in:0", CHANNEL),
        Group("w", ("conv:in:1",), ("w",), "conv:in:1", WEIGHT),
        Group("b", ("conv:in:2",), ("b",), "conv:in:2", BIAS),
    ]
    origin = Origin("rule", "conv", "Conv", "source")
    groups[2] = replace(groups[2], derived=Derived("conv:in:2", "conv:in:0", "conv:in:1", origin))
    plans = [
        plan("conv:in:0", "x"),
        plan("conv:in:1", "w", WEIGHT, "weight"),
        plan("conv:in:2", "b", BIAS, "bias"),
    ]
    weights = [WeightSolution("w", WEIGHT, "minmax", (0.5, 0.25, 0.125, 1.0, 2.0, 4.0), -40.0)]
    biases = [BiasMagnitude("b", (1.0,) * 6)]
    run = run_of(
        plans, groups, {"x": whole_of(arrays)}, {("x", 1): channels_of(arrays)}, weights=weights, biases=biases
    )
    scales = {record.slot: record.scale for record in run.tqcs}
    inputs, bias = scales["conv:in:0"], scales["conv:in:2"]
    assert inputs is not None
    assert bias == tuple(to_float32(inputs[j // 2] * scale) for j, scale in enumerate(weights[0].scale))


def test_input_and_bias_channels_that_do_not_go_together_are_refused() -> None:
    assert input_scales((2.0,), 5, "s") == (2.0,)
    assert bias_scale((0.5,), (1.0, 2.0), 2, "s") == (0.5, 1.0)
    assert bias_scale((0.5,), (1.0,), 3, "s") == (0.5,)
    with pytest.raises(StatisticsError, match="do not go together: s: 2 and 5"):
        input_scales((1.0, 2.0), 5, "s")


def test_auto_weighs_all_channels_of_a_tensor_together() -> None:
    record = one_group(values(), "auto")
    assert record.scale is not None
    assert len(record.scale) == 3
    best = min(one_group(values(), observer).noise_db or 0 for observer in ("minmax", "percentile", "kl", "mse"))
    assert record.noise_db is not None
    assert best <= record.noise_db <= best + 0.05
