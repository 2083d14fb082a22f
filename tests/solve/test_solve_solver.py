"""Solved runs of small structures with known answers."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.calib.weights.scales import bias_magnitude, solve_weight
from qgraph.constraints.model import Constraints, Derived, Fixed, Group, Grouping, Origin, Requantize, SlotPlan
from qgraph.errors import NotFoundError, StatisticsError
from qgraph.ir.elements import Op, Structure
from qgraph.solve.run import RunData, RunSettings
from qgraph.solve.solver import solve
from qgraph.tqc import FLOAT32_TINY, QuantizationState, Scheme, TqcRecord, scale_and_offset, to_float32

S = QuantizationState
ACTIVATION = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
WEIGHT = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
BIAS = Scheme(32, signed=True, symmetric=True, quant_min=-(2**31), quant_max=2**31 - 1, axis=0)
SETTINGS = RunSettings("tflite", "1", False, "MinMax", weights="minmax")
ORIGIN = Origin("rule", "op", "Op", "source")
RNG = np.random.default_rng(0)


class Model:
    """Collects slots and groups, and solves them."""

    def __init__(self, ops: Sequence[Op] = ()) -> None:
        self.structure = Structure("m", "f", 18, tuple(ops), (), (), ())
        self.slots: dict[str, SlotPlan] = {}
        self.groups: list[Group] = []
        self.requantizes: list[Requantize] = []

    def group(self, name: str, slots: Mapping[str, str], role: str = "activation", **more: object) -> None:
        scheme = {"weight": WEIGHT, "bias": BIAS}.get(role, ACTIVATION)
        self.slots |= {slot: SlotPlan(slot, tensor, role, scheme, None) for slot, tensor in slots.items()}
        tensors = tuple(sorted(set(slots.values())))
        group = Group(name, tuple(sorted(slots)), tensors, next(iter(slots)), scheme)
        self.groups.append(replace(group, **more))  # type: ignore[arg-type]

    def solve(
        self,
        statistics: Mapping[str, TensorStatistics] | None = None,
        weights: Sequence[WeightSolution] = (),
        biases: Sequence[BiasMagnitude] = (),
        settings: RunSettings = SETTINGS,
        *,
        with_noise: bool = True,
    ) -> RunData:
        constraints = Constraints("tflite", "1", True, self.slots, (), (), (), (), ())
        grouping = Grouping(tuple(sorted(self.groups, key=lambda g: g.id)), tuple(self.requantizes), ())
        known = statistics or {}
        return solve(self.structure, constraints, grouping, known, weights, biases, settings, with_noise=with_noise)


def by_slot(run: RunData) -> dict[str, TqcRecord]:
    return {record.slot: record for record in run.tqcs}


def normal(scale: float, count: int = 3000) -> TensorStatistics:
    return statistics_of(RNG.standard_normal(count) * scale)


def test_a_group_shares_the_range_of_its_members() -> None:
    model = Model()
    model.group("g", {"a:out:0": "x", "b:out:0": "y", "c:in:0": "x"})
    run = model.solve({"x": statistics_of([-1.0, 2.0]), "y": statistics_of([-4.0, 0.5])})
    records = by_slot(run)
    scale, offset = scale_and_offset(-4.0, 2.0, ACTIVATION)
    assert {(one.scale, one.offset, one.group) for one in records.values()} == {((scale,), (offset,), "g")}
    assert [(one.state, one.master) for one in records.values()] == [
        (S.ACTIVATED, None),
        (S.SLAVE, "a:out:0"),
        (S.SLAVE, "a:out:0"),
    ]


def test_settings_come_back_resolved() -> None:
    run = Model().solve(settings=replace(SETTINGS, observer="MSE"))
    assert (run.settings.observer, dict(run.settings.observer_parameters)) == ("mse", {"octaves": 24})
    with pytest.raises(NotFoundError, match="minmax"):
        Model().solve(settings=replace(SETTINGS, observer="minmx"))


def test_values_that_a_concat_repeats_are_counted_once() -> None:
    ops = [Op("cat", "Concat", "", ("x", "y"), ("z",))]
    members = {"a:out:0": "x", "b:out:0": "y", "cat:out:0": "z"}
    x, y = RNG.standard_normal(3000), RNG.standard_normal(300) * 9
    statistics = {"x": statistics_of(x), "y": statistics_of(y)}
    scales = []
    for z in (np.concatenate([x, y]), np.concatenate([x, y] + [y] * 50)):
        model = Model(ops)
        model.group("g", members)
        run = model.solve({**statistics, "z": statistics_of(z)}, settings=replace(SETTINGS, observer="mse"))
        scales.append(by_slot(run)["a:out:0"].scale)
    assert scales[0] == scales[1]


def test_the_price_of_sharing_is_never_negative_for_mse_and_zero_alone() -> None:
    model = Model()
    model.group("pair", {"a:out:0": "x", "b:out:0": "y"})
    model.group("single", {"c:out:0": "z"})
    run = model.solve({"x": normal(1), "y": normal(20), "z": normal(3)}, settings=replace(SETTINGS, observer="mse"))
    prices = {slot: one.price_db for slot, one in by_slot(run).items()}
    assert prices["c:out:0"] == 0
    assert prices["a:out:0"] is not None
    assert prices["a:out:0"] > 15
    assert prices["b:out:0"] is not None
    assert prices["b:out:0"] >= -1e-6


def test_a_prescribed_scale_is_kept_and_its_price_is_told() -> None:
    model = Model()
    model.group("g", {"soft:out:0": "p", "next:in:0": "p"}, fixed=Fixed("soft:out:0", 1 / 256, -128, ORIGIN))
    run = model.solve({"p": statistics_of(RNG.random(4000) * 0.01)}, settings=replace(SETTINGS, observer="mse"))
    record = by_slot(run)["soft:out:0"]
    assert (record.state, record.scale, record.offset) == (S.FIXED, (1 / 256,), (-128,))
    assert record.price_db is not None
    assert record.price_db > 20


@pytest.mark.parametrize(
    ("values", "state", "scale"),
    [
        ([0.0, 0.0], S.ALL_ZERO, 1.0),
        ([1e-40, 0.0], S.DENORMAL, 1.0),
        ([2.0, 2.0], S.CONSTANT, to_float32(2 / 255)),
        ([np.nan, 1.0, 0.5], S.NONFINITE, to_float32(1 / 255)),
        ([np.nan], S.NONFINITE, None),
        ([], S.EMPTY, None),
    ],
)
def test_a_group_of_degenerate_tensors_says_so(values: list[float], state: S, scale: float | None) -> None:
    model = Model()
    model.group("g", {"a:out:0": "x"})
    record = by_slot(model.solve({"x": statistics_of(values)}))["a:out:0"]
    assert (record.state, record.scale) == (state, None if scale is None else (scale,))
    assert record.reason is not None


def test_a_tensor_without_statistics_was_never_run() -> None:
    model = Model()
    model.group("g", {"a:out:0": "x", "b:in:0": "x"})
    records = by_slot(model.solve())
    assert [(one.state, one.scale, one.noise_db) for one in records.values()] == [
        (S.NEVER_RUN, None, None),
        (S.SLAVE, None, None),
    ]


def test_degenerate_members_do_not_poison_a_group() -> None:
    healthy = normal(1)
    alone = Model()
    alone.group("g", {"a:out:0": "x"})
    together = Model()
    degenerate: dict[str, list[float]] = {"zero": [0.0] * 9, "nan": [np.nan, 0.1], "empty": [], "tiny": [1e-42]}
    together.group("g", {"a:out:0": "x"} | {f"{name}:out:0": name for name in degenerate} | {"never:out:0": "never"})
    statistics = {"x": healthy} | {name: statistics_of(values) for name, values in degenerate.items()}
    expected = by_slot(alone.solve({"x": healthy}))["a:out:0"]
    records = by_slot(together.solve(statistics))
    assert (records["a:out:0"].state, records["a:out:0"].scale) == (S.ACTIVATED, expected.scale)
    assert records["a:out:0"].reason is None
    assert records["nan:out:0"].reason is not None
    assert "NaN" in records["nan:out:0"].reason


def test_slots_that_are_not_quantized_keep_their_reason() -> None:
    model = Model()
    model.slots["x:in:0"] = SlotPlan("x:in:0", "t", "activation", None, "the target has no such op")
    assert model.solve().tqcs == (TqcRecord("x:in:0", "t", "activation", S.FP32, reason="the target has no such op"),)


def convolution(model: Model) -> None:
    model.group("in", {"conv:in:0": "x"})
    model.group("weight", {"conv:in:1": "w"}, role="weight")
    derived = Derived("conv:in:2", "conv:in:0", "conv:in:1", ORIGIN)
    model.group("bias", {"conv:in:2": "b"}, role="bias", derived=derived)


def test_a_bias_scale_is_the_product_of_input_and_weight_scale() -> None:
    model = Model()
    convolution(model)
    values = RNG.standard_normal((3, 4))
    run = model.solve({"x": normal(1)}, solve_weight("w", values, [WEIGHT]), [bias_magnitude("b", [0.5, 0.1, 2.0])])
    records = by_slot(run)
    s_in, weight, bias = records["conv:in:0"].scale, records["conv:in:1"], records["conv:in:2"]
    assert s_in is not None
    assert weight.scale is not None
    assert (weight.state, bias.state) == (S.ACTIVATED, S.PASSIVE)
    assert bias.scale == tuple(to_float32(s_in[0] * s) for s in weight.scale)
    assert bias.offset == (0, 0, 0)
    assert weight.price_db == 0
    assert run.events == ()


@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_weight_scale_is_raised_to_the_least_that_holds_the_bias(power_of_two: bool) -> None:
    model = Model()
    convolution(model)
    scheme = replace(WEIGHT, power_of_two=power_of_two)
    model.groups[1] = replace(model.groups[1], scheme=scheme)
    values = RNG.standard_normal((3, 4))
    values[1] *= 1e-14
    values[2] = 0
    biases = np.array([0.5, 3.0, 1e9], np.float32)
    stored = solve_weight("w", values, [scheme], methods=["minmax"])
    run = model.solve({"x": normal(1)}, stored, [bias_magnitude("b", biases)])
    records = by_slot(run)
    weight, bias = records["conv:in:1"], records["conv:in:2"]
    assert weight.scale is not None
    assert bias.scale is not None
    assert weight.scale[0] == stored[0].scale[0]
    assert weight.scale[1] > stored[0].scale[1]
    for value, scale in zip(biases.tolist(), bias.scale, strict=True):
        assert round(value / scale) <= 2**31 - 1
    if not power_of_two:
        s_in = records["conv:in:0"].scale
        assert s_in is not None
        below = float(np.nextafter(np.float32(weight.scale[1]), np.float32(0)))
        assert float(biases[1]) / to_float32(below * s_in[0]) > 2**31 - 1
    assert (weight.noise_db, weight.own_noise_db) == (None, stored[0].noise_db)
    assert weight.reason is not None
    assert run.events == (f"w: {weight.reason}",)
    assert "channels (1" in run.events[0]


def test_a_bias_scale_is_never_denormal() -> None:
    model = Model()
    convolution(model)
    run = model.solve(
        {"x": statistics_of([1e-30, -1e-30, 5e-31])},
        solve_weight("w", np.full((2, 2), 1e-12), [WEIGHT]),
        [bias_magnitude("b", [0.0, 0.0])],
    )
    scale = by_slot(run)["conv:in:2"].scale
    assert scale is not None
    assert min(scale) >= FLOAT32_TINY


def test_a_bias_waits_where_its_input_has_no_scale() -> None:
    model = Model()
    convolution(model)
    record = by_slot(model.solve({}, solve_weight("w", np.ones((2, 2)), [WEIGHT])))["conv:in:2"]
    assert (record.state, record.scale) == (S.PASSIVE, None)
    assert record.reason == "derived from conv:in:0, which has no scale"


def test_weights_without_stored_scales_are_all_named() -> None:
    model = Model()
    convolution(model)
    model.group("other", {"fc:in:1": "v"}, role="weight")
    with pytest.raises(StatisticsError, match="v, w"):
        model.solve({"x": normal(1)})


def test_a_requantize_has_its_price() -> None:
    model = Model()
    model.group("g", {"a:out:0": "x"})
    model.group("h", {"b:in:0": "x", "c:out:0": "y"})
    model.requantizes.append(Requantize("x", "b:in:0", "a:out:0"))
    run = model.solve({"x": normal(1), "y": normal(30)})
    assert list(run.requantize_price_db) == ["b:in:0"]
    assert run.requantize_price_db["b:in:0"] > 20


@pytest.mark.parametrize("observer", ["MSE", "auto"])
def test_without_noise_the_scales_are_the_same(observer: str) -> None:
    model = Model()
    model.group("g", {"a:out:0": "x"})
    model.group("h", {"b:in:0": "x", "c:out:0": "y"})
    model.requantizes.append(Requantize("x", "b:in:0", "a:out:0"))
    statistics, settings = {"x": normal(1), "y": normal(30)}, replace(SETTINGS, observer=observer)
    full = model.solve(statistics, settings=settings)
    lean = model.solve(statistics, settings=settings, with_noise=False)
    assert full.requantize_price_db
    assert not lean.requantize_price_db
    assert [(one.slot, one.scale, one.offset, one.state, one.reason) for one in lean.tqcs] == [
        (one.slot, one.scale, one.offset, one.state, one.reason) for one in full.tqcs
    ]


def test_without_an_observer_only_the_structure_is_solved() -> None:
    model = Model()
    convolution(model)
    model.group("g", {"soft:out:0": "p", "next:in:0": "p"}, fixed=Fixed("soft:out:0", 1 / 256, -128, ORIGIN))
    records = by_slot(model.solve(settings=RunSettings("tflite", "1", False)))
    assert {slot: (one.state, one.scale) for slot, one in records.items()} == {
        "conv:in:0": (S.INITIAL, None),
        "conv:in:1": (S.INITIAL, None),
        "conv:in:2": (S.PASSIVE, None),
        "next:in:0": (S.SLAVE, (1 / 256,)),
        "soft:out:0": (S.FIXED, (1 / 256,)),
    }


def test_no_order_of_the_inputs_changes_the_run() -> None:
    statistics = {f"t{index}": normal(1 + index % 7, 50 + index) for index in range(40)}
    runs = []
    for seed in range(3):
        names = list(statistics)
        random.Random(seed).shuffle(names)
        model = Model()
        convolution(model)
        for group in range(10):
            own = [name for name in names if int(name[1:]) % 10 == group]
            model.group(f"g{group}", dict(sorted((f"{name}:out:0", name) for name in own)))
        order = [*names, "x"]
        known = {**statistics, "x": statistics["t0"]}
        stored = [*solve_weight("w", np.arange(12.0).reshape(3, 4), [WEIGHT])]
        random.Random(seed).shuffle(stored)
        runs.append(
            model.solve({name: known[name] for name in order}, stored, settings=replace(SETTINGS, observer="mse"))
        )
    assert runs[0] == runs[1] == runs[2]
