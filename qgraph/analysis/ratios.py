"""Hold scales against bounds on their ratios."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from qgraph.analysis.case import Case
from qgraph.analysis.parameters import Parameters
from qgraph.analysis.violation import Violation
from qgraph.constraints.model import Ratio

BOUNDS = (("above", "above"), ("below", "below"), ("at_least", "at least"), ("at_most", "at most"))
"""Fields of a ratio, and how they are said."""


def ratio_violations(ratio: Ratio, case: Case) -> Iterator[Violation]:
    """At most one violation: a ratio that is out of its bounds in some channel; none where a slot is float."""
    above, below = ([case.at(slot)[:1] for slot in side] for side in (ratio.numerator, ratio.denominator))
    if not all(above) or not all(below):
        return
    numerator, denominator = [entry for (entry,) in above], [entry for (entry,) in below]
    wrong = [value for value in _ratios(numerator, denominator) if not _inside(value, ratio)]
    if not wrong:
        return
    worst = max(wrong, key=lambda value: abs(math.log(value)) if value > 0 else math.inf)
    bounds = " and ".join(f"{said} {value:.6g}" for name, said in BOUNDS if (value := getattr(ratio, name)) is not None)
    what = _product(numerator) + (f" over {_product(denominator)}" if denominator else "")
    yield Violation(
        rule=ratio.origin.rule,
        kind="ratio",
        op=ratio.origin.op,
        op_type=ratio.origin.op_type,
        source=ratio.origin.source,
        tensors=(*numerator, *denominator),
        message=f"the scale of {what} is {worst:.6g}, and must be {bounds}",
        repair=f"quantize one of {_names((*numerator, *denominator))} so that the ratio is {bounds}",
    )


def _ratios(numerator: Sequence[Parameters], denominator: Sequence[Parameters]) -> list[float]:
    """The ratio in every channel; a scale per tensor counts in each."""
    channels = max(len(entry.scale) for entry in (*numerator, *denominator))

    def along(entries: Sequence[Parameters], channel: int) -> float:
        return math.prod(entry.scale[channel % len(entry.scale)] for entry in entries)

    return [along(numerator, channel) / along(denominator, channel) for channel in range(channels)]


def _inside(value: float, ratio: Ratio) -> bool:
    return (
        (ratio.above is None or value > ratio.above)
        and (ratio.below is None or value < ratio.below)
        and (ratio.at_least is None or value >= ratio.at_least)
        and (ratio.at_most is None or value <= ratio.at_most)
    )


def _product(entries: Sequence[Parameters]) -> str:
    return " times ".join(entry.name for entry in entries)


def _names(entries: Sequence[Parameters]) -> str:
    return ", ".join(dict.fromkeys(entry.name for entry in entries))
