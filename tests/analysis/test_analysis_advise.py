"""Advice: the shortest list of changes that reaches an SNR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path

import pytest
from conftest import Cli
from test_analysis_sensitivity import data as data  # the calibrated branches

from qgraph.analysis.advise import Change, advise, plans
from qgraph.constraints.overrides import as_toml, parse_override, read_overrides


def change(group: str, gain: float, kind: str = "float") -> Change:
    override = parse_override(f"float tensor:{group}")
    return Change(kind, group, (group,), (override,), f"{kind} for {group}", gain)  # type: ignore[arg-type]


class Additive:
    """A model whose noise is the sum of that of its groups, less what the changes take away."""

    def __init__(self, noise: Mapping[str, float], taken: Mapping[tuple[str, str], float] | None = None) -> None:
        self.noise, self.taken = noise, dict(taken or {})
        self.impossible: set[tuple[str, str]] = set()

    def can_make(self, changes: Sequence[Change]) -> bool:
        return not any((one.kind, one.group) in self.impossible for one in changes)

    def measure(self, changes: Sequence[Change]) -> float:
        taken = sum(self.taken.get((one.kind, one.group), one.gain) for one in changes)
        return -10 * log10(sum(self.noise.values()) - taken + 1e-9)


NOISE = {"a": 0.08, "b": 0.01, "c": 0.009, "d": 0.001}
FLOATS = [change(group, gain) for group, gain in NOISE.items()]


def test_a_target_that_is_reached_needs_no_change() -> None:
    found = advise(plans(FLOATS, NOISE), 9.0, Additive(NOISE))
    assert (found.reached, found.steps, found.trials) == (True, (), 1)


def test_the_worst_are_changed_first_and_no_more_than_needed() -> None:
    found = advise(plans(FLOATS, NOISE), 19.0, Additive(NOISE))
    assert [step.change.group for step in found.steps] == ["a", "b"]
    assert found.reached
    assert found.after_db == found.steps[-1].snr_db == pytest.approx(20, abs=0.01)
    assert sum(step.gain_db for step in found.steps) == pytest.approx(found.after_db - found.before_db)


def test_a_change_that_loses_is_not_kept_and_the_next_dearer_one_is_tried() -> None:
    both = [*FLOATS, change("a", 0.08, "bits")]
    bench = Additive(NOISE, {("bits", "a"): -0.5})
    found = advise(plans(both, NOISE), 15.0, bench)
    assert [(step.change.kind, step.change.group) for step in found.steps] == [("float", "a")]


def test_a_cheap_change_that_is_not_enough_gives_way_to_a_dear_one() -> None:
    both = [*FLOATS, change("a", 0.05, "observer")]
    found = advise(plans(both, NOISE), 28.0, Additive(NOISE))
    assert found.reached
    assert ("float", "a") in {(step.change.kind, step.change.group) for step in found.steps}
    cheap = advise(plans(both, NOISE), 13.0, Additive(NOISE))
    assert [(step.change.kind, step.change.group) for step in cheap.steps] == [("observer", "a")]


def test_a_cheap_change_that_takes_too_little_is_not_tried() -> None:
    (plan,) = plans([change("a", 0.08), change("a", 0.03, "observer")], NOISE)
    assert [one.kind for one in plan] == ["float"]


def test_a_change_that_becomes_needless_is_dropped() -> None:
    """b turns out to gain nearly all, so that a, which was tried before, is not needed."""
    bench = Additive(NOISE, {("float", "a"): 0.001, ("float", "b"): 0.095})
    found = advise(plans(FLOATS, NOISE), 20.0, bench)
    assert [step.change.group for step in found.steps] == ["b"]


def test_a_target_out_of_reach_is_told_with_the_best_there_is() -> None:
    bench = Additive({**NOISE, "e": 0.5})
    bench.impossible = {("float", "c")}
    found = advise(plans(FLOATS, NOISE), 60.0, bench)
    assert not found.reached
    assert [step.change.group for step in found.steps][:2] == ["a", "b"]
    assert "c" not in {step.change.group for step in found.steps}


def test_overrides_are_written_as_they_are_read(tmp_path: Path) -> None:
    lines = (
        "float type:Resize",
        'float tensor:a "quoted"',
        "unshare op:join",
        "unshare a=b",
        "bits tensor:x=16",
        "pin tensor:y=0.00390625,-3",
        "pin tensor:z=0.5",
    )
    overrides = tuple(map(parse_override, lines))
    (tmp_path / "o.toml").write_text(as_toml(overrides))
    assert sorted(map(str, read_overrides(tmp_path / "o.toml"))) == sorted(lines)
    (tmp_path / "none.toml").write_text(as_toml(()))
    assert read_overrides(tmp_path / "none.toml") == ()


# --- The command ---------------------------------------------------------------------------------------------------


def worst(cli: Cli, run: str, data: Path) -> float:
    outputs = cli("verify", run, "--data", data, "--steps", 8, "--optimized", "--json").json["outputs"]
    return float(min(one["snr_db"] for one in outputs.values()))


def test_advice_holds_when_it_is_followed(cli: Cli, data: Path) -> None:
    before = worst(cli, "r1", data)
    found = cli("advise", "r1", "--data", data, "--target-snr", before + 8, "-o", "better.toml", "--json").json
    assert found["before_db"] == pytest.approx(before)
    assert found["reached"]
    assert 1 <= len(found["changes"]) <= 3
    assert found["after_db"] == found["changes"][-1]["snr_db"] >= before + 8
    solved = cli("solve", "r1", "--target", "tflite", "--observer", "mse", "--overrides", "better.toml", "--json").json
    assert worst(cli, solved["run"], data) == pytest.approx(found["after_db"])


def test_kinds_can_be_left_out(cli: Cli, data: Path) -> None:
    target = worst(cli, "r1", data) + 8
    asked = ("advise", "r1", "--data", data, "--target-snr", target, "--json", "--without")
    plain = cli(*asked, "float", "--without", "bits").json
    assert {one["kind"] for one in plain["changes"]} <= {"observer", "unshare"}
    refused = cli(*asked, "flaot")
    assert (refused.code, "float" in refused.stderr) == (2, True)


def test_the_list_and_the_next_command_are_told(cli: Cli, data: Path) -> None:
    told = cli("advise", "r1", "--data", data, "--target-snr", worst(cli, "r1", data) + 8, "-o", "o.toml").stdout
    assert "is reached with" in told
    assert "next: qgraph solve r1 --target tflite --observer mse --overrides o.toml" in told
    nothing = cli("advise", "r1", "--data", data, "--target-snr", 1).stdout
    assert "is reached with 0 changes" in nothing


def test_an_snr_is_a_number(cli: Cli, data: Path) -> None:
    refused = cli("advise", "r1", "--data", data, "--target-snr", "nan")
    assert (refused.code, "target_snr must be a finite number: nan" in refused.stderr) == (2, True)


def test_an_output_that_would_replace_the_model_is_refused(cli: Cli, data: Path) -> None:
    refused = cli("advise", "r1", "--data", data, "--target-snr", 20, "-o", "m.onnx")
    assert (refused.code, "would replace the float model" in refused.stderr) == (2, True)
