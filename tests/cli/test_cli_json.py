"""The JSON of every command, key by key: tools rely on it. A new command, key or type has to be written down here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import Cli
from development_models import MODELS
from json_answers import ERROR, SHAPES
from json_shapes import fits, misfits

import qgraph
from qgraph.cli.main import app, run


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, with its parameters."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_every_command_is_written_down_here() -> None:
    """A new command needs its shape in `json_answers`, and a call here."""
    assert set(COMMANDS) == {call.command for call in CALLS}
    assert set(SHAPES) == {call.shape for call in CALLS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_database_and_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--db", "--json"} <= options


@dataclass(frozen=True)
class Call:
    """A command line, after the command; ``{words}`` come from the `project`."""

    command: str
    arguments: str = ""
    code: int = 0
    variant: str = ""

    @property
    def shape(self) -> str:
        """The key of what is expected: an option that asks for something else has a shape of its own."""
        return f"{self.command} {self.variant}".rstrip()

    def line(self, words: Mapping[str, str]) -> list[str]:
        """The words to run, with the database and ``--json``."""
        arguments = [part.format(**words) for part in self.arguments.split()]
        return [*self.command.split(), *arguments, "--db", words["db"], "--json"]


CALLS = (
    Call("analyze", "{model} --target tflite"),
    Call("calibrate", "{model} --data {data}"),
    Call("calibrate", "{model} --data {data} --target tflite"),
    Call("calibrate", "{model} --data {data} --dry-run", variant="--dry-run"),
    Call("merge", "c3 c4"),
    Call("solve", "c2 --target onnxruntime --observer percentile"),
    Call("solve", "c1 --target tflite --allow-partial"),
    Call("runs"),
    Call("show", "first"),
    Call("show", "structure"),
    Call("show", "first --tensor {a}", variant="--tensor"),
    Call("show", "structure --tensor {unquantized}", variant="--tensor"),
    Call("scales", "first"),
    Call("scales", "other"),
    Call("scales", "structure"),
    Call("groups", "first --by-cost"),
    Call("groups", "structure"),
    Call("share", "{a} --run first"),
    Call("share", "{unquantized} --run first"),
    Call("why", "{a} {b} --run first"),
    Call("why", "{a} {stranger} --run first"),
    Call("why-not", "{a} {b} --run first"),
    Call("why-not", "{a} {stranger} --run first"),
    Call("blame", "{a} --run first"),
    Call("cascade", "{op} --run first"),
    Call("coverage", "first"),
    Call("coverage", "structure --strict", 1),
    Call("diff", "first other"),
    Call("diff", "first structure --exit-code", 1),
    Call("diff", "first first"),
    Call("diff", "other first --fail-on scales>0,splits<0 -o {picture}", 1),
    Call("query", "RETURN/**/1,'a',0.5,true,null --run first"),
    Call("query", "MATCH/**/(s:Slot)/**/WHERE/**/s.tensor=$t/**/RETURN/**/s.name --param t={a} --run structure"),
    Call("show", "first --provenance", variant="--provenance"),
    Call("show", "structure --provenance", variant="--provenance"),
    Call("targets"),
    Call("observers"),
    Call("export", "first -o {out}"),
    Call("export", "first --format tensorrt-cache -o {cache}"),
    Call("import", "{int8} --model {model} --target onnxruntime --calibration c2"),
    Call("plot", "first --tensor {a} -o {picture}"),
    Call("verify", "first --data {data} --steps 2"),
    Call("verify", "first --data {data} --steps 2 --layers", variant="--layers"),
    Call("golden", "first --data {data} --steps 1 -o {golden}"),
    Call("compare", "{golden} {golden}"),
    Call("sensitivity", "first --data {data} --steps 1 --top 3"),
    Call("advise", "first --data {data} --steps 1 --target-snr -10"),
    Call("improve", "first --data {data} --steps 2 --without observer -o {better}"),
    Call("check", "{int8} --target tflite"),
    Call("check", "{int8} --target onnxruntime", 1),
    Call("check", "{int8} --target onnxruntime --run first", 1),
    Call("db check"),
    Call("db upgrade"),
    Call("db stats"),
    Call("db gc", "--dry-run"),
    Call("db copy", "structure --to {copy}"),
    Call("rm", "spare"),
    Call("db gc"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A real model, calibrated and solved, an export of it, and names in it. `c1` was interrupted."""
    folder = tmp_path_factory.mktemp("project")
    files = {
        "model": "model.onnx",
        "data": "data.npz",
        "db": "project.db",
        "int8": "int8.onnx",
        "out": "out.onnx",
        "cache": "calibration.cache",
        "picture": "a.svg",
        "copy": "copy.db",
        "better": "better.onnx",
        "golden": "golden",
    }
    words = {word: str(folder / file) for word, file in files.items()}
    MODELS["ppocr_cls_v2"].write(Path(words["model"]))
    np.savez(words["data"], allow_pickle=False, **MODELS["ppocr_cls_v2"].samples(4, 0))
    for line in (
        "analyze {model} --target tflite --name structure",
        "calibrate {model} --data {data} --steps 2",
        "calibrate {model} --data {data} --target tflite --name first",
        "calibrate {model} --data {data} --shard 1/2",
        "calibrate {model} --data {data} --shard 2/2",
        "solve c2 --target ppl_cuda --observer minmax --name other",
        "solve c2 --target ppl_cuda --observer mse --name spare",
        "export first -o {int8}",
    ):
        assert run([*line.format(**words).split(), "--db", words["db"]]) == 0
    with closing(sqlite3.connect(words["db"])) as connection, connection:
        connection.execute("UPDATE calibrations SET status = 'partial' WHERE id = 1")
    with qgraph.open(words["db"]) as database:
        first = database.run("first")
        tensors, groups = first.scales()["tensors"], first.groups()["groups"]
        a, b = next(group["tensors"][:2] for group in groups if len(group["tensors"]) > 1)
        path = first.why(a, b)["path"]
    return {
        **words,
        "a": a,
        "b": b,
        "stranger": next(name for name, one in tensors.items() if one["group"] not in (None, tensors[a]["group"])),
        "unquantized": next(name for name, one in tensors.items() if one["group"] is None),
        "op": next(edge["op"] for edge in path if edge["op"]),
    }


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.command} {call.arguments}")
def test_json_has_exactly_its_keys_and_types(cli: Cli, project: Mapping[str, str], call: Call) -> None:
    result = cli(*call.line(project))
    assert result.code == call.code, result.stderr
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert document["schema"] == 1
    assert set(misfits(document, SHAPES[call.shape])) == set()


