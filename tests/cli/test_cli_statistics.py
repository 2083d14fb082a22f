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
    told = cli("show", "mse", "--tensor", CONCAT).stdout
    for what in ("minimum", "maximum"):
        origin = statistics["origins"][held[what]]
        name = f"photos.npz, sample {origin['index']}"
        assert origin["name"].endswith(name)
        (line,) = [line for line in told.splitlines() if line.startswith(f"{what} in sample")]
        assert f"  {origin['index']}, " in line
        assert line.endswith(f"({held[what]})")


def test_the_sample_of_an_extreme_is_told_by_its_place_and_its_file(cli: Cli, tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import parser

    import qgraph

    text = """<ir_version: 8, opset_import: ["" : 17]> squares (float[n, 8] x) => (float[n, 8] y) { y = Mul (x, x) }"""
    onnx.save(parser.parse_model(text), tmp_path / "model.onnx")
    samples = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", x=samples[:2])
    np.savez(tmp_path / "data" / "b.npz", x=samples[[1, 5, 2, 5]])

    def told(run: str, database: str) -> dict[str, object]:
        statistics = cli("show", run, "--tensor", "x", "--db", database, "--json").json["statistics"]
        origin: dict[str, object] = statistics["origins"][statistics["provenance"]["maximum"]]
        return origin

    expected = {"index": 3, "name": "data/b.npz, sample 1"}
    run = cli("calibrate", "model.onnx", "--data", "data", "--target", "tflite", "--json").json["run"]
    assert told(run, "qgraph.db") == expected
    for shard in ("1/2", "2/2"):
        cli("calibrate", "model.onnx", "--data", "data", "--shard", shard, "--db", "parts.db")
    cli("merge", "c1", "c2", "--db", "parts.db")
    merged = cli("solve", "c3", "--target", "tflite", "--db", "parts.db", "--json").json["run"]
    assert told(merged, "parts.db") == expected
    base = cli("calibrate", "model.onnx", "--data", "data/a.npz", "--db", "more.db", "--json").json["calibration"]
    arguments = ("--extend", base, "--target", "tflite", "--db", "more.db", "--json")
    extended = cli("calibrate", "model.onnx", "--data", "data/b.npz", *arguments).json["run"]
    assert told(extended, "more.db") == {"index": 1, "name": "data/b.npz, sample 1"}
    with qgraph.open(tmp_path / "arrays.db") as database:
        database.calibrate(tmp_path / "model.onnx", samples).solve(target="tflite")
    assert told("latest", "arrays.db") == {"index": 5, "name": None}


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
