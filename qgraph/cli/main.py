"""The command `qgraph`: its families of commands, and how errors leave it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from qgraph.cli import checking, database, exporting, questions, solving
from qgraph.cli.output import visible
from qgraph.errors import ConflictError, QgraphError, UsageError

app = typer.Typer(
    name="qgraph",
    help="Which tensors of a network must share quantization parameters on a target, why, and what it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(solving.app)
app.add_typer(questions.app)
app.add_typer(exporting.app)
app.add_typer(checking.app)
app.add_typer(database.app, name="db")

FOUND = 1
"""Exit code of a command that was asked to look for something and found it."""
BAD = 2
"""Exit code for bad input or usage."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 found something, 2 bad input or usage."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. ``--debug`` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="qgraph", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        message = error.format_message().rstrip(".")
        if not message:  # no arguments at all: the help has been shown
            return BAD
        command = " ".join(["qgraph", *arguments[:1]]) if arguments and not arguments[0].startswith("-") else "qgraph"
        return report(UsageError(message, command, f"see {command} --help"), arguments)
    except QgraphError as error:
        if debug:
            traceback.print_exc()
        return report(error, arguments)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # The last line of defence: one line instead of a traceback.
        if debug:
            raise
        unexpected = QgraphError(
            f"unexpected {type(error).__name__}", str(error) or "no message", "run again with --debug and report it"
        )
        return report(unexpected, arguments)
    if code == INTERRUPTED:
        report(QgraphError("interrupted", " ".join(arguments[:1]), "the same command continues"), arguments)
    return code if isinstance(code, int) else 0


def report(error: QgraphError, arguments: Sequence[str]) -> int:
    """Print an error as one line on stderr, with ``--json`` as an object on stdout too; return the exit code."""
    if "--json" in arguments:
        body: dict[str, object] = {"what": error.what, "which": error.which, "cure": error.cure}
        if isinstance(error, ConflictError):
            body["conflicts"] = list(error.conflicts)
        print(json.dumps({"schema": 1, "error": body}))  # noqa: T201
    print(visible(f"qgraph: {error}"), file=sys.stderr)  # noqa: T201
    if isinstance(error, ConflictError):
        for conflict in error.conflicts:
            print(visible(f"  {conflict}"), file=sys.stderr)  # noqa: T201
    return BAD