@pytest.mark.parametrize(
    "line", ["solve c1 --target tflite", "share nothing --run first", "runs --top", "frobnicate", "check {data} -t x"]
)
def test_an_error_is_json_of_one_shape_and_one_line(cli: Cli, project: Mapping[str, str], line: str) -> None:
    result = cli(*line.format(**project).split(), "--json", *(["--db", project["db"]] if "run" in line else []))
    assert result.code == 2
    assert list(misfits(result.json, ERROR)) == []
    assert len(result.stderr.splitlines()) == 1


def test_calibrate_says_whether_it_ran_resumed_or_reused(cli: Cli, project: Mapping[str, str]) -> None:
    calibrate = ["calibrate", project["model"], "--data", project["data"], "--json"]
    told = [cli(*calibrate).json, cli(*calibrate).json]
    assert [list(misfits(one, SHAPES["calibrate"])) for one in told] == [[], []]
    assert [(one["status"], one["samples"], one["inferences"]) for one in told] == [
        ("complete", 4, 4),
        ("reused", 4, 0),
    ]


def test_what_misfits_is_named() -> None:
    shape = {"run": str, "scales": {...: {"scale": (float, [float], None)}}}
    assert fits({"run": "r1", "scales": {"x": {"scale": [0.5]}, "y": {"scale": None}}}, shape)
    wrong = {"scales": {"x": {"scale": 1}, "y": {"scale": [0.5, True]}}, "more": 1}
    assert list(misfits(wrong, shape)) == [
        "$: run is missing",
        "$: more is new",
        "$.scales.*.scale: 1 is none of (<class 'float'>, [<class 'float'>], None)",
        "$.scales.*.scale[]: True is not <class 'float'>",
    ]
