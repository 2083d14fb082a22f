"""A limit of memory takes more passes, and gives the same statistics bit for bit, interrupted or not."""

from __future__ import annotations

import gc
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

import qgraph
import qgraph.calib.forecast
from qgraph.calib.collect import THREADS

MARGIN = 4 << 20
"""Two processes do not take the same memory to the byte."""


def statistics_of(database: Path, calibration: str = "c1") -> dict[str, bytes]:
    connection = sqlite3.connect(database)
    query = "SELECT tensor, blob FROM statistics WHERE calibration_id = ?"
    rows = dict(connection.execute(query, [int(calibration[1:])]).fetchall())
    connection.close()
    return rows


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, ocr_photos: Path) -> Path:
    """Eight photographs: every pass stores as many checkpoints."""
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    np.savez(path, x=np.load(ocr_photos)["x"][:8])
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ppocr4_det: Path, photos: Path) -> dict[str, bytes]:
    database = tmp_path_factory.mktemp("whole") / "whole.db"
    with qgraph.open(database) as opened:
        opened.calibrate(ppocr4_det, photos)
    return statistics_of(database)


def limit_for(memory: dict[str, Any], parts: int) -> int:
    """Bytes that leave room for a part of the counters of a forecast."""
    return int(memory["fixed"] + memory["activations"] / THREADS + memory["histograms"] / parts + MARGIN)


def test_several_passes_count_the_same(ppocr4_det: Path, photos: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    def calibrate(*options: object) -> Any:
        """In a process of its own: this one's memory is that of many tests."""
        command = [sys.executable, "-m", "qgraph", "calibrate", ppocr4_det, "--data", photos, *options, "--json"]
        return json.loads(subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, check=True).stdout)

    limit = limit_for(calibrate("--dry-run")["memory_bytes"], 4)
    forecast = calibrate("--max-memory", limit, "--dry-run")
    assert forecast["passes"] > 1
    assert forecast["memory_bytes"]["peak"] <= limit
    assert "activations" in forecast["memory_bytes"]["formula"]
    done = calibrate("--max-memory", limit)
    assert done["status"] == "complete"
    assert done["inferences"] > done["samples"]
    assert done["inferences"] % done["samples"] == 0
    assert statistics_of(tmp_path / "qgraph.db", done["calibration"]) == whole
    again = calibrate()
    assert (again["status"], again["calibration"]) == ("reused", done["calibration"])


SETUP = """import re, sys, qgraph; from pathlib import Path; STATUS = Path('/proc/self/status')
model, data = sys.argv[1:]; database = qgraph.open('q.db')"""
FORETELL = "print(database.forecast(model, data)['memory_bytes']['peak'])"
CALIBRATE = r"database.calibrate(model, data); print(1024 * int(re.search('VmHWM:\s+([0-9]+)', STATUS.read_text())[1]))"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_takes_the_memory_that_another_foretold(ppocr4_det: Path, photos: Path, tmp_path: Path) -> None:
    def told_by(work: str) -> int:
        code = f"{SETUP}; {work}"
        command = [sys.executable, "-c", code, str(ppocr4_det), str(photos)]
        return int(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    assert 0.95 < told_by(FORETELL) / told_by(CALIBRATE) < 1.2


class StoppedError(Exception):
    """Stands for a process that is interrupted."""


@pytest.mark.parametrize("same_limit", [True, False])
def test_it_goes_on_within_any_pass_with_any_limit(
    ppocr4_det: Path,
    photos: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    same_limit: bool,
) -> None:
    # The memory of a process that runs many tests grows and shrinks by itself; tests above look at real ones.
    monkeypatch.setattr(qgraph.calib.forecast, "resident_memory", lambda: 400 << 20)
    with qgraph.open(tmp_path / "q.db") as database:
        database.calibrate(ppocr4_det, photos, steps=1)
        limit = limit_for(database.forecast(ppocr4_det, photos)["memory_bytes"], 3)
    ticks: list[tuple[int, int]] = []

    def stop_in_the_second_pass(done: int, total: int) -> None:
        ticks.append((done, total))
        if [one for one, _ in ticks].count(2) == 2:
            raise StoppedError

    options: dict[str, Any] = {"checkpoint_every": 0, "max_memory": limit}
    with qgraph.open(tmp_path / "q.db") as database:
        with pytest.raises(StoppedError):
            database.calibrate(ppocr4_det, photos, tick=stop_in_the_second_pass, **options)
        assert database.calibration("c2").status == "partial"
        gc.collect()  # what was interrupted is still held by its traceback
        done = database.calibrate(ppocr4_det, photos, **(options if same_limit else {}))
        assert done.id == "c2"
        assert done.resumed_from in (1, 2)
    assert statistics_of(tmp_path / "q.db", "c2") == whole


def test_too_little_is_refused_with_what_is_needed(cli: Cli, ppocr4_det: Path, photos: Path) -> None:
    for extra in ([], ["--dry-run"]):
        told = cli("calibrate", ppocr4_det, "--data", photos, "--max-memory", "20M", *extra)
        assert told.code == 2
        assert "too little memory" in told.stderr
        assert "allow" in told.stderr


@pytest.mark.parametrize("size", ["", "much", "-1G", "0", "nan", "1X"])
def test_a_size_that_cannot_be_read_is_one_line(cli: Cli, ppocr4_det: Path, photos: Path, size: str) -> None:
    told = cli("calibrate", ppocr4_det, "--data", photos, f"--max-memory={size}")
    assert told.code == 2
    assert told.stderr.count("\n") == 1
