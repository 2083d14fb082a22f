"""The command `qgraph`: its families of commands, and how errors leave it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import Exit, TyperException

from qgraph.cli import (
    analyzing,
    blaming,
    calibrating,
    checking,
    comparing,
    database,
    exporting,
    golden,
    improving,
    merging,
    plotting,
    querying,
    questions,
    sensitivity,
    solving,
    verifying,
)
from qgraph.cli.output import emit, visible, write_line
from qgraph.errors import ConflictError, QgraphError, UsageError
from qgraph.jobs.interrupting import TERMINATED, terminate

app = typer.Typer(
    name="qgraph",
    help="Which tensors of a network must share quantization parameters on a target, why, and what it costs.",
    no_args_is_help=True,
    rich_markup_mode=None if os.environ.get("NO_COLOR") else "rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(analyzing.app)
app.add_typer(calibrating.app)
app.add_typer(solving.app)
app.add_typer(merging.app)
app.add_typer(questions.app)
app.add_typer(blaming.app)
app.add_typer(comparing.app)
app.add_typer(querying.app)
app.add_typer(plotting.app)
app.add_typer(exporting.app)
app.add_typer(golden.app)
app.add_typer(verifying.app)
app.add_typer(sensitivity.app)
app.add_typer(improving.app)
app.add_typer(checking.app)
app.add_typer(database.removal)
app.add_typer(database.app, name="db")


def _show_version(asked: object) -> None:
    if asked:
        write_line(f"qgraph {version('qgraph')}")
        raise Exit


Version = Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)]


@app.callback()
def program(*, _version: Version = False) -> None:
    """What may stand before a command."""


FOUND = 1
"""Exit code of a command that was asked to look for something and found it."""
BAD = 2
"""Exit code for bad input or usage."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
CONTINUING = ("calibrate", "sensitivity")
"""Commands that store what they have done so far."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 found something, 2 bad input or usage."""
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. ``--debug`` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="qgraph", standalone_mode=False)
        emit("", sys.stdout)
    except TyperException as error:
        message = error.format_message().rstrip(".")
        if not message:  # no arguments at all: the help has been shown
            return BAD
        context = getattr(error, "ctx", None)  # of the command, or where there is no such one, of what it was sought in
        command = "qgraph" if context is None else context.command_path
        return report(UsageError(message, command, f"see {command} --help"), arguments)
    except QgraphError as error:
        if debug:
            traceback.print_exc()
        return report(error, arguments)
    except SystemExit as end:
        return _ended(end, arguments)
    except Exception as error:
        # The last line of defence: one line instead of a traceback.
        if debug:
            raise
        unexpected = QgraphError(
            f"unexpected {type(error).__name__}", str(error) or "no message", "run again with --debug and report it"
        )
        return report(unexpected, arguments)
    if code == INTERRUPTED:
        _stopped("interrupted", arguments)
    return code if isinstance(code, int) else 0


def _ended(end: SystemExit, arguments: Sequence[str]) -> int:
    if isinstance(end.__context__, BrokenPipeError):
        return 0  # so the library that prints the help ends where its reader (head, less) has seen enough
    if end.code == TERMINATED:
        _stopped("terminated", arguments)
    return int(end.code or 0)


def _stopped(how: str, arguments: Sequence[str]) -> None:
    command = " ".join(arguments[:1])
    cure = "the same command continues" if command in CONTINUING else "give the same command again"
    report(QgraphError(how, command, cure), arguments)


def report(error: QgraphError, arguments: Sequence[str]) -> int:
    """Print an error as one line on stderr, with ``--json`` as an object on stdout too; return the exit code."""
    if "--json" in arguments:
        body: dict[str, object] = {"what": error.what, "which": error.which, "cure": error.cure}
        if isinstance(error, ConflictError):
            body["conflicts"] = list(error.conflicts)
        with contextlib.suppress(UsageError):  # it cannot be written, and there is something worse to tell
            emit(f"{json.dumps({'schema': 1, 'error': body})}\n", sys.stdout)
    emit(f"{visible(f'qgraph: {error}')}\n", sys.stderr)
    if isinstance(error, ConflictError):
        for conflict in error.conflicts[1:]:  # the first one is in the line
            emit(f"  {visible(conflict)}\n", sys.stderr)
    return BAD
