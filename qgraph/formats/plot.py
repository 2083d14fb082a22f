"""A histogram with the ranges that observers choose for it, as an SVG or PNG file. Needs matplotlib.

Values stand on an axis that is logarithmic on both sides of zero, so that the bulk of a tensor and its outliers can be
seen together; each observer is a line from the least to the largest number that its integers can represent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import UsageError
from qgraph.formats.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
SIZE_INCHES = (9.0, 5.0)
SHOWN_OCTAVES = 12
"""Octaves below the largest magnitude that the logarithmic axis shows; what is smaller is shown around zero."""
TICK_OCTAVES = 3
"""Octaves between two ticks."""


@dataclass(frozen=True, slots=True)
class Bar:
    """How many values lie between `low` and `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Span:
    """The range of one observer's integers, and its noise in dB."""

    observer: str
    low: float
    high: float
    noise_db: float | None


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be written, before anything is computed.

    Raises:
        UsageError: matplotlib is missing, or the file's name tells no known format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError("not a plot that can be written", str(path), f"end its name in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UsageError("no such folder", str(path.parent), "create it first")
    try:
        import matplotlib as matplotlib  # an optional extra
    except ImportError:
        raise UsageError("matplotlib is not installed", "qgraph plot", "pip install 'qgraph[plot]'") from None


def new_figure(path: Path, inches: tuple[float, float]) -> Figure:
    """An empty figure for a file; raises as `check_plot`."""
    check_plot(path)
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same file on any day.

    Raises:
        ExportError: the file cannot be written.
    """
    import matplotlib as mpl

    with whole_file(path, "the plot") as file, mpl.rc_context({"svg.hashsalt": "qgraph"}):
        figure.savefig(file, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def write_plot(path: Path, title: str, bars: Sequence[Bar], zeros: int, spans: Sequence[Span]) -> None:
    """Write a plot; the format is that of the file's name.

    Args:
        bars: sorted by value, without the zeros.
        zeros: values that are zero.
        spans: from top to bottom.

    Raises:
        UsageError: as `check_plot`, or the file cannot be written.
    """
    figure = new_figure(path, SIZE_INCHES)
    from matplotlib.ticker import FuncFormatter, NullLocator

    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.3 * len(spans)))
    if bars:
        heights, borders = _outline(bars)
        upper.stairs(heights, borders, fill=True, color="tab:blue")
    if zeros:
        upper.plot([0], [zeros], "o", color="tab:gray", label=f"{zeros:,} zeros")
        upper.legend(loc="upper right")
    # Names are shown as they are: a dollar sign starts no formula.
    upper.set_title(title, parse_math=False)
    upper.set(ylabel="values per bin", yscale="log" if bars else "linear")
    for place, span in enumerate(spans):
        lower.plot([span.low, span.high], [-place, -place], "|-", markersize=10)
    lower.set_yticks([-place for place in range(len(spans))], [_label(span) for span in spans])
    lower.set(xlabel="value")
    largest = max([abs(x) for bar in bars for x in (bar.low, bar.high)] + [abs(s.low) for s in spans] + [1e-30])
    octave = math.floor(math.log2(largest)) + 1
    lower.set_xscale("symlog", base=2, linthresh=2.0 ** (octave - SHOWN_OCTAVES))
    ticks = [2.0 ** (octave - back) for back in range(0, SHOWN_OCTAVES + 1, TICK_OCTAVES)]
    lower.set_xticks([*(-tick for tick in ticks), 0.0, *ticks], minor=False)
    lower.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1 else f"{value:.3g}")
    )
    lower.xaxis.set_minor_locator(NullLocator())
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    lower.margins(x=0.05, y=0.3)
    save(figure, path)


def _label(span: Span) -> str:
    return span.observer if span.noise_db is None else f"{span.observer}  {span.noise_db:.1f} dB"


def _outline(bars: Sequence[Bar]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights and borders of bars, with empty ones where there is a gap.

    >>> _outline([Bar(1.0, 2.0, 5), Bar(3.0, 4.0, 7)])
    (array([5., 0., 7.]), array([1., 2., 3., 4.]))
    """
    heights, borders = [float(bars[0].count)], [bars[0].low, bars[0].high]
    for bar in bars[1:]:
        if bar.low != borders[-1]:
            heights.append(0.0)
            borders.append(bar.low)
        heights.append(float(bar.count))
        borders.append(bar.high)
    return np.array(heights), np.array(borders)
