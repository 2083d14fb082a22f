"""Which ops work on a mask of attention scores: a number so low that the Softmax behind it makes zero of it.

::

    scores ──▶ Add ──▶ Softmax          one scale from −3.4e38 to 10 has a step of 1e36:
    0, −3.4e38 ──┘                      every score becomes 0, and attention the mean of all

So no integers can hold a tensor in which masked and other scores lie side by side, whatever the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qgraph.ir.elements import Op

LOWEST_SCORE = -1000.0
"""A constant that reaches so low is a mask: BERT's is −10000, torch's the lowest float, others' −1e9 or −inf."""

_SOFTMAX = frozenset({"LogSoftmax", "Softmax"})

_CARRIERS = frozenset(
    {
        *("Add", "Concat", "Max", "Min", "Mul", "Sub", "Sum", "Where"),
        *("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
    }
)
"""Ops that a mask is made with, brought into shape, and joined with the scores."""


def masking(ops: Sequence[Op], lowest: Callable[[str], float | None]) -> Mapping[str, str]:
    """The ops that read a mask in front of a Softmax, and that Softmax, each with the reason to leave it in float.

    Only what lies between a Softmax and the next ops in front of it that are no carriers is looked at.

    Args:
        ops: in topological order.
        lowest: the least element of a constant of floats; None for what is none.

    >>> ops = [
    ...     Op("scores", "MatMul", "", ("q", "k"), ("s",)),
    ...     Op("hide", "Add", "", ("s", "m"), ("h",)),
    ...     Op("weigh", "Softmax", "", ("h",), ("w",)),
    ...     Op("shift", "Add", "", ("w", "m"), ("y",)),
    ... ]
    >>> list(masking(ops, {"m": -1e9}.get))
    ['hide', 'weigh']
    """
    ends = [op for op in ops if op.type in _SOFTMAX and op.excluded is None]
    if not ends:
        return {}
    before = _carriers_before(ends, {name: op for op in ops for name in op.outputs if name is not None})
    reasons: dict[str, str] = {}
    depth: dict[str, float] = {}
    for op in ops:
        if op.name not in before:
            continue
        reached = [least for name in op.inputs if name is not None and (least := depth.get(name, lowest(name)))]
        deepest = min(reached, default=0.0)
        if deepest <= LOWEST_SCORE:
            reasons[op.name] = f"no integers hold scores beside its mask of {deepest:.3g}"
            if op.type not in _SOFTMAX:
                depth.update((name, deepest) for name in op.outputs if name is not None)
    return reasons


def _carriers_before(ends: Sequence[Op], makers: Mapping[str, Op]) -> frozenset[str]:
    """The names of these ops and of all carriers from which only carriers lead to one of them."""
    found = {op.name for op in ends}
    waiting = list(ends)
    while waiting:
        for name in waiting.pop().inputs:
            maker = None if name is None else makers.get(name)
            if maker is not None and maker.name not in found and maker.type in _CARRIERS:
                found.add(maker.name)
                waiting.append(maker)
    return frozenset(found)
