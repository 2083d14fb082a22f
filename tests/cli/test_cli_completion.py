"""TAB in bash, by the script that `qgraph --show-completion` prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

COMPLETE = r"""
eval "$SCRIPT"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p qgraph | sed 's/.*-F \([^ ]*\) .*/\1/')
"$function" qgraph "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program under its name."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "qgraph").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qgraph "$@"\n')
    (folder / "qgraph").chmod(0o755)
    return folder


@cache
def printed(program: Path, shell: str, **environment: str) -> str:
    """The script for a shell."""
    environment = {"PATH": "/usr/bin:/bin", "_QGRAPH_COMPLETE": f"source_{shell}"} | environment
    command = [program / "qgraph"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def completed(program: Path, folder: Path, *typed: str) -> list[str]:
    """What bash offers for the last of the words."""
    script = printed(program, "bash")
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "qgraph", *typed],
        cwd=folder,
        env={"PATH": f"{program}:/usr/bin:/bin", "SCRIPT": script},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


def test_commands_options_and_choices(program: Path, tmp_path: Path) -> None:
    assert completed(program, tmp_path, "sc") == ["scales"]
    assert {"check", "upgrade", "stats"} <= set(completed(program, tmp_path, "db", ""))
    assert completed(program, tmp_path, "analyze", "--force-o") == ["--force-overlap"]
    assert {"true", "false"} <= set(completed(program, tmp_path, "solve", "--force-overlap", ""))


def test_targets_and_observers(program: Path, tmp_path: Path) -> None:
    for command in ("analyze", "calibrate", "solve", "check"):
        assert completed(program, tmp_path, command, "--target", "tfl") == ["tflite"]
    assert {"minmax", "mse"} <= set(completed(program, tmp_path, "solve", "c1", "--observer", "m"))


def test_names_in_the_database(program: Path, calibrated: Path, tmp_path: Path) -> None:
    folder = calibrated.parent
    assert completed(program, folder, "show", "") == ["r1", "mse", "latest"]
    assert completed(program, folder, "share", "--run", "m") == ["mse"]
    assert completed(program, folder, "diff", "r1", "l") == ["latest"]
    assert completed(program, folder, "solve", "c") == ["c1"]
    assert completed(program, folder, "share", "p2o.Concat") == ["p2o.Concat.1"]
    moved = calibrated.rename(tmp_path / "other.db")
    assert completed(program, folder, "show", "m") == []
    assert completed(program, folder, "show", "--db", str(moved), "m") == ["mse"]


def test_no_database_is_made_and_none_is_no_error(program: Path, tmp_path: Path) -> None:
    assert completed(program, tmp_path, "show", "r") == []
    assert completed(program, tmp_path, "share", "x") == []
    (tmp_path / "qgraph.db").write_text("I am no database, but long enough to be looked at")
    assert completed(program, tmp_path, "show", "r") == []
    assert [path.name for path in tmp_path.iterdir()] == ["qgraph.db"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_is_printed_without_installing_anything(program: Path, tmp_path: Path, shell: str) -> None:
    assert "_QGRAPH_COMPLETE" in printed(program, shell, HOME=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_bash_is_found_by_itself(program: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", "qgraph --show-completion; true"],  # bash itself would be replaced by the last command
        env={"PATH": f"{program}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o default -F _qgraph_completion qgraph" in done.stdout
