"""Names as models really have them: emoji codes, backslashes, line breaks, and names that look like slots."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import TensorProto, helper

SMILE, BROKEN, SLOT = "c:smile:", "two\nlines\x1b[31m\\", "add:in:0"
"""A Relu's input and output, and the output of the Add, which has the name of one of its own slots."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """c:smile: → Relu → (a name with a line break) → Add with itself → (a name of a slot)."""
    shape: list[str | int | None] = ["n", 2, 4, 4]
    graph = helper.make_graph(
        [
            helper.make_node("Relu", [SMILE], [BROKEN], "relu"),
            helper.make_node("Add", [BROKEN, BROKEN], [SLOT], "add"),
        ],
        "names",
        [helper.make_tensor_value_info(SMILE, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(SLOT, TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "names.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def run(cli: Cli, model: Path) -> str:
    """A run of it in the database `other file.db`."""
    assert cli("analyze", model, "--target", "tflite", "--db", "other file.db", "--json").code == 0
    return "r1"


DB = ("--db", "other file.db")


def test_every_tensor_is_one_row_under_its_own_name(cli: Cli, run: str) -> None:
    lines = cli("scales", run, *DB).stdout.splitlines()
    assert len(lines) == 1 + 3
    names = [line.split("  ")[0] for line in lines[1:]]
    assert sorted(names) == sorted([SMILE, r"two\nlines\x1b[31m" + "\\", SLOT])
    assert set(cli("scales", run, *DB, "--json").json["tensors"]) == {SMILE, BROKEN, SLOT}


def test_a_suggested_command_can_be_pasted(cli: Cli, run: str) -> None:
    line = cli("why", SMILE, SLOT, "--run", run, *DB).stdout.strip()
    assert "do not share" in line
    program, *words = shlex.split(line.split("see: ")[1])
    assert program == "qgraph"
    assert words == ["why-not", SMILE, SLOT, "--run", run, *DB]
    assert cli(*words).code == 0


def test_a_tensor_with_the_name_of_a_slot_is_that_tensor(cli: Cli, run: str) -> None:
    alone = cli("share", SLOT, "--run", run, *DB, "--json").json
    assert SLOT in alone["tensors"]
    chain = cli("why", SLOT, "add:out:0", "--run", run, *DB, "--json").json
    assert (chain["shared"], chain["path"]) == (True, [])


def test_a_run_says_which_file_it_was_made_from(cli: Cli, run: str, model: Path) -> None:
    (listed,) = cli("runs", *DB, "--json").json["runs"]
    assert (listed["model"], listed["model_name"], listed["model_path"]) == ("m1", "names", str(model))
    assert "m1 (names.onnx)" in cli("runs", *DB).stdout
    assert str(model) in cli("show", run, *DB).stdout


def test_numbers_beyond_any_data_set_are_one_line(cli: Cli, model: Path) -> None:
    np.savez("data.npz", **{SMILE: np.zeros((2, 2, 4, 4), np.float32)})  # type: ignore[arg-type]
    for option in ("--steps", "--batch-size"):
        result = cli("calibrate", model, "--data", "data.npz", option, "9" * 20)
        assert (result.code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert option.strip("-") in line.replace("_", "-")
        assert "unexpected" not in line


@pytest.mark.parametrize("name", ["", " ", "r7", "c1", "latest", "a\nb", "-x", "x" * 201, "bad \udcff"], ids=ascii)
def test_a_name_that_a_run_cannot_have(cli: Cli, model: Path, name: str, tmp_path: Path) -> None:
    result = cli("analyze", model, "--target", "tflite", f"--name={name}")
    assert (result.code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("qgraph: a run cannot have this name: " if name.isascii() else "qgraph: name is not valid")
    assert len(line) < 200
    assert not (tmp_path / "qgraph.db").exists()


def test_a_database_needs_a_name(cli: Cli, model: Path) -> None:
    for name in ("", " "):
        for command in (["runs"], ["analyze", model, "--target", "tflite"], ["db", "check"]):
            result = cli(*command, f"--db={name}")
            assert (result.code, result.stdout) == (2, "")
            assert "database" in result.stderr
