"""Contradictions come back all at once, each with two chains of reasons and the cheapest way out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from constraint_graphs import ELEMENTWISE, Sketch, pack_with, shared

from qgraph.constraints.conflicts import structural_price
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Edge, Kind, Strength
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.constraints.schemes import common_scheme
from qgraph.errors import ConflictError
from qgraph.tqc import Scheme


def with_schemes(constraints: Constraints, changes: Mapping[str, Mapping[str, Any]]) -> Constraints:
    """The constraints with other schemes at some slots."""
    slots = dict(constraints.slots)
    for slot, change in changes.items():
        scheme = slots[slot].scheme
        assert scheme is not None
        slots[slot] = replace(slots[slot], scheme=replace(scheme, **change))
    return replace(constraints, slots=slots)


@pytest.fixture
def concat(tmp_path: Path) -> Constraints:
    """Three convolutions into a concat."""
    sketch = Sketch()
    for number in range(3):
        sketch.op("Conv", f"x{number}", f"c{number}")
    sketch.op("Concat", "c0 c1 c2", "join", axis=1)
    return constrain(sketch.graph("join"), pack_with(ELEMENTWISE, tmp_path))


def conflicts(constraints: Constraints) -> tuple[str, ...]:
    with pytest.raises(ConflictError) as caught:
        solve_groups(constraints, force_overlap=False)
    return caught.value.conflicts


INT16 = {"bits": 16, "quant_min": -(2**15), "quant_max": 2**15 - 1}
UINT8 = {"signed": False, "quant_min": 0, "quant_max": 255}


@pytest.mark.parametrize("change", [INT16, UINT8], ids=["bits", "sign"])
def test_tied_slots_of_other_bits_or_sign_are_a_conflict(concat: Constraints, change: Mapping[str, Any]) -> None:
    (line,) = conflicts(with_schemes(concat, {"join:in:1": change}))
    assert line.startswith("join:in:0 (int8 ")
    assert " and join:in:1 (" in line
    # Two chains that end at one slot, and the rule that would have to go.
    assert "; join:in:0 -[concat, quantization_spec.md: CONCATENATION]- join:out:0; join:in:1 -[" in line
    assert "break the required rule concat between join:in:" in line


def test_all_conflicts_come_at_once(concat: Constraints) -> None:
    assert len(conflicts(with_schemes(concat, {"join:in:1": INT16, "join:in:2": UINT8}))) == 2


def test_scales_per_channel_of_two_axes_are_a_conflict(concat: Constraints) -> None:
    (line,) = conflicts(with_schemes(concat, {"join:in:1": {"axis": 1}, "join:in:2": {"axis": 2}}))
    assert "(axis 1)" in line
    assert "(axis 2)" in line


@pytest.mark.parametrize(
    ("change", "borne"),
    [
        ({"power_of_two": True}, {"power_of_two": True}),
        ({"symmetric": True, "quant_min": -127}, {"symmetric": True, "quant_min": -127}),
        ({"axis": 1}, {}),
    ],
    ids=["power of two", "symmetric", "per channel"],
)
def test_a_group_takes_what_all_its_members_can_bear(
    concat: Constraints, change: Mapping[str, Any], borne: Mapping[str, Any]
) -> None:
    mixed = with_schemes(concat, {"join:in:1": change})
    grouping = solve_groups(mixed, force_overlap=False)
    (group,) = (group for group in grouping.groups if "join:out:0" in group.slots)
    own = concat.slots["join:out:0"].scheme
    assert own is not None
    assert group.scheme == replace(own, **borne)
    assert {"join:in:0", "join:in:1", "join:in:2", "join:out:0"} <= set(group.slots)


def test_what_enters_or_leaves_a_group_of_another_scheme_is_requantized(concat: Constraints) -> None:
    grouping = solve_groups(with_schemes(concat, {"join:in:1": {"power_of_two": True}}), force_overlap=True)
    assert [cut.slot for cut in grouping.requantizes] == ["graph:out:join", "join:in:0", "join:in:1", "join:in:2"]


def test_without_mixed_schemes_nothing_changes(concat: Constraints) -> None:
    assert "c0:out:0 c1:out:0 c2:out:0 graph:out:join join:in:0 join:in:1 join:in:2 join:out:0" in shared(
        solve_groups(concat, force_overlap=False)
    )


def test_a_prescribed_value_that_the_group_cannot_bear_is_a_conflict(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("MaxPool", "s", "p")
    constraints = constrain(sketch.graph("p"), pack_with(ELEMENTWISE, tmp_path))
    symmetric = {"symmetric": True, "quant_min": -127}
    slots = dict.fromkeys(constraints.slots, symmetric)
    lines = conflicts(with_schemes(constraints, slots))
    assert len(lines) == 1
    assert "offset -128" in lines[0]
    assert "symmetric" in lines[0]


def test_the_cheapest_way_out_prefers_a_requantize_to_an_option_to_a_demand() -> None:
    prices = [
        structural_price(Edge(Kind.TENSOR, "a", "b")),
        structural_price(Edge(Kind.SAME, "a", "b", strength=Strength.PREFERRED)),
        structural_price(Edge(Kind.SAME, "a", "b", strength=Strength.REQUIRED)),
        structural_price(Edge(Kind.SAME, "a", "b", strength=Strength.EXACT)),
    ]
    assert prices == sorted(prices)
    assert prices[-1] == float("inf")


def test_common_schemes_do_not_depend_on_the_order() -> None:
    int8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    others = [
        replace(int8, axis=1),
        replace(int8, symmetric=True, quant_min=-127),
        replace(int8, power_of_two=True, quant_max=126),
    ]
    found = {common_scheme(order) for order in ([int8, *others], [*reversed(others), int8])}
    assert found == {replace(int8, symmetric=True, power_of_two=True, quant_min=-127, quant_max=126)}


class TestPricesOfData:
    """Where there is data, the cheapest way out is the one that adds the least noise."""

    @pytest.fixture
    def chain(self) -> Constraints:
        """Two prescribed outputs that a concat ties."""
        sketch = Sketch()
        sketch.op("Tanh", "x", "t")
        sketch.op("Softmax", "x", "s")
        sketch.op("Concat", "t s", "c")
        return constrain(sketch.graph("c"), load_pack("tflite"))

    def line(self, constraints: Constraints, noise: Mapping[str, float] | None) -> str:
        joins = [("t:out:0", "c:in:0"), ("s:out:0", "c:in:1")]
        asked = None if noise is None else lambda: noise
        with pytest.raises(ConflictError) as caught:
            solve_groups(constraints, force_overlap=False, joins=joins, noise=asked)
        return caught.value.conflicts[0]

    def test_the_quieter_of_two_requantizes_is_the_way_out(self, chain: Constraints) -> None:
        at = {"t": ("t:out:0", "c:in:0"), "s": ("s:out:0", "c:in:1")}
        for quiet, loud in (("s", "t"), ("t", "s")):
            noise = dict.fromkeys(at[quiet], 1e-5) | dict.fromkeys(at[loud], 1e-3)
            line = self.line(chain, noise)
            assert f"requantize between {at[quiet][0]} and {at[quiet][1]}" in line
            assert "adds noise of 1e-05 of the signal's power" in line

    def test_before_any_data_no_noise_is_told(self, chain: Constraints) -> None:
        assert "noise" not in self.line(chain, None)

    def test_noise_is_asked_for_only_in_a_conflict(self, concat: Constraints) -> None:
        def noise() -> Mapping[str, float]:
            raise AssertionError

        solve_groups(concat, force_overlap=False, noise=noise)
