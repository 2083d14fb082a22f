"""Commands about the database itself: db check, db upgrade, db stats."""

from __future__ import annotations

import typer
from typer.exceptions import Exit

from qgraph.cli.options import DEFAULT_DATABASE, Db, Json
from qgraph.cli.output import write_json, write_line, write_table

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.command()
def check(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Look for damage, in the file and in what it says; exit code 1 if there is any.

    Example: qgraph db check
    """
    from qgraph.store import integrity  # loads SQLAlchemy
    from qgraph.store.database import open_database  # loads SQLAlchemy

    findings = integrity.check(open_database(db, create=False))
    if json:
        write_json({"findings": findings})
    elif findings:
        write_table(("check", "finding"), ((finding.check, finding.what) for finding in findings))
    else:
        write_line(f"{db}: nothing wrong")
    if findings:
        raise Exit(1)


@app.command()
def upgrade(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Bring the database to this version's schema; the old file is kept beside it.

    Example: qgraph db upgrade --db qgraph.db
    """
    from qgraph.store.upgrade import upgrade as migrate  # loads Alembic

    backup = migrate(db)
    if json:
        write_json({"upgraded": backup is not None, "backup": None if backup is None else str(backup)})
    else:
        write_line(f"{db}: up to date" + ("" if backup is None else f"; the old one is {backup}"))


@app.command()
def stats(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Count what the database holds.

    Example: qgraph db stats
    """
    from qgraph.store import integrity  # loads SQLAlchemy
    from qgraph.store.database import open_database  # loads SQLAlchemy

    counts = integrity.row_counts(open_database(db, create=False))
    if json:
        write_json({"rows": counts})
    else:
        write_table(("table", "rows#"), counts.items())
