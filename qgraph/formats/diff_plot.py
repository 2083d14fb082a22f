"""Two runs in a picture: the noise of every tensor in both, and what got worst and best. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qgraph.formats.plot import new_figure, save

SIZE_INCHES = (12.0, 6.0)
MOST_BARS = 30
LONGEST_NAME = 40
SAME_DB = 0.05
"""A smaller difference is shown as none: tables round to 0.1 dB."""


@dataclass(frozen=True, slots=True)
class Point:
    """A tensor with its noise in both runs, in dB."""

    tensor: str
    a: float
    b: float

    @property
    def damage(self) -> float:
        """How much worse b is, in dB."""
        return self.b - self.a


def draw_diff(path: Path, names: tuple[str, str], points: Sequence[Point]) -> None:
    """Draw two runs: left what each tensor's noise is in a and in b, right the largest differences.

    Args:
        names: of the runs.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    figure = new_figure(path, SIZE_INCHES)
    left, right = figure.subplots(1, 2)
    for label, color, chosen in (
        ("worse", "tab:red", [one for one in points if one.damage > SAME_DB]),
        ("better", "tab:green", [one for one in points if one.damage < -SAME_DB]),
        ("as before", "tab:gray", [one for one in points if abs(one.damage) <= SAME_DB]),
    ):
        count = f"{len(chosen)} {label}"
        left.scatter([one.a for one in chosen], [one.b for one in chosen], s=12, color=color, label=count)
    if points:
        ends = [min(min(one.a, one.b) for one in points), max(max(one.a, one.b) for one in points)]
        left.plot(ends, ends, color="black", linewidth=0.5)
    a, b = names
    left.set(xlabel=f"noise in {a}, dB", ylabel=f"noise in {b}, dB")
    left.set_title(f"{len(points)} tensors whose noise both runs know", parse_math=False)
    left.legend(loc="upper left")
    shown = largest(points)
    places = range(len(shown))
    colors = ["tab:red" if one.damage > 0 else "tab:green" for one in shown]
    right.barh(places, [one.damage for one in shown], color=colors)
    right.set_yticks(places, [_shortened(one.tensor) for one in shown], fontsize=7, parse_math=False)
    right.invert_yaxis()
    right.set(xlabel="predicted damage, dB")
    right.set_title(f"largest of {sum(abs(one.damage) > SAME_DB for one in points)} differences", parse_math=False)
    save(figure, path)


def largest(points: Sequence[Point]) -> list[Point]:
    """The tensors with the largest differences, worst first.

    >>> [one.tensor for one in largest([Point("x", -40.0, -41.0), Point("y", -40.0, -38.0), Point("z", -40.0, -40.0)])]
    ['y', 'x']
    """
    different = [one for one in points if abs(one.damage) > SAME_DB]
    kept = sorted(different, key=lambda one: (-abs(one.damage), one.tensor))[:MOST_BARS]
    return sorted(kept, key=lambda one: (-one.damage, one.tensor))


def _shortened(name: str) -> str:
    printable = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)
    return printable if len(printable) <= LONGEST_NAME else f"…{printable[1 - LONGEST_NAME :]}"
