"""The help of every command has examples, and they can be typed."""

from __future__ import annotations

import inspect
import re
import shlex
from importlib.metadata import version

import pytest
from conftest import Cli
from test_cli_json import COMMANDS

import qgraph

EXAMPLE = "Example: "


def examples(command: str) -> list[list[str]]:
    """The words of every example in a command's help; each goes on to the next one or to a blank line."""
    parts = re.split(rf"\n\s*\n|\n(?={EXAMPLE})", inspect.cleandoc(COMMANDS[command].help))
    return [shlex.split(part.removeprefix(EXAMPLE)) for part in parts if part.startswith(EXAMPLE)]


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    told = cli("--version")
    assert (told.code, told.stdout) == (0, f"qgraph {version('qgraph')}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_parses(command: str) -> None:
    found = examples(command)
    assert found, f"the docstring of {command} needs a line that begins with {EXAMPLE}"
    names = command.split()
    for program, *words in found:
        assert [program, *words[: len(names)]] == ["qgraph", *names]
        COMMANDS[command].make_context(command, words[len(names) :])  # raises where an option or argument is wrong


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_examples_at_any_width(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in ("40", "120"):
        monkeypatch.setenv("COLUMNS", width)
        result = cli(*command.split(), "--help")
        assert result.code == 0
        shown = " ".join(result.stdout.split())
        for words in examples(command):
            # A long word is folded on a narrow terminal, so spaces do not count.
            assert shlex.join(words).replace(" ", "") in shown.replace(" ", "")


def test_a_dry_run_and_what_python_calls_it_lead_to_each_other(cli: Cli) -> None:
    assert "forecast" in cli("calibrate", "--help").stdout
    assert "--dry-run" in str(qgraph.Database.forecast.__doc__)
