"""The commands about the database itself, and the main job with PostgreSQL in place of a file."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from development_models import MODELS
from postgresql_server import Server

import qgraph
from qgraph.cli.main import run
from qgraph.errors import UsageError
from qgraph.store.blobs import digest


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small real model, samples for it, and a database: c1 with the runs `first` (r1) and r2."""
    folder = tmp_path_factory.mktemp("small")
    MODELS["ppocr_cls_v2"].write(folder / "model.onnx")
    np.savez(folder / "data.npz", allow_pickle=False, **MODELS["ppocr_cls_v2"].samples(4, 0))
    for line in (
        "calibrate {model} --data {data} --target tflite --name first",
        "solve first --target onnxruntime --observer minmax",
    ):
        words = line.format(model=folder / "model.onnx", data=folder / "data.npz").split()
        assert run([*words, "--db", str(folder / "qgraph.db")]) == 0
    return folder


@pytest.fixture
def database(small: Path, tmp_path: Path) -> Path:
    """A copy of that database, where `cli` finds it."""
    return Path(shutil.copy(small / "qgraph.db", tmp_path / "qgraph.db"))


@pytest.fixture
def url(postgresql: Server) -> str:
    """An empty PostgreSQL database, with a password that nobody may see."""
    return postgresql.new_database().replace("postgres@", "postgres:secret@")


def test_a_run_is_removed_and_what_rests_on_something_keeps_it(cli: Cli, database: Path) -> None:
    assert cli("rm", "r2").stdout == "removed r2\n"
    refused = cli("rm", "c1")
    assert refused.code == 2
    assert "something else was made from this: c1 (r1); remove that first, or add --with-dependents" in refused.stderr
    assert cli("rm", "m1", "--with-dependents", "--json").json["removed"] == {
        "runs": ["r1"],
        "calibrations": ["c1"],
        "models": ["m1"],
    }
    assert cli("runs", "--json").json["runs"] == []
    assert cli("rm", "latest").code == 2


def test_garbage_is_told_before_it_goes_and_the_file_shrinks(cli: Cli, database: Path) -> None:
    assert cli("rm", "c1", "--with-dependents").code == 0
    assert cli("db", "gc", "--dry-run").stdout == "nothing to remove\n"  # the model is of this hour
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE models SET created = '2020-01-01 00:00:00'")
    assert cli("db", "gc", "--dry-run").stdout == "would remove m1\n"
    size = database.stat().st_size
    told = cli("db", "gc", "--json").json
    assert told["removed"]["models"] == ["m1"]
    assert told["bytes_after"] < told["bytes_before"]
    assert database.stat().st_size < size / 2
    assert cli("db", "stats", "--json").json["rows"]["models"] == 0


def test_the_database_tells_its_size(cli: Cli, database: Path) -> None:
    told = cli("db", "stats").stdout
    assert told.startswith("qgraph.db: schema 0001, ")
    assert "MB" in told.splitlines()[0]
    answer = cli("db", "stats", "--json").json
    assert answer["rows"]["runs"] == 2
    assert answer["statistics_bytes"]["c1"] > 100_000
    assert answer["bytes"] >= database.stat().st_size


def test_a_missing_argument_names_the_command_of_db(cli: Cli) -> None:
    assert "see qgraph db copy --help" in cli("db", "copy", "--to", "c.db").stderr


def test_damage_inside_a_blob_is_found(cli: Cli, database: Path) -> None:
    assert cli("db", "check").stdout == "qgraph.db: nothing wrong\n"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE statistics SET blob = x'00' WHERE tensor = (SELECT min(tensor) FROM statistics)")
    found = cli("db", "check", "--json")
    assert found.code == 1
    assert [finding["check"] for finding in found.json["findings"]] == ["statistics"]


def test_a_blob_that_its_checksum_fits_is_read_when_asked_for(cli: Cli, database: Path) -> None:
    assert cli("db", "check", "--deep").stdout == "qgraph.db: nothing wrong\n"
    with closing(sqlite3.connect(database)) as connection, connection:
        one = "WHERE tensor = (SELECT min(tensor) FROM statistics)"
        connection.execute(f"UPDATE statistics SET blob = ?, digest = ? {one}", (b"no", digest(b"no")))
    assert cli("db", "check").code == 0
    found = cli("db", "check", "--deep")
    assert found.code == 1
    assert "cannot be read: a stored statistic is corrupt (2 bytes long)" in found.stdout


