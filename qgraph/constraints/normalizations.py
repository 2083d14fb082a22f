"""Which ops compute a normalization together: a layer, instance or RMS normalization that was written as several ops.

::

    x ──▶ mean ──▶ Sub ──▶ Mul(d, d) ──▶ mean ──▶ + ε ──▶ Sqrt ──┐
    └───────────────▲ └──────────────────────────────────────▶ Div ──▶ · γ ──▶ + β ──▶ y

All of them are found, from the first mean to ``+ β``: ``x`` is what is normalized, ``y`` comes out. Also without the
mean (RMS), with E[x²] − E[x]² for the variance, sums instead of means, a reciprocal, and other shapes on the way.

No grid of 8 bits holds squares that are far apart, and what is left of a difference of two of their means is noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op

_MEANS = frozenset({"GlobalAveragePool", "ReduceMean", "ReduceSum"})
_SHAPED = frozenset({"Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_SCALED = frozenset({"Div", "Mul"})
_SHIFTED = frozenset({"Add", "Sub"})
_BOUNDED = frozenset({"Clip", "Max"})
_FROM_INPUT_ZERO = _SHAPED | _MEANS | {"Clip", "Pow", "Reciprocal", "Sqrt"}
"""Ops whose other inputs are shapes, axes and bounds."""

_MOST_OPS = 64
"""No normalization has as many, so that a search through ops that are none ends."""


def normalizations(wiring: Wiring) -> Mapping[str, str]:
    """Each op that is a part of one, by name, with the tensor that is normalized.

    >>> from qgraph.ir.elements import Structure, Tensor
    >>> ops = (
    ...     Op("square", "Mul", "", ("x", "x"), ("s",)),
    ...     Op("mean", "ReduceMean", "", ("s",), ("m",)),
    ...     Op("root", "Sqrt", "", ("m",), ("r",)),
    ...     Op("divide", "Div", "", ("x", "r"), ("n",)),
    ...     Op("scale", "Mul", "", ("n", "gamma"), ("y",)),
    ...     Op("add", "Add", "", ("y", "x"), ("z",)),
    ... )
    >>> tensors = [Tensor(name, "float32", None, constant=name == "gamma") for name in ("gamma", *"mnrsxyz")]
    >>> from qgraph.constraints.wiring import wire
    >>> list(normalizations(wire(Structure("", "", 17, ops, tuple(tensors), ("x",), ("z",)))))
    ['divide', 'mean', 'root', 'scale', 'square']
    """
    found: dict[str, str] = {}
    for op in wiring.ops:
        if _is_root(op, wiring):
            deviation = _deviation(op, wiring)
            if deviation is not None:
                entry, before = deviation
                before += [part for reader, _ in wiring.readers[entry] for part in _distance(reader, entry, wiring)]
                behind = _applied(op, {entry, *_made(before)}, wiring)
                if behind:
                    found.update((part.name, entry) for part in (*before, op, *behind))
    return dict(sorted(found.items()))


def _deviation(root: Op, wiring: Wiring) -> tuple[str, list[Op]] | None:
    """What is normalized, and the ops from there to a root of the mean of squares; None if the root is another one."""
    entries: set[str] = set()
    parts: dict[str, Op] = {}
    waiting = [(name, False) for name in _values(root, wiring)]
    seen: set[tuple[str, bool]] = set()
    while waiting:
        name, averaged = waiting.pop()
        maker = wiring.makers.get(name)
        if (name, averaged) in seen:
            continue
        seen.add((name, averaged))
        if maker is None or len(seen) > _MOST_OPS:
            return None
        parts[maker.name] = maker
        squared = _squared(maker, wiring)
        if squared is not None:
            mean = _mean(squared, wiring)
            if mean is None and not averaged:
                return None
            entries.add(_centre(squared, wiring) if mean is None else mean[0])
            parts.update((op.name, op) for op in (mean[1] if mean is not None else ()))
        elif maker.type in _MEANS | _SHAPED | _SCALED | _SHIFTED | _BOUNDED:
            waiting += [(value, averaged or maker.type in _MEANS) for value in _values(maker, wiring)]
        else:
            return None
    return (entries.pop(), list(parts.values())) if len(entries) == 1 else None


def _applied(root: Op, centred: set[str], wiring: Wiring) -> list[Op]:
    """The ops behind a root, up to where what it divides, one of `centred`, is scaled and shifted by constants."""
    spread, divided = {*_made([root])}, set[str]()
    parts: dict[str, Op] = {}
    waiting = [*_made([root])]
    while waiting and len(parts) < _MOST_OPS:
        for op, _ in wiring.readers[waiting.pop()]:
            values = set(_values(op, wiring))
            if op.name in parts:
                continue
            if op.type in _SCALED and values & spread and values & centred and values <= spread | centred:
                divided.update(_made([op]))
            elif op.type in _SHAPED | _SCALED | {"Reciprocal"} and values <= spread:
                spread.update(_made([op]))
            elif values <= divided and (op.type in _SHIFTED or (op.type in _SCALED and len(values) == 1)):
                divided.update(_made([op]))
            else:
                continue
            parts[op.name] = op
            waiting += _made([op])
    return list(parts.values()) if divided else []


def _mean(name: str, wiring: Wiring) -> tuple[str, list[Op]] | None:
    """The tensor of which another is the mean, times a constant and in another shape, and the ops between them."""
    ops: list[Op] = []
    maker = wiring.makers.get(name)
    while maker is not None and len(ops) < _MOST_OPS:
        ops.append(maker)
        values = list(_values(maker, wiring))
        if len(values) != 1 or maker.type not in _MEANS | _SHAPED | _SCALED:
            return None
        if maker.type in _MEANS:
            return values[0], ops
        maker = wiring.makers.get(values[0])
    return None


def _distance(op: Op, entry: str, wiring: Wiring) -> list[Op]:
    """The op and those that make the mean, if it is the distance of a tensor from its mean; else none."""
    values = list(_values(op, wiring)) if op.type == "Sub" else []
    mean = _mean(values[1], wiring) if len(values) == 2 and values[0] == entry else None
    return [op, *mean[1]] if mean is not None and mean[0] == entry else []


def _centre(name: str, wiring: Wiring) -> str:
    """The tensor of which another is the distance from its mean, or that other itself."""
    maker = wiring.makers.get(name)
    entry = maker.inputs[0] if maker is not None and maker.type == "Sub" else None
    return entry if entry is not None and maker is not None and _distance(maker, entry, wiring) else name


def _is_root(op: Op, wiring: Wiring) -> bool:
    return op.type == "Sqrt" or (op.type == "Pow" and _exponent(op, wiring) in (0.5, -0.5))


def _squared(op: Op, wiring: Wiring) -> str | None:
    """What the op squares, or None."""
    if (op.type == "Mul" and op.inputs[0] == op.inputs[1]) or (op.type == "Pow" and _exponent(op, wiring) == 2.0):
        return op.inputs[0]
    return None


def _exponent(op: Op, wiring: Wiring) -> float | None:
    name = op.inputs[1]
    values = None if name is None else wiring.tensors[name].values
    return float(values[0]) if values is not None and len(values) == 1 else None


def _values(op: Op, wiring: Wiring) -> Iterator[str]:
    """The inputs that are no constants, shapes, axes or bounds."""
    names = op.inputs[:1] if op.type in _FROM_INPUT_ZERO else op.inputs
    return (name for name in names if name is not None and not wiring.tensors[name].constant)


def _made(ops: list[Op]) -> list[str]:
    return [name for op in ops for name in op.outputs if name is not None]
