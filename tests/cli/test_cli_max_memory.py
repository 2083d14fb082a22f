"""A limit of memory takes more passes, and gives the same statistics bit for bit, interrupted or not."""

from __future__ import annotations

import gc
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

import qgraph
from qgraph.calib.collect import THREADS

MARGIN = 12 << 20
"""The test's own process may grow a little between a dry run and a calibration."""


def statistics_of(database: Path, calibration: str = "c1") -> dict[str, bytes]:
    connection = sqlite3.connect(database)
    query = "SELECT tensor, blob FROM statistics WHERE calibration_id = ?"
    rows = dict(connection.execute(query, [int(calibration[1:])]).fetchall())
    connection.close()
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ppocr4_det: Path, ocr_photos: Path) -> dict[str, bytes]:
    database = tmp_path_factory.mktemp("whole") / "whole.db"
    with qgraph.open(database) as opened:
        opened.calibrate(ppocr4_det, ocr_photos)
    return statistics_of(database)


def limit_for(model: Path, data: Path, parts: int) -> int:
    """Bytes that leave room for a part of the counters."""
    with qgraph.open("nowhere.db") as database:
        database.forecast(model, data)  # what grows on first use has grown then
        memory = database.forecast(model, data)["memory_bytes"]
    return int(memory["fixed"] + memory["activations"] / THREADS + memory["histograms"] / parts + MARGIN)


def in_a_process(folder: Path, *arguments: object) -> Any:
    """The answer of a command in a process of its own, whose memory is not that of the tests before."""
    command = [sys.executable, "-m", "qgraph", "calibrate", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_several_passes_count_the_same(
    ppocr4_det: Path, ocr_photos: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    job = [ppocr4_det, "--data", ocr_photos]
    in_a_process(tmp_path, *job, "--steps", 1)  # stores the model, which takes memory of its own
    memory = in_a_process(tmp_path, *job, "--dry-run")["memory_bytes"]
    limit = int(memory["fixed"] + memory["activations"] / THREADS + memory["histograms"] / 4) + MARGIN
    forecast = in_a_process(tmp_path, *job, "--max-memory", limit, "--dry-run")
    assert forecast["passes"] > 1
    assert forecast["memory_bytes"]["peak"] <= limit
    assert "activations" in forecast["memory_bytes"]["formula"]
    done = in_a_process(tmp_path, *job, "--max-memory", limit)
    assert done["status"] == "complete"
    assert done["inferences"] > done["samples"]
    assert done["inferences"] % done["samples"] == 0
    assert statistics_of(tmp_path / "qgraph.db", done["calibration"]) == whole
    again = in_a_process(tmp_path, *job)
    assert (again["status"], again["calibration"]) == ("reused", done["calibration"])


class StoppedError(Exception):
    """Stands for a process that is interrupted."""


@pytest.mark.parametrize("same_limit", [True, False])
def test_it_goes_on_within_any_pass_with_any_limit(
    ppocr4_det: Path, ocr_photos: Path, whole: dict[str, bytes], tmp_path: Path, *, same_limit: bool
) -> None:
    with qgraph.open(tmp_path / "q.db") as database:
        database.calibrate(ppocr4_det, ocr_photos, steps=1)
    limit = limit_for(ppocr4_det, ocr_photos, 3)
    ticks: list[tuple[int, int]] = []

    def stop_in_the_second_pass(done: int, total: int) -> None:
        ticks.append((done, total))
        if [one for one, _ in ticks].count(2) == 2:
            raise StoppedError

    options: dict[str, Any] = {"checkpoint_every": 0, "max_memory": limit}
    with qgraph.open(tmp_path / "q.db") as database:
        with pytest.raises(StoppedError):
            database.calibrate(ppocr4_det, ocr_photos, tick=stop_in_the_second_pass, **options)
        assert database.calibration("c2").status == "partial"
        gc.collect()  # what was interrupted is still held by its traceback
        done = database.calibrate(ppocr4_det, ocr_photos, **(options if same_limit else {}))
        assert done.id == "c2"
        assert done.resumed_from in (1, 2)
    assert statistics_of(tmp_path / "q.db", "c2") == whole


def test_too_little_is_refused_with_what_is_needed(cli: Cli, ppocr4_det: Path, ocr_photos: Path) -> None:
    for extra in ([], ["--dry-run"]):
        told = cli("calibrate", ppocr4_det, "--data", ocr_photos, "--max-memory", "20M", *extra)
        assert told.code == 2
        assert "too little memory" in told.stderr
        assert "allow" in told.stderr


@pytest.mark.parametrize("size", ["", "much", "-1G", "0", "nan", "1X"])
def test_a_size_that_cannot_be_read_is_one_line(cli: Cli, ppocr4_det: Path, ocr_photos: Path, size: str) -> None:
    told = cli("calibrate", ppocr4_det, "--data", ocr_photos, f"--max-memory={size}")
    assert told.code == 2
    assert told.stderr.count("\n") == 1
