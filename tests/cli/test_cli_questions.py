"""What a user asks a stored run, as JSON and as text."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

RESIZED = "nearest_interp_v2_3.tmp_0"
"""The first input of ppocr4_det's only concat."""
CONCAT = "p2o.Concat.1"
"""That concat's output."""


def test_share_names_all_tensors_of_a_concat(cli: Cli, calibrated: Path) -> None:
    answer = cli("share", RESIZED, "--run", "mse", "--json").json
    assert set(answer) == {
        "schema", "tensor", "run", "group", "state", "reason", "scale", "offset", "tensors", "slots",
    }  # fmt: skip
    assert {CONCAT, RESIZED, "p2o.Add.277", "nearest_interp_v2_4.tmp_0", "nearest_interp_v2_5.tmp_0"} <= set(
        answer["tensors"]
    )
    assert {"p2o.Concat.0:in:0", "p2o.Concat.0:out:0"} <= set(answer["slots"])
    assert (answer["tensor"], answer["run"]) == (RESIZED, "r1")
    other = cli("share", CONCAT, "--run", "r1", "--json").json
    assert (other["group"], other["scale"], other["offset"]) == (answer["group"], answer["scale"], answer["offset"])


def test_why_is_a_chain_from_one_tensor_to_the_other_with_rule_op_and_source(cli: Cli, calibrated: Path) -> None:
    answer = cli("why", RESIZED, "p2o.Add.277", "--run", "mse", "--json").json
    assert answer["shared"] is True
    path = answer["path"]
    assert all(set(edge) == {"kind", "rule", "op", "op_type", "from", "to", "source"} for edge in path)
    assert all(before["to"] == after["from"] for before, after in itertools.pairwise(path))
    assert [edge["op_type"] for edge in path if edge["kind"] == "same"] == ["Concat", "Concat"]
    assert all(edge["rule"] is None and edge["source"] is None for edge in path if edge["kind"] == "tensor")
    text = cli("why", RESIZED, "p2o.Add.277", "--run", "mse").stdout
    assert "p2o.Concat.0" in text
    assert "CONCATENATION" in text


def test_why_of_tensors_that_do_not_share_says_so_and_why_not_what_would_have_to_change(
    cli: Cli, calibrated: Path
) -> None:
    answer = cli("why", "x", CONCAT, "--run", "mse", "--json").json
    assert (answer["shared"], answer["path"]) == (False, [])
    assert cli("why-not", "x", CONCAT, "--run", "mse", "--json").json["shared"] is False
    first_line, *chain = cli("why-not", "x", CONCAT, "--run", "mse").stdout.splitlines()
    cuts = [line.split("   ")[-1] for line in chain if "╳" in line]
    assert len(cuts) > 10
    assert first_line == f"x and {CONCAT} are kept apart in {len(set(cuts))} places, first: {cuts[0]}"


def test_groups_hold_every_quantized_slot_once(cli: Cli, calibrated: Path) -> None:
    groups = cli("groups", "mse", "--json").json["groups"]
    slots = [slot for group in groups for slot in group["slots"]]
    assert len(slots) == len(set(slots)) > 300
    assert all({"id", "tensors", "slots", "scale", "offset"} <= set(group) for group in groups)
    assert any(len(group["tensors"]) == 1 for group in groups)
    by_cost = cli("groups", "mse", "--by-cost", "--json").json["groups"]
    prices = [group["price_db"] for group in by_cost if group["price_db"] is not None]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 0
    assert sorted(group["id"] for group in by_cost) == sorted(group["id"] for group in groups)


def test_every_float_tensor_is_quantized_or_excluded_with_a_reason(cli: Cli, calibrated: Path) -> None:
    tensors = cli("scales", "mse", "--json").json["tensors"]
    for name, tensor in tensors.items():
        assert (tensor["scale"] is not None) or tensor["reason"], name
    assert tensors["sigmoid_0.tmp_0"]["state"] == "FIXED"
    assert tensors["sigmoid_0.tmp_0"]["scale"] == 1 / 256
    assert len(tensors["conv2d_96.w_0"]["scale"]) == len(tensors["conv2d_96.w_0"]["offset"]) == 48


def test_top_caps_every_list_of_a_diff_and_tells_the_rest(cli: Cli, calibrated: Path) -> None:
    assert cli("solve", "mse", "--target", "tensorrt", "--name", "other").code == 0
    every = cli("diff", "mse", "other", "--json").json
    capped = cli("diff", "mse", "other", "--top", 2, "--json").json
    assert len(every["states"]) > 2
    assert capped["states"] == every["states"][:2]
    assert [len(found) for found in capped["groups"].values()] == [
        min(2, len(found)) for found in every["groups"].values()
    ]
    assert f"and {len(every['states']) - 2} more states" in cli("diff", "mse", "other", "--top", 2).stdout


