"""Sensitivity: what each tensor and group alone costs the outputs, and through what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.analysis.sensitivity import TOGETHER, Probe, batched, more, power, subjects
from qgraph.analysis.sensitivity_model import Exported
from qgraph.analysis.sessions import InMemory
from qgraph.analysis.verify import verify
from qgraph.analysis.verify_layers import fake_quantized
from qgraph.formats.encoding import Encoding
from qgraph.formats.qdq import to_qdq
from qgraph.jobs.exporting import Opened, open_run

Array = NDArray[Any]


def write_branches(path: Path) -> Path:
    """x ─┬ Conv ─▶ a ─┬ Concat ─▶ c ─ Conv ─▶ y;  a ─ Relu ─▶ z

    └ Conv ─▶ b ─┘            b is a hundred times smaller than a.
    """
    rng = np.random.default_rng(7)
    weights = {
        "wa": rng.normal(size=(2, 2, 1, 1)),
        "wb": rng.normal(size=(2, 2, 1, 1)) / 100,
        "wc": rng.normal(size=(2, 4, 1, 1)) * np.array([1, 1, 100, 100]).reshape(1, 4, 1, 1),
        "bias": rng.normal(size=2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "wa"], ["a"], "left"),
        helper.make_node("Conv", ["x", "wb"], ["b"], "right"),
        helper.make_node("Concat", ["a", "b"], ["c"], "join", axis=1),
        helper.make_node("Conv", ["c", "wc", "bias"], ["y"], "last"),
        helper.make_node("Sigmoid", ["a"], ["z"], "side"),
    ]
    x, *ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 4, 4]) for name in "xyz")
    constants = [numpy_helper.from_array(one.astype("f"), name) for name, one in weights.items()]
    graph = helper.make_graph(nodes, "branches", [x], ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def data(cli: Cli, tmp_path: Path) -> Path:
    """The data of the branches, which are calibrated as run ``r1``."""
    write_branches(tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(12, 2, 4, 4)).astype("f"))
    done = cli("calibrate", "m.onnx", "--data", "data.npz", "--target", "tflite", "--observer", "mse")
    assert done.code == 0
    return tmp_path / "data.npz"


@pytest.fixture
def opened(data: Path) -> Opened:
    with qgraph.open(data.parent / "qgraph.db") as database:
        return open_run(database.store(), "r1", None)


def samples(data: Path, count: int = 4) -> list[dict[str, Array]]:
    return [{"x": row[None]} for row in np.load(data)["x"][:count]]


def noise_db(expected: Array, actual: Array) -> float:
    return float(10 * np.log10(((expected - actual) ** 2).sum() / (expected**2).sum()))


def probe_of(opened: Opened, data: Path) -> tuple[Exported, Probe]:
    exported = Exported(opened.model, opened.data)
    return exported, Probe(exported, exported.sites, samples(data), opened.model.folder)


def test_an_input_alone_costs_what_a_quantized_input_costs(opened: Opened, data: Path) -> None:
    exported, probe = probe_of(opened, data)
    (site,) = (one for one in exported.sites if one.tensor == "x")
    session = onnxruntime.InferenceSession(str(opened.model.path))
    fed = np.concatenate([one["x"] for one in samples(data)])
    expected = session.run(["y", "z"], {"x": fed})
    actual = session.run(["y", "z"], {"x": fake_quantized(fed, site.encoding)})
    found = probe.noise([site.feed(site.encoding)])
    assert found["y"] == pytest.approx(noise_db(expected[0], actual[0]), abs=0.01)
    assert found["z"] == pytest.approx(noise_db(expected[1], actual[1]), abs=0.01)
    assert power(found[TOGETHER]) == pytest.approx((power(found["y"]) + power(found["z"])) / 2)


def test_a_weight_alone_costs_what_a_quantized_weight_costs(opened: Opened, data: Path, tmp_path: Path) -> None:
    exported, probe = probe_of(opened, data)
    (site,) = (one for one in exported.sites if one.tensor == "wc")
    assert site.encoding.axis == 0
    proto = onnx.load(opened.model.path)
    (weight,) = (one for one in proto.graph.initializer if one.name == "wc")
    weight.CopyFrom(numpy_helper.from_array(fake_quantized(numpy_helper.to_array(weight), site.encoding), "wc"))
    onnx.save(proto, tmp_path / "rounded.onnx")
    fed = {"x": np.concatenate([one["x"] for one in samples(data)])}
    expected, actual = (
        onnxruntime.InferenceSession(str(path)).run(["y"], fed)[0]
        for path in (opened.model.path, tmp_path / "rounded.onnx")
    )
    found = probe.noise([site.feed(site.encoding)])
    assert found["y"] == pytest.approx(noise_db(expected, actual), abs=0.01)
    assert found["z"] == -np.inf


def test_everything_on_is_the_exported_model(opened: Opened, data: Path) -> None:
    exported, probe = probe_of(opened, data)
    folder = opened.model.folder
    quantized = InMemory(to_qdq(opened.model.proto, opened.data, {}, folder).SerializeToString(), folder, "q")
    expected = verify(opened.model.path, quantized, samples(data), optimized=False).outputs
    found = probe.noise([site.feed(site.encoding) for site in exported.sites])
    for name in ("y", "z"):
        assert -found[name] == pytest.approx(expected[name].snr_db, abs=0.2)


def test_nothing_on_is_the_float_model(opened: Opened, data: Path) -> None:
    assert set(probe_of(opened, data)[1].noise([]).values()) == {-np.inf}


def test_switches_of_a_part_measure_what_all_of_them_do(opened: Opened, data: Path) -> None:
    """What lies before the first switch is run once only, and outputs that no switch reaches lose nothing."""
    exported, probe = probe_of(opened, data)
    for site in exported.sites:
        alone = Probe(exported, [site], samples(data), opened.model.folder)
        whole, part = probe.noise([site.feed(site.encoding)]), alone.noise([site.feed(site.encoding)])
        assert part.keys() == whole.keys()
        for name, value in whole.items():
            assert part[name] == pytest.approx(value, abs=0.05)


def test_subjects_are_measured_in_batches_in_the_order_of_the_model(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = Exported(opened.model, opened.data).sites
    every = subjects(sites, {group.id: group.tensors for group in opened.data.grouping.groups})
    monkeypatch.setattr("qgraph.analysis.sensitivity.AT_ONCE", 3)
    batches = list(batched(every))
    assert sorted(one.name for batch in batches for one in batch) == sorted(one.name for one in every)
    assert len(batches) > 2
    assert all(len({site.position for one in batch for site in one.sites}) <= 3 for batch in batches)


def test_rounding_and_clipping_are_told_apart(opened: Opened, data: Path) -> None:
    exported, probe = probe_of(opened, data)
    (site,) = (one for one in exported.sites if one.tensor == "x")
    tight = Encoding("int8", -128, 127, None, (0.005,), (0,))  # ends at 0.6: most of the noise is clipping
    coarse = Encoding("int8", -128, 127, None, (0.5,), (0,))  # ends at 64: nothing is clipped
    for code, cause, other in ((tight, "rounding", "clipping"), (coarse, "clipping", "rounding")):
        both = probe.noise([site.feed(code)])["y"]
        without = {"rounding": site.feed(code, rounding=False), "clipping": site.feed(code, clipping=False)}
        assert probe.noise([without[cause]])["y"] == pytest.approx(both, abs=0.1)
        assert probe.noise([without[other]])["y"] < both - 20


def test_what_one_noise_has_more_than_another() -> None:
    assert more({"y": -10.0, "z": -30.0}, {"y": -20.0, "z": -20.0}) == {
        "y": pytest.approx(10 * np.log10(0.09)),
        "z": -np.inf,
    }


# --- The command ---------------------------------------------------------------------------------------------------


def test_sharing_is_what_a_small_tensor_loses_in_a_group_with_a_large_one(cli: Cli, data: Path) -> None:
    found = cli("sensitivity", "r1", "--data", data, "--json").json
    tensors = {one["name"]: one["noise_db"] for one in found["tensors"]}
    groups = {one["name"]: one for one in found["groups"]}
    (shared,) = (one for one in groups.values() if len(one["tensors"]) > 1)
    assert shared["tensors"] == ["a", "b", "c"]
    assert tensors["b"]["sharing"] > tensors["b"]["all"] - 1  # nearly all of it
    assert tensors["b"]["all"] > max(tensors["a"]["all"], tensors["x"]["all"]) + 10
    assert tensors["x"]["sharing"] is None
    assert found["groups"][0] == shared
    assert {one["role"] for one in found["groups"]} == {"activation", "weight", "bias"}


def test_imported_scales_cost_what_the_same_scales_cost(cli: Cli, data: Path) -> None:
    ours = cli("sensitivity", "r1", "--data", data, "--json").json
    assert cli("export", "r1", "--format", "json", "-o", "s.json").code == 0
    command = ("import", "s.json", "--model", "m.onnx", "--target", "tflite")
    assert cli(*command, "--calibration", "c1", "--name", "priced").code == 0
    assert cli(*command, "--name", "bare", "--db", "bare.db").code == 0
    priced = cli("sensitivity", "priced", "--data", data, "--json").json
    assert priced["tensors"] == ours["tensors"]
    bare = cli("sensitivity", "bare", "--data", data, "--db", "bare.db", "--json").json
    assert {one["noise_db"]["sharing"] for one in bare["tensors"]} == {None}, "nothing tells what they would have alone"
    assert [one["noise_db"]["all"] for one in bare["tensors"]] == [one["noise_db"]["all"] for one in ours["tensors"]]
    assert "next" not in cli("sensitivity", "priced", "--data", data).stdout, "they cannot be solved anew"


def test_a_finished_measurement_is_told_again_and_other_samples_are_another_one(cli: Cli, data: Path) -> None:
    first = cli("sensitivity", "r1", "--data", data, "--json").json
    again = cli("sensitivity", "r1", "--data", data, "--json").json
    assert first["measured"] == len(first["groups"]) + len(first["tensors"])
    assert again == {**first, "measured": 0}
    assert cli("sensitivity", "r1", "--data", data, "--steps", 2, "--json").json["measured"] == first["measured"]


def test_an_interrupted_measurement_goes_on(cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph.analysis.sensitivity.AT_ONCE", 2)

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with qgraph.open(data.parent / "qgraph.db") as database:
        run = database.run("r1")
        with pytest.raises(KeyboardInterrupt):
            run.sensitivity(data, tick=stop)
        after = run.sensitivity(data)
        assert 0 < after["measured"] < len(after["groups"]) + len(after["tensors"])
    again = cli("calibrate", "m.onnx", "--data", data, "--target", "tflite", "--observer", "mse", "--db", "b.db").code
    assert again == 0
    whole = cli("sensitivity", "r1", "--data", data, "--db", "b.db", "--json").json
    found = cli("sensitivity", "r1", "--data", data, "--json").json
    assert found["tensors"] == whole["tensors"]
    assert found["groups"] == whole["groups"]


def test_the_table_shows_the_worst_first(cli: Cli, data: Path) -> None:
    told = cli("sensitivity", "r1", "--data", data, "--tensors", "--top", 2).stdout.splitlines()
    assert [line.split()[0] for line in told[2:4]] == ["b", "c"]
    assert told[-1] == f"next: qgraph advise r1 --data {data} --target-snr DB"


def test_a_run_without_scales_is_refused(cli: Cli, data: Path) -> None:
    assert cli("analyze", "m.onnx", "--target", "tflite", "--name", "bare").code == 0
    for command in (("sensitivity",), ("advise", "--target-snr", 20)):
        refused = cli(command[0], "bare", "--data", data, *command[1:])
        assert (refused.code, "the run has no scales" in refused.stderr) == (2, True)


def test_a_tensor_whose_quantization_makes_nan_loses_most_and_advise_takes_no_such_model(
    cli: Cli, tmp_path: Path
) -> None:
    """x ─▶ Mul ─▶ m ─▶ Log ─▶ y, positive but far from the step of m: 0 in integers, and −∞ behind the logarithm."""
    scale = numpy_helper.from_array(np.array([1, 1e-6], "f"), "scale")
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["m"], "mul"),
        helper.make_node("Log", ["m"], ["y"], "log"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph(nodes, "logarithm", [x], [y], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).uniform(0.5, 2, size=(8, 2)).astype("f"))
    assert cli("calibrate", "m.onnx", "--data", "d.npz", "--target", "onnxruntime", "--observer", "minmax").code == 0
    assert cli("verify", "r1", "--data", "d.npz", "--json").json["outputs"]["y"]["broken"] > 0
    noise = {
        one["name"]: one["noise_db"]["all"]
        for one in cli("sensitivity", "r1", "--data", "d.npz", "--json").json["tensors"]
    }
    assert noise["m"] == pytest.approx(120)
    advised = cli("advise", "r1", "--data", "d.npz", "--target-snr", "10", "-o", "o.toml", "--json").json
    assert (advised["before_db"], advised["reached"]) == (None, True)
    assert cli("solve", "r1", "--target", "onnxruntime", "--observer", "minmax", "--overrides", "o.toml").code == 0
    assert cli("verify", "latest", "--data", "d.npz", "--json").json["outputs"]["y"]["broken"] == 0


def test_advise_says_beforehand_what_it_will_measure_and_shortens_long_names(cli: Cli, data: Path) -> None:
    model = onnx.load(data.parent / "m.onnx")
    long = "joined/" * 20
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [long if name == "wc" else name for name in names]
    next(one for one in model.graph.initializer if one.name == "wc").name = long
    onnx.save(model, data.parent / "long.onnx")
    assert cli("calibrate", "long.onnx", "--data", data, "--target", "tflite", "--name", "long").code == 0
    told = cli("advise", "long", "--data", data, "--target-snr", "200")
    first, second = (line for line in told.stderr.splitlines() if "measure" in line or "choose" in line)
    assert "groups and tensors, then up to 45 models with changes: a minute at most" in first
    assert "changes to choose from" in second
    assert long not in told.stdout
    assert "joined/joined/joined/joi…" in told.stdout
    again = cli("advise", "long", "--data", data, "--target-snr", "200", "--json")
    assert "to measure on 8 samples: up to 45 models" in again.stderr
    assert any(long in one["tensors"] for one in again.json["changes"])
