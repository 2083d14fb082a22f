"""``force_overlap="auto"`` joins what gains, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from constraint_graphs import ELEMENTWISE, Sketch, pack_with, requantized
from hypothesis import given
from hypothesis import strategies as st
from test_constraints_properties import members, pack, shuffled, structures

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Group, Requantize
from qgraph.constraints.overlap import join_what_gains
from qgraph.constraints.rules import constrain
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph


class Ranges:
    """Costs as if each tensor had a range of its own and a group the largest: the square of their ratio, less one."""

    def __init__(self, ranges: Mapping[str, float], rounding: float) -> None:
        self.ranges, self.rounding = ranges, rounding
        self.solved: list[str] = []

    def widest(self, group: Group) -> float:
        return max((self.ranges.get(tensor, 1.0) for tensor in group.tensors), default=1.0)

    def noise(self, groups: Sequence[Group], /) -> list[float]:
        self.solved += [group.id for group in groups]
        return [
            sum((self.widest(group) / self.ranges.get(tensor, 1.0)) ** 2 - 1 for tensor in group.tensors)
            for group in groups
        ]

    def requantizing(self, tasks: Sequence[tuple[Requantize, Group, Group]], /) -> list[float]:
        return [
            self.rounding * (1 + max(0.0, self.widest(reads) / self.widest(makes) - 1)) for _, makes, reads in tasks
        ]


def total(constraints: Constraints, costs: Ranges, groups: Sequence[Group], cuts: Sequence[Requantize]) -> float:
    home = {slot: group for group in groups for slot in group.slots}
    values = [cut for cut in cuts if constraints.slots[cut.producer].role in ("activation", "constant")]
    tasks = [(cut, home[cut.producer], home[cut.slot]) for cut in values]  # weights are solved apart
    return sum(costs.noise(groups)) + sum(costs.requantizing(tasks))


def diamond(folder: Path) -> Constraints:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "z", "c2")
    sketch.op("Add", "c1 c2", "a1")
    sketch.op("Conv", "c2", "c3")
    return constrain(sketch.graph(), pack_with(ELEMENTWISE, folder))


def test_equal_ranges_are_joined_and_unequal_ones_are_not(tmp_path: Path) -> None:
    constraints = diamond(tmp_path)
    apart = solve_groups(constraints, force_overlap=False)
    for narrow, left in ((1.0, []), (0.001, ["a1:in:1"])):
        found = join_what_gains(constraints, apart, Ranges({"c1": 1.0, "c2": narrow}, 0.5))
        assert requantized(found.grouping) == left
        assert (found.gain > 0) == (not left)
        assert [cut.slot for cut in found.joined] == (["a1:in:1"] if not left else [])


def chain(folder: Path) -> Constraints:
    """Three adds whose second inputs all fan out, one behind the other."""
    sketch = Sketch()
    for number in range(3):
        sketch.op("Conv", f"x{number}", f"c{number}")
        sketch.op("Conv", f"y{number}", f"d{number}")
        sketch.op("Add", f"c{number} d{number}", f"a{number}")
    for number in range(2):
        sketch.op("Add", f"d{number} d{number + 1}", f"b{number}")
    return constrain(sketch.graph("a0 a1 a2 b0 b1"), pack_with(ELEMENTWISE, folder))


def test_only_the_groups_that_a_join_touches_are_priced_again(tmp_path: Path) -> None:
    constraints = chain(tmp_path)
    apart = solve_groups(constraints, force_overlap=False)
    assert len(apart.requantizes) > 3
    costs = Ranges({}, 0.5)
    found = join_what_gains(constraints, apart, costs)
    assert requantized(found.grouping) == []
    joins = len(apart.groups) - len(found.grouping.groups)
    assert joins >= 3
    # Every pair at the start, and after each join the few around it; not all pairs after each.
    assert len(set(costs.solved)) < 4 * len(apart.requantizes)


costs = st.builds(
    Ranges,
    st.dictionaries(st.sampled_from([f"t{number}" for number in range(14)]), st.sampled_from([0.1, 1.0, 1.5, 10.0])),
    st.sampled_from([0.0, 0.1, 1.0]),
)


@given(structures(), costs, st.integers())
def test_auto_lies_between_false_and_true_and_is_never_noisier_than_false(
    structure: Structure, priced: Ranges, seed: int
) -> None:
    constraints = constrain(Graph(structure), pack())
    apart = solve_groups(constraints, force_overlap=False)
    found = join_what_gains(constraints, apart, priced)
    auto, whole = members(found.grouping), members(solve_groups(constraints, force_overlap=True))
    assert all(any(group <= other for other in auto) for group in members(apart))
    assert all(any(group <= other for other in whole) for group in auto)
    before = total(constraints, priced, apart.groups, apart.requantizes)
    after = total(constraints, priced, found.grouping.groups, found.grouping.requantizes)
    assert after <= before + 1e-9
    assert abs((before - after) - found.gain) < 1e-6
    assert join_what_gains(shuffled(constraints, seed), apart, priced) == found
