"""What the ops of a model read and make, seen as arithmetic: values and constants, powers, what is left aside."""

from __future__ import annotations

from collections.abc import Iterable

from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op

SCALED = frozenset({"Div", "Mul"})
SHIFTED = frozenset({"Add", "Sub"})

MEANS = frozenset({"GlobalAveragePool", "ReduceMean", "ReduceSum"})
SHAPED = frozenset({"Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"})

_FROM_INPUT_ZERO = MEANS | SHAPED | {"Clip", "Erf", "Pow", "Reciprocal", "Sqrt", "Tanh"}
"""Ops whose other inputs are shapes, axes, bounds and exponents."""


def values_of(op: Op, wiring: Wiring) -> list[str]:
    """The tensors that an op computes with, without constants."""
    names = op.inputs[:1] if op.type in _FROM_INPUT_ZERO else op.inputs
    return [name for name in names if name is not None and not wiring.tensors[name].constant]


def made_by(ops: Iterable[Op]) -> list[str]:
    """The outputs of ops."""
    return [name for op in ops for name in op.outputs if name is not None]


def exponent(op: Op, wiring: Wiring) -> float | None:
    """The exponent of a Pow with one exponent that is known; None for every other op."""
    name = op.inputs[1] if op.type == "Pow" and len(op.inputs) == 2 else None
    values = None if name is None else wiring.tensors[name].values
    return float(values[0]) if values is not None and len(values) == 1 else None
