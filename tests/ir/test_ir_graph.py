"""The graph keeps every connection of the structure, slot by slot."""

from __future__ import annotations

import pytest

from qgraph.errors import NotFoundError
from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.graph import Graph

OPS = (
    Op("mul", "Mul", "", ("x", "x"), ("m",)),
    Op("clip", "Clip", "", ("m", None, "high"), ("c",)),
    Op("split", "Split", "", ("c",), ("y", None, "z")),
)
TENSORS = tuple(
    Tensor(name, "float32", (2,), constant=name == "high", values=(6.0,) if name == "high" else None)
    for name in ("c", "high", "m", "x", "y", "z")
)


@pytest.fixture
def graph() -> Graph:
    return Graph(Structure("g", "f", 17, OPS, TENSORS, ("x",), ("y", "z")))


def test_one_tensor_read_twice_by_one_op_has_two_edges(graph: Graph) -> None:
    assert graph.nx.number_of_edges(("tensor", "x"), ("op", "mul")) == 2
    assert graph.consumers("x") == [(OPS[0], 0), (OPS[0], 1)]


def test_edge_keys_are_slot_indices_over_omitted_ones(graph: Graph) -> None:
    assert graph.consumers("high") == [(OPS[1], 2)]
    assert graph.producer("z") == (OPS[2], 2)


def test_inputs_and_constants_have_no_producer(graph: Graph) -> None:
    assert graph.producer("x") is None
    assert graph.producer("high") is None


def test_outputs_may_have_no_consumer(graph: Graph) -> None:
    assert graph.consumers("y") == []


def test_ops_and_tensors_come_in_the_order_of_the_structure(graph: Graph) -> None:
    assert list(graph.ops()) == list(OPS)
    assert list(graph.tensors()) == list(TENSORS)
    assert (graph.inputs, graph.outputs) == (("x",), ("y", "z"))


def test_nodes_carry_their_elements(graph: Graph) -> None:
    assert graph.nx.nodes["op", "mul"]["op"] is OPS[0]
    assert graph.nx.nodes["tensor", "high"]["tensor"].values == (6.0,)


def test_an_op_and_a_tensor_may_have_the_same_name() -> None:
    same = Graph(
        Structure("g", "f", 17, (Op("a", "Relu", "", ("x",), ("a",)),), (Tensor("a", "", None),), ("x",), ("a",))
    )
    assert same.op("a").outputs == ("a",)
    assert same.producer("a") == (same.op("a"), 0)


def test_unknown_names_suggest_near_ones(graph: Graph) -> None:
    with pytest.raises(NotFoundError, match=r"unknown op: spli; did you mean split\?"):
        graph.op("spli")
    with pytest.raises(NotFoundError, match=r"unknown tensor: hihg; did you mean high\?"):
        graph.tensor("hihg")


def test_only_floats_can_be_quantized() -> None:
    assert Tensor("t", "bfloat16", None).is_float
    assert not Tensor("t", "int64", None).is_float
    assert not Tensor("t", "", None).is_float
