"""Bad input gets one line, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli, Result
from onnx import TensorProto, helper


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()[-1:]
    assert line.startswith("qgraph: ")
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    for word in words:
        assert word in line, line


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """One convolution: input x (1, 2, 4, 4)."""
    weight = onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "small.onnx"
    )
    return tmp_path / "small.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(4, 2, 4, 4)).astype(np.float32))
    return tmp_path / "data.npz"


def test_a_model_that_is_none(cli: Cli, tmp_path: Path, small_model: Path, data: Path) -> None:
    (tmp_path / "text.onnx").write_text("I am no model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "cut.onnx").write_bytes(small_model.read_bytes()[:-20])
    for name in ("missing.onnx", "text.onnx", "empty.onnx", "cut.onnx", "."):
        refused(cli("calibrate", name, "--data", data), name)
        refused(cli("analyze", name, "--target", "tflite"), name)
    assert not (tmp_path / "qgraph.db").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((2, 2, 4, 4), np.float32)}, ("x",)),
        ({"x": np.zeros((2, 3, 4, 4), np.float32)}, ("x", "3")),
        ({"x": np.zeros((0, 2, 4, 4), np.float32)}, ("data.npz",)),
        ({"x": np.full((2, 2, 4, 4), np.nan, np.float32)}, ("x", "NaN")),
        ({"x": np.zeros((2, 2, 4), np.float32)}, ("x",)),
        ({"x": np.array([["a"]])}, ("x",)),
        ({}, ("data.npz",)),
    ],
    ids=["name", "shape", "empty", "nan", "rank", "dtype", "no arrays"],
)
def test_data_that_does_not_fit_the_model(
    cli: Cli, tmp_path: Path, small_model: Path, arrays: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    refused(cli("calibrate", small_model, "--data", "data.npz"), *words)


def test_a_data_file_that_is_none(cli: Cli, tmp_path: Path, small_model: Path, data: Path) -> None:
    (tmp_path / "text.npz").write_text("I am no archive")
    (tmp_path / "cut.npz").write_bytes(data.read_bytes()[:-50])
    for name in ("missing.npz", "text.npz", "cut.npz"):
        refused(cli("calibrate", small_model, "--data", name), name)


def test_unknown_names_suggest_near_ones(cli: Cli, small_model: Path, data: Path) -> None:
    refused(cli("calibrate", small_model, "--data", data, "--target", "tflight"), "tflight", "did you mean tflite")
    refused(
        cli("calibrate", small_model, "--data", data, "--target", "tflite", "--observer", "msee"),
        "msee",
        "did you mean mse",
    )
    assert cli("calibrate", small_model, "--data", data, "--target", "tflite", "--name", "first").code == 0
    refused(cli("share", "yy", "--run", "first"), "yy", "did you mean y")
    refused(cli("share", "y", "--run", "frist"), "frist", "did you mean first")
    refused(cli("share", "y", "--run", "r7"), "r7")
    refused(cli("solve", "c9", "--target", "tflite"), "c9")


def test_nothing_is_stored_when_target_or_observer_are_wrong(
    cli: Cli, small_model: Path, data: Path, tmp_path: Path
) -> None:
    refused(cli("calibrate", small_model, "--data", data, "--target", "nope"), "nope")
    assert not (tmp_path / "qgraph.db").exists()


def test_read_commands_never_create_a_database(cli: Cli, tmp_path: Path) -> None:
    for command in (
        ["runs"],
        ["share", "x"],
        ["groups", "latest"],
        ["db", "check"],
        ["diff", "r1", "r2"],
        ["export", "r1", "-o", "x"],
    ):
        refused(cli(*command), "qgraph.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_used(cli: Cli, small_model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("I am no database, but long enough to be looked at")
    refused(cli("calibrate", small_model, "--data", data, "--db", "text.db"), "text.db")
    refused(cli("runs", "--db", "text.db"), "text.db")
    refused(cli("calibrate", small_model, "--data", data, "--db", "no/such/folder/q.db"), "no/such/folder")
    refused(cli("calibrate", small_model, "--data", data, "--db", "."))
    assert (tmp_path / "text.db").read_text().startswith("I am no database")


def test_a_newer_schema_says_to_upgrade_qgraph(cli: Cli, calibrated: Path) -> None:
    with sqlite3.connect(calibrated) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    refused(cli("runs"), "upgrade qgraph")


def test_an_external_data_path_that_leaves_the_folder(cli: Cli, small_model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "inner").mkdir()
    model = onnx.load(small_model)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../secret.bin", "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    (tmp_path / "inner" / "model.onnx").write_bytes(model.SerializeToString())
    refused(cli("calibrate", "inner/model.onnx", "--data", data), "secret.bin")


def test_export_refuses_what_it_cannot_do_and_leaves_the_old_file(
    cli: Cli, small_model: Path, data: Path, tmp_path: Path
) -> None:
    assert cli("calibrate", small_model, "--data", data, "--target", "tflite").code == 0
    (tmp_path / "old.onnx").write_text("old")
    model = onnx.load(small_model)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.float32), "w"))
    onnx.save(model, small_model)
    refused(cli("export", "latest", "--format", "qdq", "-o", "old.onnx"), "small.onnx")
    small_model.unlink()
    refused(cli("export", "latest", "--format", "qdq", "-o", "old.onnx"), "small.onnx")
    assert (tmp_path / "old.onnx").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".npz") == ["old.onnx", "qgraph.db"]


def test_export_of_a_run_without_scales_says_what_is_missing(cli: Cli, small_model: Path) -> None:
    assert cli("analyze", small_model, "--target", "tflite").code == 0
    refused(cli("export", "latest", "--format", "qdq", "-o", "out.onnx"), "r1", "calibrate")


@pytest.mark.parametrize(
    "command",
    [
        "export mse",
        "plot mse --tensor x",
        "diff mse mse",
        "golden mse --data data.npz",
        "improve mse --data data.npz",
        "advise mse --data data.npz --target-snr 20",
    ],
)
def test_a_file_that_is_to_be_standard_output(cli: Cli, calibrated: Path, data: Path, command: str) -> None:
    before = sorted(data.parent.iterdir())
    refused(cli(*command.split(), "-o", "-"), "standard output is no file", "-o -")
    assert sorted(data.parent.iterdir()) == before


def test_errors_are_json_too(cli: Cli) -> None:
    result = cli("runs", "--json")
    assert result.code == 2
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"what", "which", "cure"}
    assert "qgraph.db" in error["which"]


def test_usage_errors_are_one_line(cli: Cli, small_model: Path) -> None:
    refused(cli("calibrate"))
    refused(cli("frobnicate"))
    refused(cli("analyze", small_model, "--target", "tflite", "--force-overlap", "maybe"), "maybe")


def test_db_check_finds_damage_of_the_file_with_exit_code_1_where_other_commands_have_2(
    cli: Cli, calibrated: Path, tmp_path: Path
) -> None:
    whole = calibrated.read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 3])
    half = len(whole) // 2
    (tmp_path / "scratched.db").write_bytes(whole[:half] + b"Z" * 65536 + whole[half + 65536 :])
    assert cli("db", "check").code == 0
    for name in ("cut.db", "scratched.db"):
        result = cli("db", "check", "--db", name, "--json")
        assert (result.code, result.stderr) == (1, "")
        assert "file" in {finding["check"] for finding in result.json["findings"]}
    refused(cli("runs", "--db", "cut.db"), "damaged", "cut.db")
    (tmp_path / "text.db").write_text("I am no database, but long enough to be looked at")
    refused(cli("db", "check", "--db", "text.db"), "not a database")


def test_what_an_error_suggests_names_the_database(cli: Cli, calibrated: Path, tmp_path: Path) -> None:
    refused(cli("share", "zzzzzz"), "see qgraph scales r1")
    calibrated.rename(tmp_path / "my own.db")
    refused(cli("share", "zzzzzz", "--db", "my own.db"), "see qgraph scales r1 --db 'my own.db'")
    refused(cli("show", "zzzzzz", "--db", "my own.db"), "see qgraph runs --db 'my own.db'")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("exprt", "latest"), "No such command 'exprt'. Did you mean 'export'?: qgraph; see qgraph --help"),
        (("db", "rm"), "No such command 'rm': qgraph db; see qgraph db --help"),
        (("export", "latest", "--foo"), "qgraph export; see qgraph export --help"),
    ],
)
def test_a_command_that_there_is_not_is_sought_where_the_commands_are_listed(
    cli: Cli, words: tuple[str, ...], line: str
) -> None:
    done = cli(*words)
    assert done.code == 2
    assert line in done.stderr
