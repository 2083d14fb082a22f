"""Explanations of a run as plain dicts, in the shape in which the command line prints them as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qgraph.constraints.blame import Split
from qgraph.constraints.explain import Step
from qgraph.constraints.model import Edge, SlotPlan
from qgraph.store.lookup import Member

Answer = dict[str, Any]

MOST_REASONS = 2
"""That are told in one line."""


def why_not(a: str, b: str, chain: tuple[Step, ...] | None, start: SlotPlan) -> Answer:
    """What keeps two names apart, and what would have to change.

    ``{"a", "b", "shared", "reason", "path": [an edge, and "barrier", "need"], "needed": [{"from", "to", "need"}]}``

    Args:
        chain: as `qgraph.constraints.explain.why_not` found it.
        start: the slot that `a` means.
    """
    steps = [step_as_json(step) for step in chain or ()]
    cuts = list(dict.fromkeys(step["barrier"] for step in steps if step["barrier"]))
    shared = chain is not None and not cuts
    reason = f"{a} and {b} share" if shared else f"no rule, tensor or op leads from {a} to {b}"
    if cuts:
        told = f": {'; '.join(cuts)}" if len(cuts) <= MOST_REASONS else f" in {len(cuts)} places, first: {cuts[0]}"
        reason = f"{a} and {b} are kept apart{told}"
    elif shared and start.scheme is None:  # the chain is empty: both are this one slot
        shared, reason = False, f"{a} is not quantized: {start.reason}"
    needed = [{"from": s["from"], "to": s["to"], "need": s["need"]} for s in steps if s["barrier"]]
    return {"a": a, "b": b, "shared": shared, "reason": reason, "path": steps, "needed": needed}


def blame(group: str, run: str, splits: Iterable[Split], members: Sequence[Member]) -> Answer:
    """``{"group", "run", "price_db", "tensors", "cuts": [{"price_db", "edges": [an edge], "parts": [[tensor]]}]}``."""
    on_tensor = {one.slot: one.tensor for one in members}
    cuts = [
        {
            "price_db": split.price_db,
            "edges": [{**edge_as_json(edge), "strength": edge.strength and str(edge.strength)} for edge in split.edges],
            "parts": [_tensors(part, on_tensor) for part in split.parts],
        }
        for split in splits
    ]
    return {
        "group": group,
        "run": run,
        "price_db": _dearest(members),
        "tensors": _tensors(on_tensor, on_tensor),
        "cuts": cuts,
    }


def cascade(
    op: str,
    op_type: str,
    run: str,
    ties: Iterable[Mapping[str, Any]],
    parts: Mapping[str, tuple[tuple[str, ...], ...]],
    members: Mapping[str, Sequence[Member]],
) -> Answer:
    """What one op ties, and what each group would fall into without those ties.

    ``{"op", "op_type", "run", "ties": [{"rule", "a", "b", "strength", "source", "group"}],
    "groups": [{"group", "price_db", "tensors", "parts": [{"tensors", "slots", "price_db"}]}]}``; a part's price is
    the largest that a tensor in it pays, by which it can be seen who suffers from the op's ties.
    """
    groups = []
    for group, found in parts.items():
        by_slot = {one.slot: one for one in members[group]}
        on_tensor = {slot: one.tensor for slot, one in by_slot.items()}
        fallen = [
            {
                "tensors": _tensors(part, on_tensor),
                "slots": list(part),
                "price_db": _dearest(by_slot[slot] for slot in part),
            }
            for part in found
        ]
        price = _dearest(by_slot.values())
        groups.append({"group": group, "price_db": price, "tensors": _tensors(on_tensor, on_tensor), "parts": fallen})
    return {"op": op, "op_type": op_type, "run": run, "ties": [dict(tie) for tie in ties], "groups": groups}


def _tensors(slots: Iterable[str], on_tensor: Mapping[str, str]) -> list[str]:
    return sorted({on_tensor[slot] for slot in slots})


def _dearest(members: Iterable[Member]) -> float | None:
    return max((one.price_db for one in members if one.price_db is not None), default=None)


def step_as_json(step: Step) -> Answer:
    """One step of a chain that may be cut: an edge, what keeps its ends apart, and what is needed (None if nothing)."""
    edge = {"kind": None, "rule": None, "op": None, "op_type": None, "source": None}
    if step.edge is not None:
        edge = edge_as_json(step.edge)
    return {**edge, "from": step.a, "to": step.b, "barrier": step.barrier, "need": step.need}


def edge_as_json(edge: Edge) -> Answer:
    """One step of a chain, with the keys of the command line's JSON."""
    return {
        "kind": str(edge.kind),
        "rule": edge.rule,
        "op": edge.op,
        "op_type": edge.op_type,
        "from": edge.a,
        "to": edge.b,
        "source": edge.source,
    }
