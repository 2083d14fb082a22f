"""Advice: the shortest list of changes that reaches an SNR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path

import pytest
from conftest import Cli
from test_analysis_sensitivity import data as data  # the calibrated branches

from qgraph.analysis.advise import Advice, Change, ChangeKind, advise, rungs
from qgraph.constraints.overrides import as_toml, parse_override, read_overrides


def change(group: str, gain: float, kind: ChangeKind = "float") -> Change:
    return Change(kind, group, (group,), (parse_override(f"float tensor:{group}"),), gain)


class Additive:
    """A model whose noise is the sum of that of its groups, less what the changes take away."""

    def __init__(self, noise: Mapping[str, float], taken: Mapping[tuple[str, str], float] | None = None) -> None:
        self.noise, self.taken = noise, dict(taken or {})
        self.impossible: set[tuple[str, str]] = set()
        self.asked: list[list[str]] = []

    def can_make(self, changes: Sequence[Change]) -> bool:
        return not any((one.kind, one.group) in self.impossible for one in changes)

    def measure(self, changes: Sequence[Change]) -> float:
        assert self.can_make(changes)
        assert len({one.group for one in changes}) == len(changes)
        self.asked.append(sorted(one.group for one in changes))
        taken = sum(self.taken.get((one.kind, one.group), one.gain) for one in changes)
        return -10 * log10(max(sum(self.noise.values()) - taken, 1e-9))


NOISE = {"a": 0.08, "b": 0.01, "c": 0.009, "d": 0.001}
FLOATS = [change(group, gain) for group, gain in NOISE.items()]


def listed(found: Advice) -> dict[str, list[str]]:
    """The groups that are changed, by kind."""
    return {step.kind: [one.group for one in step.changes] for step in found.steps}


def test_a_target_that_is_reached_needs_no_change() -> None:
    found = advise(rungs(FLOATS, NOISE), 9.0, Additive(NOISE))
    assert (found.reached, found.steps, found.trials) == (True, (), 1)


def test_the_worst_are_changed_first_and_no_more_than_needed() -> None:
    found = advise(rungs(FLOATS, NOISE), 19.0, Additive(NOISE))
    assert listed(found) == {"float": ["a", "b"]}
    assert found.reached
    assert found.after_db == found.steps[-1].snr_db == pytest.approx(20, abs=0.01)
    assert sum(step.gain_db for step in found.steps) == pytest.approx(found.after_db - found.before_db)


def test_dearer_changes_follow_where_the_cheap_ones_are_not_enough() -> None:
    both = [*FLOATS, change("a", 0.05, "observer")]
    assert listed(advise(rungs(both, NOISE), 13.0, Additive(NOISE))) == {"observer": ["a"]}
    dear = advise(rungs(both, NOISE), 28.0, Additive(NOISE))
    assert dear.reached
    assert "a" in listed(dear)["float"]
    assert "observer" not in listed(dear)


def test_a_cheap_change_that_takes_too_little_is_not_tried() -> None:
    assert [one.kind for one in rungs([change("a", 0.08), change("a", 0.03, "observer")], NOISE)] == ["float"]


def test_of_one_group_the_cheaper_change_comes_first_and_worth_counts_what_it_costs() -> None:
    offered = [
        change("a", 0.08),
        change("a", 0.0799, "bits"),
        change("a", 0.05, "observer"),
        change("b", 0.009, "observer"),
    ]
    order = [(one.group, one.kind) for one in rungs(offered, NOISE)]
    assert order == [("a", "observer"), ("b", "observer"), ("a", "bits"), ("a", "float")]


def test_a_change_that_becomes_needless_is_dropped() -> None:
    """b turns out to gain nearly all, so that a, which comes before it, is not needed."""
    bench = Additive(NOISE, {("float", "a"): 0.001, ("float", "b"): 0.095})
    assert listed(advise(rungs(FLOATS, NOISE), 20.0, bench)) == {"float": ["b"]}


def test_changes_that_gain_nothing_alone_are_found_together() -> None:
    class Saturated(Additive):
        """The noise is as large as the signal until nearly all of it is gone."""

        def measure(self, changes: Sequence[Change]) -> float:
            return min(0.0, super().measure(changes) - 30)

    noise = {f"g{number:03}": 1 / 400 for number in range(400)}
    bench = Saturated({**noise, "g000": 0.01})
    found = advise(rungs([change(group, gain) for group, gain in bench.noise.items()], bench.noise), 0.0, bench)
    assert found.reached
    assert 395 < len(found.steps[0].changes) <= 400
    assert found.trials < 50


def test_dear_kinds_are_left_out_where_cheap_ones_reach_the_target_well() -> None:
    noise = {f"g{number}": 0.01 for number in range(10)}
    both = [*(change(group, 0.0099, "bits") for group in noise), *(change(group, 0.01) for group in noise)]
    assert set(listed(advise(rungs(both, noise), 14.0, Additive(noise)))) == {"bits"}
    bench = Additive(noise, {("bits", group): 0.005 for group in noise})  # 16 bits gain 3 dB at most
    assert listed(advise(rungs(both, noise), 16.0, bench))["float"]


def test_few_trials_are_made_among_many_groups() -> None:
    noise = {f"g{number:03}": 1 / (1 + number) for number in range(500)}
    told: list[tuple[int, int]] = []
    found = advise(
        rungs([change(group, gain) for group, gain in noise.items()], noise),
        -3.0,
        Additive(noise),
        lambda done, most: told.append((done, most)),
    )
    assert found.reached
    assert found.after_db < -2.5  # no more than needed, nearly
    assert found.trials <= 9 + 24 + 4
    assert told[-1][0] == found.trials
    assert all(done <= most for done, most in told)


def test_a_target_out_of_reach_is_told_with_the_best_there_is() -> None:
    bench = Additive({**NOISE, "e": 0.5})
    bench.impossible = {("float", "c")}
    found = advise(rungs(FLOATS, NOISE), 60.0, bench)
    assert not found.reached
    assert found.best_db == pytest.approx(-10 * log10(0.509))
    assert found.best_db - 0.5 <= found.after_db <= found.best_db
    assert listed(found) == {"float": ["a"]}  # the others add less than can be told


def test_a_block_is_tried_without_what_cannot_be_made_in_it() -> None:
    bench = Additive(NOISE)
    bench.impossible = {("float", "a")}
    found = advise(rungs(FLOATS, NOISE), 60.0, bench)
    assert ["b", "c", "d"] in bench.asked
    assert not found.reached


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
    assert 1 <= sum(len(one["groups"]) for one in found["changes"]) <= 3
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
    assert "is reached with 0 groups changed" in nothing


def test_everything_in_float_is_exact_so_that_any_target_is_reached(cli: Cli, data: Path) -> None:
    found = cli("advise", "r1", "--data", data, "--target-snr", 120, "--json").json
    assert found["reached"]
    assert found["after_db"] is None or found["after_db"] >= 120


def test_that_nothing_is_lost_any_more_is_said_in_words(cli: Cli, data: Path) -> None:
    told = cli("advise", "r1", "--data", data, "--target-snr", 1000)
    assert told.code == 0
    assert "1000 dB is reached" in told.stdout
    assert "changed: nothing lost," in told.stdout
    assert "inf" not in told.stdout
    kinds = [word for kind in ("observer", "unshare", "bits", "float") for word in ("--without", kind)]
    nothing = cli("advise", "r1", "--data", data, "--target-snr", 120, *kinds)
    assert "no kind is left" in nothing.stderr


def test_what_is_out_of_reach_is_said_with_the_best_there_is(cli: Cli, data: Path) -> None:
    asked = ("advise", "r1", "--data", data, "--target-snr", 120, "--without", "float")
    found = cli(*asked, "--json").json
    assert not found["reached"]
    assert found["after_db"] >= found["best_db"] - 0.5
    assert f"120 dB is out of reach: all changes together give {found['best_db']:.2f} dB" in cli(*asked).stdout


def test_only_what_the_target_can_do_is_offered(cli: Cli, data: Path) -> None:
    """TensorRT has integers of 8 bits alone."""
    run = cli("solve", "r1", "--target", "tensorrt", "--observer", "mse", "--json").json["run"]
    found = cli("advise", run, "--data", data, "--target-snr", 120, "--json")
    assert {one["kind"] for one in found.json["changes"]} <= {"observer", "unshare", "float"}
    assert "groups: observer, unshare, float" in found.stderr


def test_an_snr_is_a_number(cli: Cli, data: Path) -> None:
    refused = cli("advise", "r1", "--data", data, "--target-snr", "nan")
    assert (refused.code, "target_snr must be a finite number: nan" in refused.stderr) == (2, True)


def test_an_output_that_would_replace_the_model_is_refused(cli: Cli, data: Path) -> None:
    refused = cli("advise", "r1", "--data", data, "--target-snr", 20, "-o", "m.onnx")
    assert (refused.code, "would replace the float model" in refused.stderr) == (2, True)
