"""A slot's name can be taken apart into what it was made of, whatever the names in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qgraph.ir.slots import (
    SlotParts,
    graph_constant,
    graph_input,
    graph_output,
    input_slot,
    output_slot,
    parts,
)

tensors = st.text()
ops = st.text(min_size=1).filter(lambda name: name != "graph" and not name.startswith("graph:"))
indices = st.integers(0, 1000)


@given(ops, indices)
def test_slots_of_ops_come_apart(op: str, index: int) -> None:
    assert parts(input_slot(op, index)) == SlotParts(op, "in", str(index))
    assert parts(output_slot(op, index)) == SlotParts(op, "out", str(index))


@given(tensors)
def test_slots_of_the_graph_come_apart(tensor: str) -> None:
    assert parts(graph_input(tensor)) == SlotParts(None, "in", tensor)
    assert parts(graph_output(tensor)) == SlotParts(None, "out", tensor)
    assert parts(graph_constant(tensor)) == SlotParts(None, "const", tensor)


@given(ops, ops, indices, tensors)
def test_different_places_have_different_names(op: str, other: str, index: int, tensor: str) -> None:
    names = [input_slot(op, index), output_slot(op, index), graph_input(tensor), graph_output(tensor)]
    assert len({*names, graph_constant(tensor)}) == 5
    if op != other:
        assert input_slot(op, index) != input_slot(other, index)
