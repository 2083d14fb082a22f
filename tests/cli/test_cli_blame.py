"""Who is to blame for a sharing, what an op drags along, what is missing, and what force_overlap auto makes of it."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli
from development_models import MODELS
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.cli.main import run as command

CONCAT = "p2o.Concat.0"
JOINED = "p2o.Concat.1"
"""The tensor that it makes."""


def test_blame_ranks_what_holds_a_group_together_by_price(cli: Cli, calibrated: Path) -> None:
    answer = cli("blame", JOINED, "--run", "mse", "--json").json
    assert {"group", "run", "price_db", "tensors", "cuts"} <= set(answer)
    assert JOINED in answer["tensors"]
    prices = [cut["price_db"] for cut in answer["cuts"] if cut["price_db"] is not None]
    assert prices
    assert prices == sorted(prices, reverse=True)
    assert prices[0] <= answer["price_db"]
    for cut in answer["cuts"]:
        assert {"kind", "rule", "op", "op_type", "from", "to", "source", "strength"} == set(cut["edges"][0])
        assert all(edge["strength"] != "exact" for edge in cut["edges"])
        assert set(cut["parts"][0]) | set(cut["parts"][1]) == set(answer["tensors"])
    same = cli("blame", answer["group"], "--run", "mse", "--top", 2, "--json").json
    assert same["cuts"] == answer["cuts"][:2]


def test_blame_in_words_names_the_rule_and_the_op(cli: Cli, calibrated: Path) -> None:
    text = cli("blame", JOINED, "--run", "mse").stdout
    assert f"the required rule concat at {CONCAT} (Concat)" in text
    assert "by a requantize there" in text


@pytest.fixture
def detector(cli: Cli, tmp_path: Path) -> None:
    """A calibrated detector's last ops: boxes in pixels and scores in 0..1 become one output."""
    nodes = [
        helper.make_node("Mul", ["boxes", "stride"], ["pixels"], "scale"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "squash"),
        helper.make_node("Concat", ["pixels", "scores"], ["found"], "join", axis=1),
    ]
    shapes = {"boxes": (1, 4, 64), "logits": (1, 2, 64)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("found", TensorProto.FLOAT, (1, 6, 64))]
    stride = numpy_helper.from_array(np.full((1, 1, 1), 32, np.float32), "stride")
    graph = helper.make_graph(nodes, "detector", inputs, outputs, [stride])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "d.onnx")
    rng = np.random.default_rng(0)
    samples = {name: rng.random((4, *shape[1:]), np.float32) * 8 for name, shape in shapes.items()}
    samples["logits"] -= 9
    np.savez(tmp_path / "d.npz", allow_pickle=False, **samples)
    assert cli("calibrate", "d.onnx", "--data", "d.npz", "--target", "tflite", "--name", "d").code == 0


def test_a_tensor_that_only_readers_hold_in_a_group_is_blamed_and_listed(cli: Cli, detector: None) -> None:
    (group, *_) = cli("groups", "d", "--by-cost", "--json").json["groups"]
    assert (group["tensors"], group["as_read"]) == (["found", "pixels"], ["scores"])
    assert "found, pixels, scores (as read)" in cli("groups", "d", "--by-cost", "--top", 1).stdout
    (dearest, *others) = cli("blame", "found", "--run", "d", "--json").json["cuts"]
    assert dearest["price_db"] == pytest.approx(group["price_db"])
    assert dearest["price_db"] > 20
    assert dearest["parts"][0] == ["scores"]
    assert all(cut["price_db"] < 1 for cut in others)


def test_blame_of_what_is_no_group(cli: Cli, calibrated: Path) -> None:
    unknown = cli("blame", "nothing", "--run", "mse")
    assert (unknown.code, "unknown group" in unknown.stderr) == (2, True)
    floating = next(
        slot["tensor"] for slot in cli("coverage", "mse", "--json").json["not_quantized"] if "Div" in slot["reason"]
    )
    scales = cli("scales", "mse", "--json").json["tensors"]
    if scales[floating]["group"] is None:
        assert "is not quantized" in cli("blame", floating, "--run", "mse").stderr


def test_cascade_tells_what_one_op_drags_along(cli: Cli, calibrated: Path) -> None:
    answer = cli("cascade", CONCAT, "--run", "mse", "--json").json
    (group,) = answer["groups"]
    assert answer["op_type"] == "Concat"
    assert {tie["rule"] for tie in answer["ties"]} == {"concat"}
    assert len(group["parts"]) == 5
    slots = [slot for part in group["parts"] for slot in part["slots"]]
    assert len(slots) == len(set(slots))
    assert CONCAT in cli("cascade", CONCAT, "--run", "mse").stdout
    assert "did you mean p2o.Concat.0" in cli("cascade", "p2o.Concat.00", "--run", "mse").stderr


def test_an_op_that_ties_nothing_drags_nothing_along(cli: Cli, calibrated: Path) -> None:
    answer = cli("cascade", "p2o.Conv.0", "--run", "mse", "--json").json
    assert (answer["ties"], answer["groups"]) == ([], [])
    assert "ties nothing" in cli("cascade", "p2o.Conv.0", "--run", "mse").stdout


