"""What a target would not like about a run: ratios of scales out of bounds, ops unknown to its pack, unknown types.

::

    Conv: input 0.02 × weight 0.01 / output 4e-9 = 50000        kept: 0 < ratio < 65536
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from qgraph.constraints.model import Constraints, Ratio
from qgraph.constraints.participation import STANDARD_DOMAINS
from qgraph.ir.elements import Structure
from qgraph.solve.run import Finding
from qgraph.tqc import TqcRecord

Scales = tuple[float, ...]


def ratio_findings(ratios: Iterable[Ratio], tqcs: Iterable[TqcRecord]) -> tuple[Finding, ...]:
    """One finding for each bound that is broken, in the order of `ratios`; slots without a scale are not judged."""
    scales = {tqc.slot: tqc.scale for tqc in tqcs if tqc.scale}
    return tuple(_finding(ratio, value) for ratio in ratios if (value := broken(ratio, scales)) is not None)


def unlisted_findings(constraints: Constraints) -> tuple[Finding, ...]:
    """One finding for each type of ops that the pack does not name: what its policy made of them."""
    return tuple(
        Finding("unlisted", "unlisted", "", one.op_type, f"the rule pack {constraints.target}", (), message)
        for one in constraints.unlisted
        for ops in [f"{one.ops} {one.op_type} op{'s' if one.ops > 1 else ''}"]
        for policy in ["quantized without a rule" if one.reason is None else f"left in float: {one.reason}"]
        for message in [f"{ops} that {constraints.target} does not name, {policy}"]
    )


def untyped_findings(structure: Structure) -> tuple[Finding, ...]:
    """One finding for each custom op that makes tensors whose type the model does not tell.

    They may be floats, and nobody quantizes them.
    """
    unknown = {tensor.name for tensor in structure.tensors if not tensor.dtype}
    custom = [op for op in structure.ops if op.domain not in STANDARD_DOMAINS]
    untyped = [(op, [name for name in op.outputs if name in unknown]) for op in custom]
    why = "not quantized, since the model does not tell the type; add its value_info"
    return tuple(
        Finding("untyped", "untyped", op.name, op.type, "the model", (), f"{', '.join(filter(None, names))}: {why}")
        for op, names in untyped
        if names
    )


def broken(ratio: Ratio, scales: Mapping[str, Scales]) -> float | None:
    """The value of a ratio that breaks its bounds, the worst channel's; None where it keeps them or is unknown.

    Args:
        scales: by slot.
    """
    above = [scales.get(slot) for slot in ratio.numerator]
    below = [scales.get(slot) for slot in ratio.denominator]
    if not all(above) or not all(below):
        return None
    channels = max(len(scale) for scale in (*above, *below) if scale)
    values = [
        math.prod(_per_channel(above, channel)) / math.prod(_per_channel(below, channel)) for channel in range(channels)
    ]
    worst = [value for value in values if not _kept(ratio, value)]
    return max(worst, key=abs) if worst else None


def _per_channel(scales: Iterable[Scales | None], channel: int) -> Iterator[float]:
    for scale in scales:
        if scale:
            yield scale[channel % len(scale)]


def _kept(ratio: Ratio, value: float) -> bool:
    return (
        (ratio.above is None or value > ratio.above)
        and (ratio.below is None or value < ratio.below)
        and (ratio.at_least is None or value >= ratio.at_least)
        and (ratio.at_most is None or value <= ratio.at_most)
    )


def bounds(ratio: Ratio) -> str:
    """The bounds in words."""
    said = (("above", ratio.above), ("below", ratio.below), ("at least", ratio.at_least), ("at most", ratio.at_most))
    return " and ".join(f"{word} {bound:g}" for word, bound in said if bound is not None)


def _finding(ratio: Ratio, value: float) -> Finding:
    origin = ratio.origin
    slots = (*ratio.numerator, *ratio.denominator)
    formula = " × ".join(ratio.numerator) + (f" / {' × '.join(ratio.denominator)}" if ratio.denominator else "")
    message = f"the ratio of scales {formula} is {value:.6g}, but must be {bounds(ratio)}"
    return Finding("ratio", origin.rule, origin.op, origin.op_type, origin.source, slots, message)
