"""The command that makes one calibration of several."""

from __future__ import annotations

from typing import Annotated

import typer

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import DEFAULT_DATABASE, Db, Json
from qgraph.cli.output import plural, write_json, write_line
from qgraph.hints import suggest

app = typer.Typer()


@app.command()
def merge(
    calibrations: Annotated[
        list[str],
        typer.Argument(
            metavar="CALIBRATION",
            help="c1, or OTHER.db:c1 for one of another database.",
            show_default=False,
            autocompletion=completion.calibrations,
        ),
    ],
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Make one calibration of the shards of one data set, made anywhere: as if one machine had counted all of it.

    Calibrations of different data are merged, too, as long as no sample is in two of them.

    Example: qgraph merge c1 machine2.db:c1 machine3.db:c1
    """
    with qgraph.open(db) as database:
        done = database.merge(*calibrations)
    if json:
        write_json({"calibration": done.id, "status": done.status, "samples": done.samples, "parts": calibrations})
        return
    told = "reused, it was there" if done.status == "reused" else f"of {plural(len(calibrations), 'part')}"
    write_line(f"calibration {done.id}: {plural(done.samples, 'sample')} ({told})")
    write_line(f"next: {suggest('solve', done.id, db=db, target='TARGET')}")
