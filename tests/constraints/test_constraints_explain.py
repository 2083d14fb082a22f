from pathlib import Path

from constraint_graphs import ELEMENTWISE, Sketch, pack_with, tflite

from qgraph.constraints.explain import Barrier, barriers, why, why_not
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Edge, Grouping, Kind
from qgraph.constraints.rules import constrain


def diamond(folder: Path) -> tuple[Constraints, Grouping]:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "z", "c2")
    sketch.op("Add", "c1 c2", "a1")
    sketch.op("Conv", "c2", "c3")
    constraints = constrain(sketch.graph(), pack_with(ELEMENTWISE, folder))
    return constraints, solve_groups(constraints, force_overlap=False)


def test_why_gives_each_step_its_rule_op_and_source(tmp_path: Path) -> None:
    _, grouping = diamond(tmp_path)
    chain = why(grouping.joined, "c1:out:0", "a1:in:1")
    assert chain is not None
    along, across = chain
    assert along == Edge(Kind.TENSOR, "c1:out:0", "a1:in:0")
    assert (across.a, across.b, across.rule, across.op, across.op_type, across.source) == (
        ("a1:in:0", "a1:in:1", "elementwise", "a1", "Add", "the test")
    )


def test_why_is_the_same_backwards(tmp_path: Path) -> None:
    _, grouping = diamond(tmp_path)
    there, back = (why(grouping.joined, *ends) for ends in (("c1:out:0", "a1:in:1"), ("a1:in:1", "c1:out:0")))
    assert there is not None
    assert back is not None
    assert [(edge.a, edge.b) for edge in back] == [(edge.b, edge.a) for edge in reversed(there)]


def test_why_of_a_slot_with_itself_is_empty_and_across_groups_nothing(tmp_path: Path) -> None:
    _, grouping = diamond(tmp_path)
    assert why(grouping.joined, "c1:out:0", "c1:out:0") == ()
    assert why(grouping.joined, "c1:out:0", "c3:in:0") is None


def test_why_takes_the_shortest_chain_and_ties_do_not_depend_on_the_order_of_edges() -> None:
    edges = [Edge(Kind.SAME, a, b) for a, b in ("az", "zq", "qe", "ab", "bd", "ac", "cd", "de")]
    for given in (edges, edges[::-1]):
        chain = why(given, "a", "e")
        assert chain is not None
        assert "".join(edge.b for edge in chain) == "bde"


def test_why_not_names_the_requantize(tmp_path: Path) -> None:
    constraints, grouping = diamond(tmp_path)
    chain = why_not(grouping.joined, barriers(constraints.slots.values(), grouping, {}), "c1:out:0", "c3:in:0")
    assert chain is not None
    assert [(step.a, step.b) for step in chain if step.barrier] == [("a1:in:1", "c2:out:0")]
    (barrier,) = (step.barrier for step in chain if step.barrier)
    assert "foreign" in barrier


def test_why_not_names_fixed_parameters() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("Conv", "y", "c")
    sketch.op("Concat", "s c", "join", axis=1)
    constraints = tflite(sketch)
    grouping = solve_groups(constraints, force_overlap=True)
    chain = why_not(grouping.joined, barriers(constraints.slots.values(), grouping, {}), "s:out:0", "join:out:0")
    assert chain is not None
    assert chain[0].barrier is not None
    assert "unit_interval prescribes at s:out:0" in chain[0].barrier
    assert chain[1].barrier is None


def test_why_not_leads_over_float_ops() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Div", "c y", "d")
    sketch.op("Conv", "d", "e")
    constraints = tflite(sketch)
    grouping = solve_groups(constraints, force_overlap=True)
    chain = why_not(grouping.joined, barriers(constraints.slots.values(), grouping, {}), "c:out:0", "e:in:0")
    assert chain is not None
    assert [(step.a, step.b, bool(step.barrier)) for step in chain] == [
        ("c:out:0", "d:in:0", True),
        ("d:in:0", "d:out:0", True),
        ("d:out:0", "e:in:0", False),
    ]
    assert all("float op d (Div)" in step.barrier for step in chain if step.barrier)


def test_why_not_names_the_rule_that_is_missing() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    constraints = tflite(sketch, "c")
    grouping = solve_groups(constraints, force_overlap=True)
    between = barriers(constraints.slots.values(), grouping, {"c": "Conv"})
    chain = why_not(grouping.joined, between, "graph:in:x", "c:out:0")
    assert chain is not None
    assert [(step.a, step.b, step.need) for step in chain] == [
        ("graph:in:x", "c:in:0", None),
        ("c:in:0", "c:out:0", "a rule `same` for Conv that ties c:in:0 and c:out:0"),
    ]


def test_why_not_takes_a_longer_way_with_fewer_cuts() -> None:
    edges = [Edge(Kind.SAME, a, b) for a, b in ("bc", "cd", "de")]
    between = [Barrier("a", "b", None, "one", ""), Barrier("a", "x", None, "two", ""), Barrier("x", "e", None, "", "")]
    chain = why_not(edges, between, "a", "e")
    assert chain is not None
    assert "".join(step.b for step in chain) == "bcde"


def test_why_not_finds_nothing_between_parts_of_a_model_that_never_meet() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Conv", "y", "d")
    constraints = tflite(sketch, "c d")
    grouping = solve_groups(constraints, force_overlap=True)
    between = barriers(constraints.slots.values(), grouping, {})
    assert why_not(grouping.joined, between, "graph:in:x", "d:out:0") is None
