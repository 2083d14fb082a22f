"""When a difference between two runs is too much: conditions such as ``damage_db>1``, for CI.

A condition is ``MEASURE OPERATOR NUMBER``; several stand in several options or between commas, and the diff fails if
any of them holds. `MEASURES` lists the measures; the operators are ``>``, ``>=``, ``<``, ``<=``, ``==``, ``!=``.

>>> condition("splits > 0").measure, condition("damage_db>=1.5").bound
('splits', 1.5)
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qgraph.analysis.diff import Diff
from qgraph.errors import NotFoundError, UsageError
from qgraph.tqc import QuantizationState

OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
)

MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "damage_db": "the largest predicted damage of a tensor, in dB; 0 where none got worse",
        "unknown_damage": "tensors with another scale or offset whose damage is not known",
        "scales": "tensors with another scale or offset",
        "ratio": "the largest ratio between two scales of a tensor, the larger over the smaller; 1 where all are equal",
        "splits": "groups of a that are several in b",
        "merges": "groups of b that are several in a",
        "states": "tensors in another state",
        "floats": "tensors that a quantizes and b leaves float",
        "requantizes": "requantizes that b has more than a",
        "settings": "settings that differ",
        "provenance": "other things that differ: model, data, versions",
        "renamed": "tensors with another name",
        "added": "tensors that only b has",
        "removed": "tensors that only a has",
    }
)

_CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a measure must not be.

    Attributes:
        text: as it was given.
    """

    text: str
    measure: str
    operator: str
    bound: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A condition that holds, and the value that makes it hold."""

    condition: str
    value: float


def conditions(texts: Iterable[str]) -> tuple[Condition, ...]:
    """Read conditions, several in a text between commas; raises as `condition`."""
    return tuple(condition(part) for text in texts for part in text.split(","))


def condition(text: str) -> Condition:
    """Read one condition.

    Raises:
        UsageError: it is none.
        NotFoundError: no such measure.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError("not a condition", text.strip() or "nothing", "write one as 'damage_db>1' or 'splits>0'")
    measure, comparison, number = found.groups()
    if measure not in MEASURES:
        raise NotFoundError.among("measure of a diff", measure, MEASURES, f"use one of {', '.join(MEASURES)}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise UsageError("not a number", f"{number} in {text.strip()}", "write a condition as 'damage_db>1'")
    return Condition(text.strip(), measure, comparison, bound)


def failures(diff: Diff, wanted: Iterable[Condition]) -> tuple[Failure, ...]:
    """The conditions that hold, in the order in which they were given."""
    found = measures(diff)
    return tuple(
        Failure(one.text, found[one.measure])
        for one in wanted
        if OPERATORS[one.operator](found[one.measure], one.bound)
    )


def measures(diff: Diff) -> dict[str, float]:
    """All `MEASURES` of a diff."""
    damages = [change.damage_db for change in diff.scales if change.damage_db is not None]
    sides = Counter(side for one in diff.requantize for side, has in (("a", one.a), ("b", one.b)) if has is not None)
    left = QuantizationState.FP32.value
    return {
        "damage_db": max([0.0, *damages]),
        "unknown_damage": sum(change.damage_db is None for change in diff.scales),
        "scales": len(diff.scales),
        "ratio": max(
            [1.0, *(either for change in diff.scales for one in _all(change.ratio) for either in (one, 1 / one))]
        ),
        "splits": len(diff.groups.split),
        "merges": len(diff.groups.merged),
        "states": len(diff.states),
        "floats": sum(one.b == left and one.a not in (None, left) for one in diff.states),
        "requantizes": max(0, sides["b"] - sides["a"]),
        "settings": len(diff.settings),
        "provenance": len(diff.provenance),
        "renamed": len(diff.renamed),
        "added": len(diff.added),
        "removed": len(diff.removed),
    }


def _all(ratio: float | tuple[float, ...] | None) -> tuple[float, ...]:
    return () if ratio is None else ratio if isinstance(ratio, tuple) else (ratio,)
