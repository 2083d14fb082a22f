"""Which ops compute a normalization together: a layer, instance or RMS normalization that was written as several ops.

::

    x ──▶ mean ──▶ Sub ──▶ Mul(d, d) ──▶ mean ──▶ + ε ──▶ Sqrt ──┐
    └───────────────▲ └──────────────────────────────────────▶ Div ──▶ · γ ──▶ + β ──▶ y

All of them are found, from the first mean to ``+ β``: ``x`` is what is normalized, ``y`` comes out. Also without the
mean (RMS), with E[x²] − E[x]² for the variance, sums instead of means, a reciprocal, and other shapes on the way.

No grid of 8 bits holds squares that are far apart, and what is left of a difference of two of their means is noise.
"""

from __future__ import annotations

from collections.abc import Mapping

from qgraph.constraints.composites.arithmetic import MEANS, SCALED, SHAPED, SHIFTED, exponent, made_by, values_of
from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op

_BOUNDED = frozenset({"Clip", "Max"})

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
                behind = _applied(op, {entry, *made_by(before)}, wiring)
                if behind:
                    found.update((part.name, entry) for part in (*before, op, *behind))
    return dict(sorted(found.items()))


def _deviation(root: Op, wiring: Wiring) -> tuple[str, list[Op]] | None:
    """What is normalized, and the ops from there to a root of the mean of squares; None if the root is another one."""
    entries: set[str] = set()
    parts: dict[str, Op] = {}
    waiting = [(name, False) for name in values_of(root, wiring)]
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
        elif maker.type in MEANS | SHAPED | SCALED | SHIFTED | _BOUNDED:
            waiting += [(value, averaged or maker.type in MEANS) for value in values_of(maker, wiring)]
        else:
            return None
    return (entries.pop(), list(parts.values())) if len(entries) == 1 else None


def _applied(root: Op, centred: set[str], wiring: Wiring) -> list[Op]:
    """The ops behind a root, up to where what it divides, one of `centred`, is scaled and shifted by constants."""
    spread, divided = {*made_by([root])}, set[str]()
    parts: dict[str, Op] = {}
    waiting = [*made_by([root])]
    while waiting and len(parts) < _MOST_OPS:
        for op, _ in wiring.readers[waiting.pop()]:
            values = set(values_of(op, wiring))
            if op.name in parts:
                continue
            if op.type in SCALED and values & spread and values & centred and values <= spread | centred:
                divided.update(made_by([op]))
            elif op.type in SHAPED | SCALED | {"Reciprocal"} and values <= spread:
                spread.update(made_by([op]))
            elif values <= divided and (op.type in SHIFTED or (op.type in SCALED and len(values) == 1)):
                divided.update(made_by([op]))
            else:
                continue
            parts[op.name] = op
            waiting += made_by([op])
    return list(parts.values()) if divided else []


def _mean(name: str, wiring: Wiring) -> tuple[str, list[Op]] | None:
    """The tensor of which another is the mean, times a constant and in another shape, and the ops between them."""
    ops: list[Op] = []
    maker = wiring.makers.get(name)
    while maker is not None and len(ops) < _MOST_OPS:
        ops.append(maker)
        values = values_of(maker, wiring)
        if len(values) != 1 or maker.type not in MEANS | SHAPED | SCALED:
            return None
        if maker.type in MEANS:
            return values[0], ops
        maker = wiring.makers.get(values[0])
    return None


def _distance(op: Op, entry: str, wiring: Wiring) -> list[Op]:
    """The op and those that make the mean, if it is the distance of a tensor from its mean; else none."""
    values = values_of(op, wiring) if op.type == "Sub" else []
    mean = _mean(values[1], wiring) if len(values) == 2 and values[0] == entry else None
    return [op, *mean[1]] if mean is not None and mean[0] == entry else []


def _centre(name: str, wiring: Wiring) -> str:
    """The tensor of which another is the distance from its mean, or that other itself."""
    maker = wiring.makers.get(name)
    entry = maker.inputs[0] if maker is not None and maker.type == "Sub" else None
    return entry if entry is not None and maker is not None and _distance(maker, entry, wiring) else name


def _is_root(op: Op, wiring: Wiring) -> bool:
    return op.type == "Sqrt" or exponent(op, wiring) in (0.5, -0.5)


def _squared(op: Op, wiring: Wiring) -> str | None:
    """What the op squares, or None."""
    if (op.type == "Mul" and len(set(op.inputs)) == 1) or exponent(op, wiring) == 2.0:
        return op.inputs[0]
    return None
