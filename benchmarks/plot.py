"""The ratios as a picture: a group of bars for each model, a bar for each contender."""

from __future__ import annotations

from pathlib import Path

from contenders import BASE
from results import Results

PICTURE = Path(__file__).parent / "calibration.svg"


def plot(results: Results, path: Path = PICTURE) -> None:
    """Write the picture. The same results give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text as text, ids without chance and no date: a new picture differs only where the numbers do.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "qgraph"})
    names = list(dict.fromkeys(c for model in results.models for c in model.rounds if c != BASE))
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(results.models) * (len(names) + 1)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [i + index * height for i, model in enumerate(results.models) if name in model.rounds]
        ratios = [model.ratio(name) for model in results.models if name in model.rounds]
        bars = axes.barh(places, ratios, height * 0.9, label=name)
        axes.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=2, fontsize=8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(results.models))], [m.name for m in results.models])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of a calibration / plain float inference of the same samples (log scale)")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(names), frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
