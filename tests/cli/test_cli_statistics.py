"""What show and plot tell of a tensor's statistics."""

from pathlib import Path

import pytest
from conftest import Cli

CONCAT = "p2o.Concat.1"
"""A tensor whose statistics follow from others."""


def test_show_tells_which_sample_holds_the_extremes(cli: Cli, calibrated: Path) -> None:
    statistics = cli("show", "mse", "--tensor", CONCAT, "--json").json["statistics"]
    held = statistics["provenance"]
    assert all(len(held[what]) == 32 for what in ("minimum", "maximum"))
    assert held["nonfinite"] is None
    assert f"maximum in sample  {held['maximum']}" in cli("show", "mse", "--tensor", CONCAT).stdout


def test_the_histogram_holds_every_finite_value(cli: Cli, calibrated: Path) -> None:
    statistics = cli("show", "mse", "--tensor", "x", "--json").json["statistics"]
    assert sum(one["count"] for one in statistics["histogram"]) == statistics["elements"]
    ends = [one["low"] for one in statistics["histogram"]]
    assert ends == sorted(ends)
    assert "█" in cli("show", "mse", "--tensor", "x").stdout


def test_inputs_of_convolutions_have_means_per_channel(cli: Cli, calibrated: Path) -> None:
    statistics = cli("show", "mse", "--tensor", "x", "--json").json["statistics"]
    (channels,) = statistics["channels"]
    assert (channels["axis"], channels["channels"]) == (1, 3)
    assert all(
        low <= mean <= high
        for low, mean, high in zip(channels["minimum"], channels["mean"], channels["maximum"], strict=True)
    )
    assert min(channels["minimum"]) == statistics["minimum"]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plot_draws_a_tensor_with_every_observer(cli: Cli, calibrated: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    answer = cli("plot", "mse", "--tensor", "x", "-o", f"x.{kind}", "--json").json
    assert {"minmax", "mse", "percentile", "kl", "isotone"} <= set(answer["observers"])
    assert (tmp_path / f"x.{kind}").stat().st_size > 1000


def test_plot_draws_a_group(cli: Cli, calibrated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    group = cli("share", CONCAT, "--run", "mse", "--json").json["group"]
    assert cli("plot", "mse", "--group", group, "-o", "g.svg").code == 0
    assert (tmp_path / "g.svg").read_text().startswith("<?xml")


def test_plot_refuses_what_it_cannot_draw(cli: Cli, calibrated: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "end its name in .svg or .png" in cli("plot", "mse", "--tensor", "x", "-o", "x.gif").stderr
    assert "give either --tensor or --group" in cli("plot", "mse", "-o", "x.svg").stderr
    missing = cli("plot", "mse", "--tensor", "xx", "-o", "x.svg")
    assert missing.code == 2
    assert cli("plot", "mse", "--group", "gone", "-o", "x.svg").code == 2


def test_isotone_is_solved_from_the_same_statistics_and_tells_the_rows_it_keeps(cli: Cli, calibrated: Path) -> None:
    answer = cli("solve", "c1", "--target", "tflite", "--observer", "isotone", "--json").json
    scales = cli("scales", answer["run"], "--json").json["tensors"]
    reasons = [tensor["reason"] or "" for tensor in scales.values()]
    assert any("order kept in" in reason for reason in reasons)
    assert any("no order to keep" in reason for reason in reasons)
