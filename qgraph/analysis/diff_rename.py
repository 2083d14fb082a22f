"""A run of one version of a model under the names of another version, so that both can be compared slot by slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qgraph.analysis.diff_match import Matching
from qgraph.constraints.model import Edge, Group, Grouping, Requantize
from qgraph.ir import slots
from qgraph.ir.elements import Structure
from qgraph.solve.run import RunData
from qgraph.tqc import TqcRecord

IN_B = " (in b)"
"""Marks what has no counterpart in a, but the name of something else there."""


def renamed(run: RunData, matching: Matching, a: Structure, b: Structure) -> RunData:
    """The run with the names of a where there is a counterpart; group ids stay.

    Args:
        run: of b.
    """
    tensors = _names(matching.tensors, (t.name for t in a.tensors), (t.name for t in b.tensors))
    ops = _names(matching.ops, (op.name for op in a.ops), (op.name for op in b.ops))

    def slot(name: str) -> str:
        op, side, key = slots.parts(name)
        if op is None:
            return f"graph:{side}:{tensors.get(key, key)}"
        return f"{ops.get(op, op)}:{side}:{key}"

    def record(one: TqcRecord) -> TqcRecord:
        master = None if one.master is None else slot(one.master)
        return replace(one, slot=slot(one.slot), tensor=tensors.get(one.tensor, one.tensor), master=master)

    def group(one: Group) -> Group:
        named = tuple(sorted(tensors.get(name, name) for name in one.tensors))
        return replace(one, slots=tuple(sorted(map(slot, one.slots))), tensors=named, master=slot(one.master))

    def requantize(one: Requantize) -> Requantize:
        return Requantize(tensors.get(one.tensor, one.tensor), slot(one.slot), slot(one.producer))

    def edge(one: Edge) -> Edge:
        return replace(one, a=slot(one.a), b=slot(one.b), op=None if one.op is None else ops.get(one.op, one.op))

    grouping = Grouping(
        tuple(map(group, run.grouping.groups)),
        tuple(sorted(map(requantize, run.grouping.requantizes), key=lambda one: one.slot)),
        tuple(map(edge, run.grouping.joined)),
    )
    prices = {slot(name): price for name, price in run.requantize_price_db.items()}
    records = tuple(sorted(map(record, run.tqcs), key=lambda one: one.slot))
    return replace(run, tqcs=records, grouping=grouping, requantize_price_db=prices)


def _names(counterparts: Mapping[str, str], names_a: Iterable[str], names_b: Iterable[str]) -> dict[str, str]:
    taken = set(names_a)
    alone = (name for name in names_b if name not in counterparts)
    return {**counterparts, **{name: f"{name}{IN_B}" for name in alone if name in taken}}
