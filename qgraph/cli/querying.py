"""The command that asks the graph of a run: query."""

from __future__ import annotations

from typing import Annotated

import typer

import qgraph
from qgraph.cli.options import DEFAULT_DATABASE, LATEST, Db, Json, RunOption
from qgraph.cli.output import plural, write_json, write_line, write_table
from qgraph.errors import UsageError

app = typer.Typer()

LONGEST_SECONDS = 60.0


@app.command()
def query(
    statement: Annotated[
        str, typer.Argument(metavar="CYPHER", help="MATCH … RETURN …; see docs/cypher.md.", show_default=False)
    ],
    run: RunOption = LATEST,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="NAME=VALUE",
            help="The value of $NAME in the query, a text; may be repeated.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.001, max=86_400.0, help="How long it may take.")
    ] = LONGEST_SECONDS,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Ask the graph of a run in Cypher: ops, tensors, slots, groups, constraints and noise. It only reads.

    Example: qgraph query 'MATCH (g:SharedGroup) RETURN g.name, g.price_db ORDER BY g.price_db DESC LIMIT 5'
    """
    given = dict(_parameter(text) for text in parameters or ())
    with qgraph.open(db, create=False) as database:
        asked = database.run(run)
        found = asked.query(statement, given, seconds=seconds)
    if json:
        write_json({"run": asked.id, "columns": found.columns, "rows": found.rows})
        return
    write_table(found.columns, found.rows)
    write_line(plural(len(found), "row"))


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise UsageError("not a parameter", text, "write it as NAME=VALUE")
    return name, value
