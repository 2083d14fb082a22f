"""Which ops compute a Gelu together, with an error function or with a hyperbolic tangent.

::

    x ─┬─▶ · 1/√2 ──▶ Erf ──▶ + 1 ──▶ Mul ──▶ · ½ ──▶ y
       └───────────────────────────────▲

    x ─┬─▶ x + 0.044715 · x³ ──▶ · √(2/π) ──▶ Tanh ──▶ + 1 ──▶ · ½ ──▶ Mul ──▶ y
       └────────────────────────────────────────────────────────────────▲

The half may stand anywhere on the way. Half of all values make 1 + Erf next to 0, and x³ grows fast: a grid of 8 bits
for each of them makes more noise than one for y.
"""

from __future__ import annotations

from collections.abc import Mapping

from qgraph.constraints.composites.arithmetic import SCALED, SHIFTED, made_by, values_of
from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op

_ROOTS = frozenset({"Erf", "Tanh"})
_POLYNOMIAL = SCALED | {"Add", "Pow"}
_MOST_OPS = 16


def gelus(wiring: Wiring) -> Mapping[str, str]:
    """Each op that is a part of one, by name, with the x that it is the Gelu of.

    >>> from qgraph.constraints.wiring import wire
    >>> from qgraph.ir.elements import Structure, Tensor
    >>> ops = (
    ...     Op("inner", "Div", "", ("x", "root"), ("i",)),
    ...     Op("error", "Erf", "", ("i",), ("e",)),
    ...     Op("shift", "Add", "", ("e", "one"), ("f",)),
    ...     Op("gate", "Mul", "", ("x", "f"), ("g",)),
    ...     Op("halve", "Mul", "", ("g", "half"), ("y",)),
    ...     Op("residual", "Add", "", ("y", "x"), ("z",)),
    ... )
    >>> constants = ("half", "one", "root")
    >>> tensors = tuple(Tensor(name, "float32", None, constant=name in constants) for name in (*constants, *"efgixyz"))
    >>> gelus(wire(Structure("", "", 17, ops, tensors, ("x",), ("z",))))
    {'error': 'x', 'gate': 'x', 'halve': 'x', 'inner': 'x', 'shift': 'x'}
    """
    found: dict[str, str] = {}
    for op in wiring.ops:
        if op.type in _ROOTS:
            behind = _up_to_product(op, wiring)
            for x, halved in _gated(behind[-1], behind[-2], wiring) if len(behind) > 2 else ():
                before = _polynomial(op, x, wiring)
                if before is not None:
                    found.update((part.name, x) for part in (*before, *behind, *halved, *_halving(behind[-1], wiring)))
                    break
    return dict(sorted(found.items()))


def _up_to_product(root: Op, wiring: Wiring) -> list[Op]:
    """The root, what adds one to it and scales it, and the product that comes next; empty if there is none."""
    ops = [root]
    while len(ops) < _MOST_OPS:
        made = ops[-1].outputs[0]
        readers = _only_readers(made, wiring)
        if made is None or len(readers) != 1:
            return []
        ops += readers
        last = ops[-1]
        alone = values_of(last, wiring) == [made]
        if last.type == "Mul" and not alone:
            return ops if any(op.type in SHIFTED for op in ops) else []
        if not alone or last.type not in SCALED | SHIFTED:
            return []
    return []


def _gated(product: Op, factor: Op, wiring: Wiring) -> list[tuple[str, list[Op]]]:
    """What the other factor can be: x, or x times a constant, with the op that multiplies it."""
    others = [name for name in values_of(product, wiring) if name not in made_by([factor])]
    if len(others) != 1:
        return []
    candidates: list[tuple[str, list[Op]]] = [(others[0], [])]
    maker = wiring.makers.get(others[0])
    if maker is not None and maker.type in SCALED and len(values := values_of(maker, wiring)) == 1:
        candidates.append((values[0], [maker]))
    return candidates


def _polynomial(root: Op, x: str, wiring: Wiring) -> list[Op] | None:
    """The ops from x to the root, if it is a polynomial of x alone."""
    parts: dict[str, Op] = {}
    waiting = values_of(root, wiring)
    while waiting:
        name = waiting.pop()
        maker = wiring.makers.get(name)
        if name == x or (maker is not None and maker.name in parts):
            continue
        if maker is None or maker.type not in _POLYNOMIAL or len(parts) == _MOST_OPS:
            return None
        parts[maker.name] = maker
        waiting += values_of(maker, wiring)
    return list(parts.values())


def _halving(product: Op, wiring: Wiring) -> list[Op]:
    """The op that takes half of the product, if that is all that reads it."""
    made = product.outputs[0]
    readers = _only_readers(made, wiring)
    return [op for op in readers if len(readers) == 1 and op.type in SCALED and values_of(op, wiring) == [made]]


def _only_readers(name: str | None, wiring: Wiring) -> list[Op]:
    """The ops that read a tensor; none if the model returns it."""
    return [] if name is None or name in wiring.outputs else [op for op, _ in wiring.readers[name]]