def test_a_run_moves_between_files_and_servers(cli: Cli, database: Path, url: str) -> None:
    there = cli("db", "copy", "first", "--to", url)
    assert there.code == 0, there.stderr
    assert "secret" not in there.stdout + there.stderr
    assert there.stdout.endswith(": run r1, calibration c1, model m1\n")
    back = cli("db", "copy", "first", "--db", url, "--to", "back.db", "--name", "second", "--json").json
    assert (back["run"], back["calibration"]) == ("r1", "c1")
    for question in (("scales",), ("groups", "--by-cost"), ("show",)):
        answers = [
            cli(*question, name, "--db", place, "--json").json
            for name, place in (("first", database), ("first", url), ("second", "back.db"))
        ]
        for answer in answers:
            answer.pop("name", None)
        assert answers[0] == answers[1] == answers[2]
    solved = cli("solve", "c1", "--target", "tflite", "--observer", "kl", "--db", "back.db", "--json").json
    assert solved == cli("solve", "c1", "--target", "tflite", "--observer", "kl", "--db", url, "--json").json
    for place in (url, "back.db"):
        assert cli("db", "check", "--db", place).code == 0


def test_the_main_job_with_postgresql(
    cli: Cli, small: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the place is the same, and nothing is written beside it."""
    monkeypatch.setenv("QGRAPH_DB", url)
    model, data = small / "model.onnx", small / "data.npz"
    shown = []

    def ask(*words: object, code: int = 0) -> object:
        result = cli(*words, "--json")
        assert result.code == code, result.stderr
        shown.append(result.stdout + result.stderr + cli(*words).stdout)
        return result.json

    refused = cli("runs")
    assert refused.code == 2
    assert "an empty database" in refused.stderr
    calibrate = ("calibrate", model, "--data", data, "--target", "tflite", "--name", "first")
    assert cli(*calibrate, "--json").json["status"] == "complete"
    assert cli(*calibrate, "--json").json["status"] == "reused"
    assert cli("solve", "first", "--target", "onnxruntime", "--observer", "minmax").code == 0
    tensors = cli("scales", "first", "--json").json["tensors"]
    assert tensors == cli("scales", "first", "--db", small / "qgraph.db", "--json").json["tensors"]
    group = next(g for g in cli("groups", "first", "--json").json["groups"] if len(g["tensors"]) > 1)
    a, b = group["tensors"][:2]
    for words in (
        ("runs",), ("show", "first"), ("groups", "first"), ("coverage", "first"), ("share", a, "--run", "first"),
        ("why", a, b, "--run", "first"), ("blame", a, "--run", "first"), ("diff", "first", "r2"),
        ("show", "first", "--tensor", a), ("db", "check"), ("db", "stats"), ("db", "upgrade"),
        ("db", "gc", "--dry-run"), ("export", "first", "-o", tmp_path / "int8.onnx"),
    ):  # fmt: skip
        here, there = ask(*words), cli(*words, "--db", small / "qgraph.db", "--json").json
        if words[0] not in ("db", "runs", "show", "export"):
            assert here == there
    assert cli("rm", "r2").code == 0
    assert cli("db", "gc").code == 0
    assert "secret" not in "".join(shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx"]
    with qgraph.open() as database:
        assert database.run("first").scales()["tensors"] == tensors


def test_from_python(database: Path, tmp_path: Path) -> None:
    with qgraph.open(database) as opened:
        assert opened.copy("first", tmp_path / "other.db", name="copied") == "r1"
        assert opened.copy(opened.run("r2"), tmp_path / "other.db") == "r2"
        with pytest.raises(UsageError, match="something else was made from this"):
            opened.remove(opened.calibration("c1"))
        opened.remove(opened.run("first"), "r2")
        opened.remove("c1")
        assert opened.runs()["runs"] == []
    with qgraph.open(tmp_path / "other.db") as other:
        assert [run["name"] for run in other.runs()["runs"]] == ["copied", None]
