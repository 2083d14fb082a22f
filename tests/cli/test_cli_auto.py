"""auto: an observer for each group, stored with the run and told by every question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qgraph

CANDIDATES = ["minmax", "percentile", "kl", "mse"]


def test_auto_takes_for_each_group_what_predicts_the_least_noise(cli: Any, calibrated: Path) -> None:
    solve = ["solve", "c1", "--target", "tflite", "--db", calibrated, "--json"]
    auto = cli(*solve, "--observer", "auto").json["run"]
    groups = cli("groups", auto, "--db", calibrated, "--json").json["groups"]
    taken = {group["id"]: group["observer"] for group in groups if group["observer"]}
    assert len(taken) > 50
    assert set(taken.values()) > {"mse"}
    assert set(taken.values()) <= set(CANDIDATES)
    others = {name: cli(*solve, "--observer", name).json["run"] for name in CANDIDATES}
    scales = {
        name: {
            group["id"]: (group["scale"], group["offset"])
            for group in cli("groups", run, "--db", calibrated, "--json").json["groups"]
        }
        for name, run in others.items()
    }
    for group in groups:
        if group["observer"]:
            assert (group["scale"], group["offset"]) == scales[group["observer"]][group["id"]]
            assert group["observer_reason"].startswith(f"{group['observer']} -")


def test_what_auto_took_and_why_is_told_by_every_question(cli: Any, calibrated: Path) -> None:
    run = cli("solve", "c1", "--target", "tflite", "--observer", "auto", "--db", calibrated, "--json").json["run"]
    shown = cli("show", run, "--db", calibrated, "--json").json
    assert shown["settings"]["observer"] == "auto"
    assert shown["settings"]["observer_parameters"] == {"candidates": "minmax,percentile,kl,mse"}
    scales = cli("scales", run, "--db", calibrated, "--json").json["tensors"]
    tensor, answer = next((name, one) for name, one in scales.items() if one["observer"])
    slots = cli("show", run, "--tensor", tensor, "--db", calibrated, "--json").json["slots"]
    assert slots[0]["observer"] == answer["observer"]
    assert answer["observer"] in slots[0]["observer_reason"]
    assert sum(shown["observers"].values()) == len({one["group"] for one in scales.values() if one["observer"]})
    assert f"auto took {answer['observer']}:" in cli("show", run, "--tensor", tensor, "--db", calibrated).stdout
    assert "groups solved by mse" in cli("show", run, "--db", calibrated).stdout
    for command in ("groups", "scales"):
        assert "observer" in cli(command, run, "--db", calibrated).stdout.splitlines()[0]
        assert "observer" not in cli(command, "mse", "--db", calibrated).stdout.splitlines()[0]


def test_python_names_the_candidates_and_their_order_decides_ties(calibrated: Path) -> None:
    with qgraph.open(calibrated) as database:
        one = database.solve("c1", target="tflite", observer="auto", parameters={"candidates": "kl"})
        assert set(one.show()["observers"]) == {"kl"}
        kl = database.solve("c1", target="tflite", observer="kl")
        assert [g["scale"] for g in one.groups()["groups"]] == [g["scale"] for g in kl.groups()["groups"]]
        ordered = database.solve("c1", target="tflite", observer="auto", parameters={"candidates": "mse,minmax"})
        choices = ordered.data().choices.values()
        assert {choice.observer for choice in choices} == {"mse"}
