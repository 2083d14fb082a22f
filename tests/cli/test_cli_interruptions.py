"""Signals, a full disk and a takeover: the same command continues, to the same bits."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Cli
from test_cli_resume import CALIBRATE, TARGET, counted, read_until, start, statistics_of

FULL = "no space is left for the database|the database cannot be read or written"


def wait_for(process: subprocess.Popen[str], database: Path, samples: int) -> None:
    deadline = time.monotonic() + 120
    while counted(database) < samples:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(cli: Cli, model: Path, data: Path) -> dict[str, object]:
    result = cli("calibrate", model, "--data", data, "--json")
    assert result.code == 0, result.stderr
    answer: dict[str, object] = result.json
    assert (answer["status"], answer["samples"]) == ("complete", 32)
    return answer


def test_a_command_that_is_terminated_leaves_nothing_half_written(
    calibrated: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    assert calibrated
    process = subprocess.Popen(
        [sys.executable, "-m", "qgraph", "golden", "latest", "--data", ocr_photos, "-o", "gold"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".gold.*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    answer, errors = process.communicate()
    assert (process.returncode, answer) == (143, "")
    assert errors.splitlines()[-1] == "qgraph: terminated: golden; give the same command again"
    assert not [path for path in tmp_path.iterdir() if "gold" in path.name]


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_stores_what_was_counted_and_says_how_to_go_on(
    cli: Cli, calibrated_session: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path,
    number: signal.Signals, code: int, told: str,
) -> None:  # fmt: skip
    database = tmp_path / "qgraph.db"
    shown, terminal = os.openpty()
    process = subprocess.Popen(
        [*CALIBRATE, ppocr4_det, "--data", ocr_photos, "--checkpoint-every", "1000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, text=True,
    )  # fmt: skip
    os.close(terminal)
    assert b"/32" in read_until(shown, b"/32")  # the bar begins with the first sample
    assert counted(database) == 0  # without the signal, nothing would be stored before the end
    process.send_signal(number)
    errors = read_until(shown).decode()
    os.close(shown)
    process.communicate()
    assert process.returncode == code
    assert f"qgraph: {told}: calibrate; the same command continues" in errors
    assert 0 < counted(database) < 32
    assert not leased(database)
    before = counted(database)
    assert finish(cli, ppocr4_det, ocr_photos)["resumed_from"] == before
    assert statistics_of(database) == statistics_of(calibrated_session)


def leased(database: Path) -> bool:
    if not database.exists():
        return False
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM leases").fetchone()[0])
        except sqlite3.OperationalError:  # the tables are not there yet
            return False


def test_on_a_full_disk_nothing_is_lost_and_the_same_command_continues(
    cli: Cli, calibrated_session: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    assert cli("calibrate", ppocr4_det, "--data", ocr_photos, "--steps", 1).code == 0  # the model is stored
    size = (tmp_path / "qgraph.db").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, resource.RLIM_INFINITY))

    arguments = ["calibrate", str(ppocr4_det), "--data", str(ocr_photos), "--checkpoint-every", "0", *TARGET]
    full = subprocess.run(
        [sys.executable, "-m", "qgraph", *arguments, "--json"], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=limit, check=False,
    )  # fmt: skip
    assert full.returncode == 2, full.stderr
    assert json.loads(full.stdout)["error"]["what"] in FULL.split("|")
    assert len(full.stderr.strip().splitlines()) <= 2
    assert cli("db", "check").code == 0
    finish(cli, ppocr4_det, ocr_photos)
    with closing(sqlite3.connect(tmp_path / "qgraph.db")) as connection:
        found = dict(connection.execute("SELECT tensor, blob FROM statistics WHERE calibration_id = 2").fetchall())
    assert found == statistics_of(calibrated_session)


def stop_between_writes(process: subprocess.Popen[str], database: Path) -> None:
    """Stop a process at a point where it does not hold the database itself, which would lock out everybody."""
    deadline = time.monotonic() + 120
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                assert time.monotonic() < deadline
            else:
                return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.003)


def test_who_slept_while_another_took_over_stops_without_writing(
    cli: Cli, calibrated_session: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    database = tmp_path / "qgraph.db"
    process = start(ppocr4_det, ocr_photos, tmp_path)
    try:
        wait_for(process, database, 2)
        stop_between_writes(process, database)
        refused = cli("calibrate", ppocr4_det, "--data", ocr_photos, *TARGET)
        assert refused.code == 2
        assert f"process {process.pid} on " in refused.stderr
        assert " since 2" in refused.stderr
        with closing(sqlite3.connect(database)) as connection, connection:  # as if it slept on another machine
            connection.execute("UPDATE leases SET process_space = 'elsewhere', heartbeat = heartbeat - 100")
        finish(cli, ppocr4_det, ocr_photos)
        done = statistics_of(database)
        process.send_signal(signal.SIGCONT)
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 2
    assert "taken over" in errors
    assert json.loads(out)["error"]["which"] == "c1"
    assert statistics_of(database) == done == statistics_of(calibrated_session)
