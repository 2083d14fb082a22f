"""A calibration killed at any point continues, and ends bit-identical to one that was never interrupted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

import qgraph
from qgraph.calib.codec import encode
from qgraph.calib.statistics import merge

TARGET = ["--target", "tflite", "--observer", "mse"]

CALIBRATE = ["nice", "-n", "5", sys.executable, "-m", "qgraph", "calibrate"]
"""On a busy machine the one that is watched goes slower than the one that watches."""


def counted(database: Path) -> int:
    """Samples that a database holds, asked from outside while another process writes."""
    if not database.exists():
        return 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    try:
        row = connection.execute("SELECT COALESCE(MAX(samples), 0) FROM calibrations").fetchone()
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    finally:
        connection.close()
    return int(row[0])


def statistics_of(database: Path) -> dict[str, bytes]:
    connection = sqlite3.connect(database)
    rows = dict(connection.execute("SELECT tensor, blob FROM statistics").fetchall())
    connection.close()
    return rows


def start(model: Path, data: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CALIBRATE, str(model), "--data", str(data), "--checkpoint-every", "0", *TARGET, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process: subprocess.Popen[str], database: Path, samples: int, pause: float = 0.0) -> None:
    """Kill it a moment after it has stored so many samples."""
    deadline = time.monotonic() + 120
    while counted(database) < samples:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def read_until(screen: int, wanted: bytes | None = None) -> bytes:
    """What a terminal shows until it shows what is wanted, or until nobody writes to it any more."""
    shown = b""
    while wanted is None or wanted not in shown:
        try:
            shown += os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
    return shown


def test_killed_at_random_points_it_resumes_to_the_same_bits(
    cli: Cli, calibrated_session: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    database, chance = tmp_path / "qgraph.db", random.Random(7)
    for samples in (0, 3, 9, 17):  # while it starts, and while it counts, far from the end
        process = start(ppocr4_det, ocr_photos, tmp_path)
        kill_when(process, database, samples, chance.uniform(0, 0.02 if samples else 0.6))
    before = counted(database)
    assert 17 <= before < 32
    answer = cli("calibrate", ppocr4_det, "--data", ocr_photos, *TARGET, "--json").json
    assert answer["status"] == "complete"
    assert (answer["samples"], answer["resumed_from"], answer["inferences"]) == (32, before, 32 - before)
    assert statistics_of(database) == statistics_of(calibrated_session)
    scales = cli("scales", "latest", "--json").json["tensors"]
    assert scales == cli("scales", "mse", "--db", calibrated_session, "--json").json["tensors"]
    assert cli("calibrate", ppocr4_det, "--data", ocr_photos, *TARGET, "--json").json["inferences"] == 0
    assert cli("db", "check").code == 0


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, ppocr4_det: Path, ocr_photos: Path) -> Path:
    """A folder with the database of a calibration that was killed. Copy it."""
    folder = tmp_path_factory.mktemp("killed")
    kill_when(start(ppocr4_det, ocr_photos, folder), folder / "qgraph.db", 4)
    return folder


def test_a_partial_calibration_is_marked_and_not_solved_unless_told(cli: Cli, killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    refused = cli("solve", "c1", *TARGET)
    assert refused.code == 2
    assert "partial" in refused.stderr
    assert cli("solve", "c1", *TARGET, "--allow-partial", "--json").json["run"] == "r1"


def test_an_unfinished_sibling_is_named_with_the_field_that_differs(
    cli: Cli, killed: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    other = cli("calibrate", ppocr4_det, "--data", ocr_photos, "--steps", 3, "--json")
    assert other.json["calibration"] == "c2"
    (line,) = [line for line in other.stderr.splitlines() if "c1" in line]
    assert "steps" in line


def test_data_counted_in_parts_merges_to_the_same_bits(
    calibrated_session: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    samples = np.load(ocr_photos)["x"]
    with qgraph.open(tmp_path / "parts.db") as database:
        counted = [database.calibrate(ppocr4_det, {"x": part}).statistics() for part in np.array_split(samples, 3)]
    merged = {tensor: encode(reduce(merge, (part[tensor] for part in counted))) for tensor in counted[0]}
    assert merged == statistics_of(calibrated_session)


def test_on_a_terminal_a_bar_shows_the_rate(ppocr4_det: Path, ocr_photos: Path, tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    command = [sys.executable, "-m", "qgraph", "calibrate", str(ppocr4_det), "--data", str(ocr_photos)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    shown = read_until(screen)
    os.close(screen)
    stdout, _ = process.communicate()
    assert (process.returncode, stdout.splitlines()[0]) == (0, "calibration c1: 32 samples (32 run now)")
    assert b"32/32" in shown
    assert b"/s" in shown
