"""The command that compares two runs: diff."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import DEFAULT_DATABASE, Db, Json, Top, output_option
from qgraph.cli.output import cell, decibel, note, plural, write_json, write_line, write_table

app = typer.Typer()

FAILED = 1
"""Exit code where the runs differ, or differ too much."""
LONGEST_ORIGIN = 60
"""Characters of both values of one origin that are shown."""
DIGEST = re.compile("[0-9a-f]{32,64}")


@app.command()
def diff(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run.", show_default=False, autocompletion=completion.runs)
    ],
    run_b: Annotated[
        str, typer.Argument(metavar="RUN_B", help="Another run.", show_default=False, autocompletion=completion.runs)
    ],
    output: Annotated[Path | None, output_option("Also draw it: an .svg or .png file.")] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="CONDITION",
            help="Exit with 1 if it holds: damage_db>1, splits>0, floats>0; may be repeated; see docs/diff.md.",
            show_default=False,
        ),
    ] = None,
    top: Top = None,
    db: Db = DEFAULT_DATABASE,
    *,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
    json: Json = False,
) -> None:
    """Show what differs between two runs: settings, groups, scales by predicted damage, states, requantizes, coverage.

    The runs may be of two versions of a model: tensors are matched by name, then by structure.

    Example: qgraph diff minmax mse --fail-on 'damage_db>1' -o diff.svg
    """
    with qgraph.open(db, create=False) as database:
        answer = database.diff(run_a, run_b, fail_on=fail_on or (), output=output)
    differs = any(answer[part] for part in ("settings", "scales", "states", "requantize", "renamed")) or any(
        (*answer["groups"].values(), *answer["coverage"].values())
    )
    if json:
        write_json(first_of_each(answer, top))
    else:
        show_diff(answer, top, differs=differs)
    if output is not None:
        note(f"drawn to {output}")
    if answer["failed"] or (exit_code and differs):
        raise Exit(FAILED)


def first_of_each(answer: dict[str, Any], top: int | None) -> dict[str, Any]:
    """The answer with only the first of each list, but for the conditions that failed."""
    groups = {what: changes[:top] for what, changes in answer["groups"].items()}
    lists = {key: value[:top] for key, value in answer.items() if isinstance(value, list) and key != "failed"}
    return {**answer, **lists, "groups": groups}


def show_list(lines: Iterable[str], what: str, top: int | None) -> None:
    """Lines of one kind, as many as were asked for, and how many there are besides."""
    every = list(lines)
    for line in every[:top]:
        write_line(line)
    if top is not None and len(every) > top:
        write_line(f"and {len(every) - top} more {what}")


def show_diff(answer: dict[str, Any], top: int | None, *, differs: bool) -> None:
    """A diff as text: first what was asked differently, then what came of it."""
    if not differs:
        write_line(f"{answer['a']} and {answer['b']} do not differ")
    show_origins(answer, top)
    show_coverage(answer["coverage"])
    for what in ("split", "merged"):
        changes = answer["groups"][what]
        show_list((f"group {one['group']} {what}: {cell(one['tensors'])}" for one in changes), f"groups {what}", top)
    states = (f"{one['tensor']}: {cell(one['a'])} → {cell(one['b'])}" for one in answer["states"])
    show_list(states, "states", top)
    show_list((requantize_line(one, answer) for one in answer["requantize"]), "requantizes", top)
    show_scales(answer, top)
    for failure in answer["failed"]:
        write_line(f"failed: {failure['condition']} (it is {cell(failure['value'])})")


def requantize_line(change: dict[str, Any], answer: dict[str, Any]) -> str:
    """Where one requantize is."""
    where = answer["b"] if change["a"] is None else answer["a"] if change["b"] is None else "both, differently"
    return f"requantize {change['slot']}: in {where}"


def show_scales(answer: dict[str, Any], top: int | None) -> None:
    """The tensors with other parameters, the most damaged first."""
    if not answer["scales"]:
        return
    write_table(
        (
            "tensor",
            *(f"{what} in {answer[run]}" for what in ("scale", "offset") for run in "ab"),
            "ratio",
            "damage dB",
        ),
        (
            (
                change["tensor"],
                *(change[run] and change[run][what] for what in ("scale", "offset") for run in "ab"),
                change["ratio"],
                decibel(change["damage_db"]),
            )
            for change in answer["scales"][:top]
        ),
    )
    write_line(f"{plural(len(answer['scales']), 'tensor has', 'tensors have')} another scale or offset")


def show_origins(answer: dict[str, Any], top: int | None) -> None:
    """What the runs come from, where it differs: provenance and settings, and the names of two versions of a model.

    A digest tells no more than that it differs, so those are only named, as are long descriptions of the runtime.
    """
    changes = {**answer["provenance"], **answer["settings"]}
    shown = {name: f"{cell(change['a'])} → {cell(change['b'])}" for name, change in changes.items()}
    named = [
        name
        for name, change in changes.items()
        if any(DIGEST.fullmatch(str(value)) for value in change.values())
        or (name in answer["provenance"] and len(shown[name]) > LONGEST_ORIGIN)
    ]
    if named:
        write_line(f"another origin: {', '.join(named)}; the values: qgraph show RUN --provenance")
    for name, values in shown.items():
        if name not in named:
            write_line(f"{name}: {values}")
    show_list((f"renamed: {one['a']} → {one['b']}" for one in answer["renamed"]), "renamed", top)
    for what, run in (("removed", "a"), ("added", "b")):
        show_list((f"{what}: {tensor}, only in {answer[run]}" for tensor in answer[what]), what, top)


def show_coverage(coverage: dict[str, Any]) -> None:
    """The states with another number of slots."""
    a, b = coverage["a"], coverage["b"]
    for state in sorted(a.keys() | b.keys()):
        if a.get(state, 0) != b.get(state, 0):
            write_line(f"slots {state}: {a.get(state, 0)} → {b.get(state, 0)}")
