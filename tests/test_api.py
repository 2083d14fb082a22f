"""What Python callers get wrong is said in one line, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qgraph
from qgraph.errors import StoreError, UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x → Conv → y."""
    shape: list[str | int | None] = ["n", 2, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


DATA = np.random.default_rng(0).normal(size=(4, 2, 4, 4)).astype(np.float32)


@pytest.fixture
def database(location: str, model: Path) -> Iterator[qgraph.Database]:
    """One calibration, c1, and one run, r1."""
    with qgraph.open(location) as opened:
        opened.calibrate(model, DATA).solve(target="tflite")
        yield opened


WRONG: dict[str, Callable[[qgraph.Database, Path], object]] = {
    "model must be a path: None": lambda db, _: db.calibrate(None, DATA),
    "model must be a path: 5": lambda db, _: db.analyze(5, "tflite"),
    "steps must be a whole number": lambda db, model: db.calibrate(model, DATA, steps=-1),
    "steps must be a whole number from 1": lambda db, model: db.calibrate(model, DATA, steps=1.5),  # type: ignore[arg-type]
    "steps must be a whole number from": lambda db, model: db.calibrate(model, DATA, steps=10**20),
    "steps must be a whole": lambda db, model: db.forecast(model, DATA, steps=True),
    "batch_size must be a whole number": lambda db, model: db.calibrate(model, DATA, batch_size=0),
    "checkpoint_every must be a number of seconds": lambda db, model: db.calibrate(model, DATA, checkpoint_every=-1),
    "checkpoint_every must be": lambda db, model: db.calibrate(model, DATA, checkpoint_every=float("nan")),
    "calibration must be a text": lambda db, _: db.solve(1, target="tflite"),  # type: ignore[arg-type]
    "target must be a text": lambda db, _: db.solve("c1", target=None),  # type: ignore[arg-type]
    "observer must be a text: None; a run with scales needs one": lambda db, _: db.solve(
        "c1",
        target="tflite",
        observer=None,  # type: ignore[arg-type]
    ),
    "force_overlap must be a bool or \"auto\": 'false'": lambda db, _: db.solve(
        "c1",
        target="tflite",
        force_overlap="false",  # type: ignore[arg-type]
    ),
    "weights must be a text": lambda db, _: db.solve("c1", target="tflite", weights=3),  # type: ignore[arg-type]
    "parameters must be a dict": lambda db, _: db.solve("c1", target="tflite", parameters=3),  # type: ignore[arg-type]
    "collate_fn must be a function": lambda db, model: db.calibrate(model, DATA, collate_fn=3),  # type: ignore[arg-type]
    "name must be a text": lambda db, _: db.solve("c1", target="tflite", name=7),  # type: ignore[arg-type]
    "a run cannot have this name": lambda db, model: db.calibrate(model, DATA, name="c1"),
    "run must be a text: 1": lambda db, _: db.run(1),  # type: ignore[arg-type]
    "tensor must be a text: 3": lambda db, _: db.run().share(3),  # type: ignore[arg-type]
    "b must be a text": lambda db, _: db.run().why("x", None),  # type: ignore[arg-type]
    "tensor is not valid UTF-8": lambda db, _: db.run().share("\udcff"),
    "run is not valid UTF-8": lambda db, _: db.run("\udcff"),
    "zero byte": lambda db, _: db.analyze("a\0b", "tflite"),
    "output must be a path": lambda db, _: db.run().export(None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("message", "call"), WRONG.items(), ids=WRONG)
def test_a_wrong_argument_is_one_line(
    database: qgraph.Database, model: Path, message: str, call: Callable[[qgraph.Database, Path], object]
) -> None:
    with pytest.raises(UsageError) as refused:
        call(database, model)
    assert message in str(refused.value)


def test_whole_numbers_of_other_libraries_are_numbers(database: qgraph.Database, model: Path) -> None:
    done = database.calibrate(model, DATA, steps=np.int64(2), batch_size=np.int32(1), checkpoint_every=np.float32(1))  # type: ignore[arg-type]
    assert done.samples == 2


def test_a_target_may_be_a_path(database: qgraph.Database, tmp_path: Path) -> None:
    with pytest.raises(qgraph.QgraphError, match=r"mine\.toml"):
        database.solve("c1", target=tmp_path / "mine.toml")


def test_runs_are_compared_as_such_or_by_reference(database: qgraph.Database) -> None:
    first, second = database.run("r1"), database.solve("c1", target="tflite", observer="minmax", name="second")
    answers: list[Any] = [
        first.diff(second),
        first.diff("r2"),
        first.diff("second"),
        database.diff(first, "latest"),
        database.diff("r1", second),
    ]
    assert answers[0]["settings"]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_whose_file_was_removed_takes_nothing_into_the_void(
    model: Path, tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with qgraph.open("gone.db") as db:
        run = db.analyze(model, "tflite")
        monkeypatch.chdir("/")
        assert run.groups()["groups"]
        Path(tmp_path, "gone.db").unlink()
        if replaced:
            Path(tmp_path, "gone.db").touch()
        with pytest.raises(StoreError, match=r"removed or replaced since it was opened: gone.db; open it again"):
            run.groups()
        with pytest.raises(StoreError, match="removed or replaced"):
            db.analyze(model, "xnnpack")
    with qgraph.open(tmp_path / "gone.db") as db:
        assert db.analyze(model, "xnnpack").groups()["groups"]


def test_a_closed_database_stays_closed(database: qgraph.Database) -> None:
    run = database.run("r1")
    database.close()
    database.close()
    with pytest.raises(UsageError, match="the database is closed"):
        database.runs()
    with pytest.raises(UsageError, match="the database is closed"):
        run.share("y")


def test_what_is_open_says_what_it_is_and_hides_passwords(database: qgraph.Database) -> None:
    assert repr(database.run()).startswith("<Run r1 in <Database ")
    assert repr(database.calibration("c1")).startswith("<Calibration c1 (reused, 4 samples) in <Database ")
    elsewhere = qgraph.open("postgresql://me:secret@localhost/name")
    elsewhere.close()
    with pytest.raises(UsageError, match="closed") as refused:
        elsewhere.run()
    assert "me:***@localhost" in repr(elsewhere)
    assert "secret" not in f"{elsewhere!r} {refused.value}"


def test_an_unquantized_tensor_does_not_even_share_with_itself(tmp_path: Path) -> None:
    shape = [1, 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu"), helper.make_node("Erf", ["y"], ["c"], "erf"),
         helper.make_node("Erf", ["c"], ["z"], "last")],
        "unquantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    path = tmp_path / "unquantized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    run = qgraph.open(tmp_path / "q.db").analyze(path, "tflite")
    assert run.share("c")["group"] is None
    assert run.why("c", "c")["shared"] is False
    answer = run.why_not("c", "c")
    assert answer["shared"] is False
    assert answer["reason"].startswith("c is not quantized: ")
