"""A histogram on a logarithmic axis as lines of text, for a terminal of any width.

One line is an octave; the smallest ones of either sign are one line together, so that it fits a screen::

    −4 … −2      ██▍              120
    0            █████            251
    0.5 … 1      ██████████▏      511
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LINES = 10
"""Octaves of one sign that are shown; smaller magnitudes are one line."""

EIGHTHS = " ▏▎▍▌▋▊▉"
FULL = "█"
LEAST_BAR = 4
"""Columns without which a bar says nothing; below it only the figures are shown."""


def bars(octaves: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """The lines of a histogram, each at most `width` columns where that is possible.

    Args:
        octaves: ``low``, ``high`` and ``count``, ascending.

    >>> print(*bars([{"low": 0.0, "high": 0.0, "count": 3}, {"low": 1.0, "high": 2.0, "count": 6}], 24), sep="|")
    0      ███████         3|1 … 2  ██████████████  6
    """
    rows = [(_label(one), one["count"]) for one in _folded(octaves)]
    if not rows:
        return []
    labels, figures = max(len(label) for label, _ in rows), max(len(f"{count:,}") for _, count in rows)
    room, most = width - labels - figures - 4, max(count for _, count in rows)
    if room < LEAST_BAR:
        return [f"{label:<{labels}}  {count:>{figures},}" for label, count in rows]
    return [f"{label:<{labels}}  {_bar(count, most, room):<{room}}  {count:>{figures},}" for label, count in rows]


def _bar(count: int, most: int, room: int) -> str:
    """A bar in eighths of a column; one that is not empty shows at least one of them."""
    eighths = max(count * room * 8 // most, count > 0) if most else 0
    return FULL * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _folded(octaves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same with the smallest magnitudes of each sign in one."""
    negative = [one for one in octaves if one["low"] < 0]
    zeros = [one for one in octaves if one["low"] == one["high"]]
    positive = [one for one in octaves if one["high"] > 0]
    folded = [*negative[:LINES], *_one(negative[LINES:])]
    return [*folded, *zeros, *_one(positive[: max(0, len(positive) - LINES)]), *positive[-LINES:]]


def _one(octaves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if not octaves:
        return []
    count = sum(one["count"] for one in octaves)
    return [{"low": octaves[0]["low"], "high": octaves[-1]["high"], "count": count}]


def _label(octave: Mapping[str, Any]) -> str:
    low, high = octave["low"], octave["high"]
    return "0" if low == high else f"{low:.3g} … {high:.3g}"
