"""What a terminal, a pipe and a reader that goes away get to see."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import Cli
from hypothesis import given
from hypothesis import strategies as st

from qgraph.cli.layout import layout
from qgraph.cli.output import write_table

ESCAPE = "\x1b"


def on_a_terminal(folder: Path, columns: int, *arguments: str, **environment: str) -> str:
    """What a command shows on a terminal of this width."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "NO_COLOR", "QGRAPH_DB"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "qgraph", *arguments],
        stdin=there,
        stdout=there,
        stderr=there,
        cwd=folder,
        env=kept | {"TERM": "xterm-256color"} | environment,
    )
    os.close(there)
    shown = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # so Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(here)
    assert process.wait() == 0, shown
    return shown.decode().replace("\r\n", "\n")


def piped(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qgraph", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_a_terminal_gets_colours_unless_it_says_no(calibrated: Path) -> None:
    for arguments in (["groups", "mse", "--top", "3"], ["share", "--help"]):
        assert ESCAPE in on_a_terminal(calibrated.parent, 100, *arguments)
        assert ESCAPE not in on_a_terminal(calibrated.parent, 100, *arguments, NO_COLOR="1")


def test_a_pipe_gets_no_escape_codes(calibrated: Path) -> None:
    for arguments in (["groups", "mse"], ["scales", "mse"], ["share", "--help"], ["share", "nothing"]):
        done = piped(calibrated.parent, *arguments)
        assert ESCAPE not in done.stdout + done.stderr


def test_a_narrow_terminal_gets_a_block_of_lines_for_each_row(calibrated: Path) -> None:
    shown = on_a_terminal(calibrated.parent, 40, "runs", NO_COLOR="1")
    assert "force overlap  false" in shown.splitlines()
    assert max(map(len, shown.splitlines())) <= 40
    wide = on_a_terminal(calibrated.parent, 140, "runs", NO_COLOR="1")
    assert wide.splitlines()[0].split() == [
        "run",
        "name",
        "model",
        "calibration",
        "samples",
        "target",
        "observer",
        "force",
        "overlap",
        "created",
    ]
    assert len(wide.splitlines()) == 2


def test_a_pipe_gets_one_line_for_each_row_however_long(cli: Cli, calibrated: Path) -> None:
    lines = cli("groups", "mse", "--by-cost").stdout.splitlines()
    groups = cli("groups", "mse", "--by-cost", "--json").json["groups"]
    assert [line.split()[0] for line in lines[1:-1]] == [group["id"] for group in groups]
    assert all(name in line for line, group in zip(lines[1:-1], groups, strict=True) for name in group["tensors"])


def test_names_that_a_terminal_has_no_room_for_lose_their_middle_and_in_a_pipe_none_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "functional_1/block_3_expand_relu/Relu6;functional_1/block_3_expand_BN/FusedBatchNormV3;functional_1/block_3"
    rows = [("g1", -3.25, f"{name}, {name}_depthwise"), ("g2", None, "x")]
    write_table(("group", "price dB", "tensors"), rows)
    assert f"{name}, {name}_depthwise" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    write_table(("group", "price dB", "tensors"), rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[2].startswith("functional_1/block_3_expand_relu/Relu6;")
    assert "…" in lines[1]
    assert lines[2].endswith("_depthwise")


words = st.text("ab,-", min_size=1, max_size=30)
texts = st.lists(words, min_size=1, max_size=5).map(" ".join)


@given(
    rows=st.lists(st.tuples(texts, st.floats(0, 1e9).map("{:.6g}".format), texts), max_size=5),
    width=st.integers(1, 200),
)
def test_a_table_is_as_wide_as_the_terminal_at_most_and_never_cuts_figures_or_headers(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    headers = ("tensor", "scale in r1", "reason")
    found = layout(headers, rows, (False, True, False), width)
    if found is None:
        assert width < 20 + 1 + 12 + 1 + 20
        return
    assert sum(found.widths) + 2 * found.gap <= width
    assert found.widths[1] >= max((len(row[1]) for row in rows), default=0)
    for column, header in enumerate(headers):
        assert found.widths[column] >= max(map(len, header.split()))


LONG = (["scales", "mse"], ["groups", "mse"], ["scales", "mse", "--json"])
SHORT = (["runs"], ["--help"], ["share", "--help"])
"""`head` reads the whole of a short answer, before it goes away."""


@pytest.mark.parametrize(
    ("arguments", "reader"), [*((one, "head -1") for one in LONG), *((one, "true") for one in (*LONG, *SHORT))], ids=str
)
def test_a_reader_that_has_seen_enough_is_no_error(calibrated: Path, arguments: list[str], reader: str) -> None:
    command = f'"$0" -m qgraph "$@" | {reader} >/dev/null; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *arguments],
        cwd=calibrated.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_reader_that_goes_away_does_not_change_what_was_found(calibrated: Path) -> None:
    command = '"$0" -m qgraph diff mse other --exit-code | true; echo "${PIPESTATUS[0]}"'
    folder = calibrated.parent
    assert piped(folder, "solve", "c1", "--target", "tflite", "--observer", "minmax", "--name", "other").returncode == 0
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_an_answer_that_cannot_be_written_is_one_line(calibrated: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qgraph", "runs"],
            cwd=calibrated.parent,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("qgraph: the answer cannot be written: No space left on device")
    assert len(done.stderr.splitlines()) == 1
