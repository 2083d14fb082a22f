"""The command that draws: plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import DEFAULT_DATABASE, Db, Json, RunArgument, output_option
from qgraph.cli.output import decibel, write_json, write_line, write_table

app = typer.Typer()


@app.command()
def plot(
    run: RunArgument,
    output: Annotated[Path, output_option("An .svg or .png file.")],
    tensor: Annotated[
        str | None,
        typer.Option("--tensor", help="Draw this tensor.", show_default=False, autocompletion=completion.tensors),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Draw all values of this group.", show_default=False)
    ] = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Draw the histogram of a tensor or a group on a log axis, with every observer's range and noise.

    Example: qgraph plot latest --tensor conv2_out -o conv2_out.svg
    """
    with qgraph.open(db, create=False) as database:
        answer = database.run(run).plot(output, tensor=tensor, group=group)
    if json:
        write_json(answer)
        return
    rows = ((name, one["scale"], one["offset"], decibel(one["noise_db"])) for name, one in answer["observers"].items())
    write_table(("observer", "scale", "offset", "noise dB"), rows)
    write_line(f"written to {answer['output']}")