def test_diff_of_two_observers_ranks_scales_by_damage_and_mirrors(cli: Cli, calibrated: Path) -> None:
    assert cli("solve", "mse", "--target", "tflite", "--observer", "minmax", "--name", "minmax").code == 0
    there = cli("diff", "minmax", "mse", "--json").json
    back = cli("diff", "mse", "minmax", "--json").json
    assert {"schema", "a", "b", "settings", "scales", "groups", "states", "requantize"} <= set(there)
    assert there["scales"]
    damages = [scale["damage_db"] for scale in there["scales"]]
    known = [damage for damage in damages if damage is not None]
    assert len(known) > 100
    assert damages == sorted(known, reverse=True) + [None] * (len(damages) - len(known))  # unknown ones last
    mirrored = {scale["tensor"]: scale for scale in back["scales"]}
    for scale in there["scales"]:
        assert mirrored[scale["tensor"]]["a"] == scale["b"]
        assert mirrored[scale["tensor"]]["damage_db"] == (scale["damage_db"] and -scale["damage_db"])
    same = cli("diff", "mse", "mse", "--exit-code", "--json")
    assert (same.code, same.json["scales"], same.json["settings"]) == (0, [], {})
    assert cli("diff", "minmax", "mse", "--exit-code").code == 1


def test_runs_and_show_tell_what_is_stored(cli: Cli, calibrated: Path) -> None:
    runs = cli("runs", "--json").json["runs"]
    (run,) = runs
    assert (run["run"], run["name"], run["calibration"]) == ("r1", "mse", "c1")
    assert (run["settings"]["target"], run["settings"]["observer"]) == ("tflite", "mse")
    shown = cli("show", "mse", "--json").json
    assert shown["statistics"]
    tensor = cli("show", "mse", "--tensor", CONCAT, "--json").json["statistics"]
    assert tensor["samples"] == 32
    assert tensor["minimum"] < tensor["maximum"]


def test_targets_and_observers_are_listed_without_a_database(cli: Cli, tmp_path: Path) -> None:
    assert {"tflite", "onnxruntime"} <= {target["target"] for target in cli("targets", "--json").json["targets"]}
    assert {"minmax", "mse"} <= {observer["observer"] for observer in cli("observers", "--json").json["observers"]}
    assert list(tmp_path.iterdir()) == []


def test_analyze_answers_about_structure_before_any_data(cli: Cli, ppocr4_det: Path) -> None:
    answer = cli("analyze", ppocr4_det, "--target", "tflite", "--json").json
    assert answer["run"] == "r1"
    shared = cli("share", CONCAT, "--run", "latest", "--json").json
    assert shared["scale"] is None
    assert RESIZED in shared["tensors"]
    assert cli("why", RESIZED, CONCAT, "--run", "r1", "--json").json["shared"] is True


HEAVY = ("torch", "onnxruntime", "numba", "networkx", "numpy", "alembic", "onnx")

BLOCKED = f"""
import shlex, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError("imported " + name)
sys.meta_path.insert(0, Refuse())
from qgraph.cli.main import run
for line in sys.argv[1:]:
    print(end="\\0", flush=True)
    if code := run(shlex.split(line)):
        sys.exit(line + ": " + str(code))
"""
"""A program that runs command lines, and begins the answer of each with a zero."""

QUERIES = [
    ["share", CONCAT, "--run", "mse"],
    ["why", RESIZED, CONCAT, "--run", "mse"],
    ["why-not", "x", CONCAT, "--run", "mse"],
    ["blame", CONCAT, "--run", "mse"],
    ["cascade", "p2o.Concat.0", "--run", "mse"],
    ["coverage", "mse", "--strict"],
    ["groups", "mse", "--by-cost"],
    ["scales", "mse"],
    ["show", "mse"],
    ["runs"],
    ["diff", "mse", "mse"],
    ["targets"],
    ["observers"],
    ["db", "stats"],
]


@pytest.mark.parametrize("form", ["", "--json"], ids=["text", "json"])
def test_queries_import_no_heavy_library(calibrated: Path, form: str) -> None:
    lines = [f"{shlex.join(query)} {form}" for query in QUERIES]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *lines], cwd=calibrated.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    nothing, *answers = done.stdout.split("\0")
    assert (nothing, len(answers)) == ("", len(QUERIES))
    assert all(json.loads(answer)["schema"] == 1 for answer in answers) if form else all(answers)
