"""auto: an observer for each group, stored with the run and told by every question."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import qgraph
from qgraph.cli.main import run

CANDIDATES = ["minmax", "percentile", "kl", "mse"]


@pytest.fixture(scope="module")
def solved(calibrated_session: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run named ``auto``."""
    path = tmp_path_factory.mktemp("solved") / "q.db"
    with closing(sqlite3.connect(calibrated_session)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    assert run(["solve", "c1", "--target", "tflite", "--observer", "auto", "--name", "auto", "--db", str(path)]) == 0
    return path


def test_auto_takes_for_each_group_what_predicts_the_least_noise(cli: Any, solved: Path) -> None:
    solve = ["solve", "c1", "--target", "tflite", "--db", solved, "--json"]
    groups = cli("groups", "auto", "--db", solved, "--json").json["groups"]
    taken = {group["id"]: group["observer"] for group in groups if group["observer"]}
    assert len(taken) > 50
    assert set(taken.values()) > {"mse"}
    assert set(taken.values()) <= set(CANDIDATES)
    others = {name: cli(*solve, "--observer", name).json["run"] for name in CANDIDATES}
    scales = {
        name: {
            group["id"]: (group["scale"], group["offset"])
            for group in cli("groups", run, "--db", solved, "--json").json["groups"]
        }
        for name, run in others.items()
    }
    for group in groups:
        if group["observer"]:
            assert (group["scale"], group["offset"]) == scales[group["observer"]][group["id"]]
            assert group["observer_reason"].startswith(f"{group['observer']} -")


def test_what_auto_took_and_why_is_told_by_every_question(cli: Any, solved: Path) -> None:
    shown = cli("show", "auto", "--db", solved, "--json").json
    assert shown["settings"]["observer"] == "auto"
    assert shown["settings"]["observer_parameters"] == {"candidates": "minmax,percentile,kl,mse"}
    scales = cli("scales", "auto", "--db", solved, "--json").json["tensors"]
    tensor, answer = next((name, one) for name, one in scales.items() if one["observer"])
    slots = cli("show", "auto", "--tensor", tensor, "--db", solved, "--json").json["slots"]
    assert slots[0]["observer"] == answer["observer"]
    assert answer["observer"] in slots[0]["observer_reason"]
    assert sum(shown["observers"].values()) == len({one["group"] for one in scales.values() if one["observer"]})
    assert f"auto took {answer['observer']}:" in cli("show", "auto", "--tensor", tensor, "--db", solved).stdout
    assert "groups solved by mse" in cli("show", "auto", "--db", solved).stdout
    for command in ("groups", "scales"):
        assert "observer" in cli(command, "auto", "--db", solved).stdout.splitlines()[0]
        assert "observer" not in cli(command, "mse", "--db", solved).stdout.splitlines()[0]


def test_python_names_the_candidates_and_their_order_decides_ties(calibrated: Path) -> None:
    with qgraph.open(calibrated) as database:
        one = database.solve("c1", target="tflite", observer="auto", parameters={"candidates": "kl"})
        assert set(one.show()["observers"]) == {"kl"}
        kl = database.solve("c1", target="tflite", observer="kl")
        assert [g["scale"] for g in one.groups()["groups"]] == [g["scale"] for g in kl.groups()["groups"]]
        ordered = database.solve("c1", target="tflite", observer="auto", parameters={"candidates": "mse,minmax"})
        choices = ordered.data().choices.values()
        assert {choice.observer for choice in choices} == {"mse"}