def test_coverage_is_strict_about_slots_that_wait_for_a_scale(cli: Cli, calibrated: Path, ppocr4_det: Path) -> None:
    full = cli("coverage", "mse", "--strict", "--json")
    assert (full.code, full.json["missing"]) == (0, [])
    assert all(slot["reason"] for slot in full.json["not_quantized"])
    assert sum(full.json["slots"].values()) > 1_000
    assert cli("analyze", ppocr4_det, "--target", "tflite", "--name", "bare").code == 0
    assert cli("coverage", "bare").code == 0
    bare = cli("coverage", "bare", "--strict", "--json")
    assert bare.code == 1
    assert {slot["state"] for slot in bare.json["missing"]} >= {"INITIAL", "SLAVE"}
    assert "missing: " in cli("coverage", "bare").stdout


def test_why_not_says_what_would_have_to_be_added(cli: Cli, calibrated: Path) -> None:
    answer = cli("why-not", "x", JOINED, "--run", "mse", "--json").json
    assert answer["shared"] is False
    cut = [step for step in answer["path"] if step["barrier"]]
    assert [(step["from"], step["to"], step["need"]) for step in cut] == [
        (item["from"], item["to"], item["need"]) for item in answer["needed"]
    ]
    assert any("a rule `same` for Conv that ties" in item["need"] for item in answer["needed"])
    assert "needed from " in cli("why-not", "x", JOINED, "--run", "mse").stdout
    assert cli("why-not", JOINED, JOINED, "--run", "mse", "--json").json["needed"] == []


@pytest.fixture(scope="module")
def rec_session(real: Path) -> Path:
    """A database with PP-OCRv4's text recogniser, calibrated on 8 photographs."""
    model, data, path = real / "rec.onnx", real / "rec.npz", real / "rec.db"
    MODELS["ppocr4_rec"].write(model)
    np.savez(data, allow_pickle=False, **MODELS["ppocr4_rec"].samples(8, 0))
    assert command(["calibrate", str(model), "--data", str(data), "--db", str(path), "--json"]) == 0
    return path


@pytest.fixture
def rec(rec_session: Path, tmp_path: Path) -> Path:
    with sqlite3.connect(rec_session) as source, sqlite3.connect(tmp_path / "qgraph.db") as target:
        source.backup(target)
    source.close()
    target.close()
    return tmp_path / "qgraph.db"


def total_noise(path: Path, run: str) -> float:
    """Noise power over signal power: of every tensor where it is made, and what each requantize adds."""
    with qgraph.open(path) as database:
        data = database.run(run).data()
    on_slot = {tqc.slot: tqc for tqc in data.tqcs}
    masters = {slot for group in data.grouping.groups for slot in group.slots}
    made = [
        tqc.noise_db
        for tqc in data.tqcs
        if tqc.slot in masters and tqc.noise_db is not None and (":out:" in tqc.slot or tqc.slot.startswith("graph:in"))
        if not tqc.slot.startswith("graph:out")
    ]
    again = []
    for cut in data.grouping.requantizes:
        first, price = on_slot[cut.producer].noise_db, data.requantize_price_db.get(cut.slot)
        if first is not None and price is not None:
            again.append(ratio(first + price) - ratio(first))
    return math.fsum([*map(ratio, made), *again])


def ratio(decibels: float) -> float:
    return float(10 ** (decibels / 10))


def test_auto_joins_what_lowers_the_predicted_noise(cli: Cli, rec: Path) -> None:
    answers: dict[str, Any] = {}
    for overlap in ("false", "auto", "true"):
        done = cli("solve", "c1", "--target", "ppl_cuda", "--force-overlap", overlap, "--name", overlap, "--json")
        assert done.code == 0
        answers[overlap] = cli("show", overlap, "--json").json
    counts = {overlap: answer["requantizes"] for overlap, answer in answers.items()}
    assert counts["false"] > counts["auto"] >= counts["true"] == 0
    assert answers["auto"]["settings"]["force_overlap"] == "auto"
    assert any(line.startswith("force_overlap auto: joined ") for line in answers["auto"]["events"])
    assert total_noise(rec, "auto") < total_noise(rec, "false")
    assert total_noise(rec, "auto") <= total_noise(rec, "true") + 1e-9


def test_auto_joins_nothing_that_would_cost(cli: Cli, rec: Path) -> None:
    assert cli("solve", "c1", "--target", "tflite", "--force-overlap", "auto", "--name", "auto").code == 0
    assert cli("solve", "c1", "--target", "tflite", "--name", "apart").code == 0
    assert cli("solve", "c1", "--target", "tflite", "--force-overlap", "true", "--name", "whole").code == 0
    assert cli("show", "auto", "--json").json["requantizes"] == 1
    assert total_noise(rec, "auto") <= total_noise(rec, "apart") < total_noise(rec, "whole")


def test_auto_before_data_is_false_and_says_so(cli: Cli, ppocr4_det: Path) -> None:
    done = cli("analyze", ppocr4_det, "--target", "tflite", "--force-overlap", "auto")
    assert done.code == 0
    assert "nothing has a price before data" in done.stderr
