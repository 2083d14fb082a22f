"""Commands about the database itself: db check, upgrade, stats, gc, copy; and rm."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import Exit

from qgraph.cli import completion
from qgraph.cli.options import DEFAULT_DATABASE, Db, Json, Name, RunArgument
from qgraph.cli.output import write_json, write_line, write_table

if TYPE_CHECKING:
    from qgraph.store.integrity import Decoder
    from qgraph.store.removal import Removed

app = typer.Typer(help="Look after the database.", no_args_is_help=True)
removal = typer.Typer()

References = Annotated[
    list[str],
    typer.Argument(
        metavar="WHAT…",
        help="Runs (r1, a name, latest), calibrations (c1) and models (m1).",
        show_default=False,
        autocompletion=completion.calibrations,
    ),
]


@app.command()
def check(
    db: Db = DEFAULT_DATABASE,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read every blob, beside its checksum.")] = False,
    json: Json = False,
) -> None:
    """Look for damage, in the file and in what it says; exit code 1 if there is any.

    Example: qgraph db check
    """
    from qgraph.store import integrity  # loads SQLAlchemy

    findings = integrity.examine(db, _decoder() if deep else None)
    if json:
        write_json({"findings": findings})
    elif findings:
        write_table(("check", "finding"), ((finding.check, finding.what) for finding in findings))
    else:
        write_line(f"{_shown(db)}: nothing wrong")
    if findings:
        raise Exit(1)


@app.command()
def upgrade(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Bring the database to this version's schema; the old file is kept beside it.

    Of a PostgreSQL database no copy is made: take a backup of your own first.

    Example: qgraph db upgrade --db qgraph.db
    """
    from qgraph.store.upgrade import upgrade as migrate  # loads Alembic

    done = migrate(db)
    if json:
        write_json({"upgraded": done.upgraded, "backup": None if done.backup is None else str(done.backup)})
    else:
        write_line(f"{_shown(db)}: up to date" + (f"; the old one is {done.backup}" if done.backup else ""))


@app.command()
def stats(db: Db = DEFAULT_DATABASE, *, json: Json = False) -> None:
    """Count what the database holds, in rows and bytes.

    Example: qgraph db stats
    """
    from qgraph.store.database import open_database  # loads SQLAlchemy
    from qgraph.store.sizes import measure  # loads SQLAlchemy

    with closing(open_database(db, create=False)) as store:
        found = measure(store)
    if json:
        sizes = {"schema_revision": found.schema, "bytes": found.size, "free_bytes": found.free}
        write_json({**sizes, "rows": found.rows, "statistics_bytes": found.statistics})
        return
    free = "" if found.free is None else f", {_bytes(found.free)} of them free"
    write_line(f"{_shown(db)}: schema {found.schema}, {_bytes(found.size)}{free}")
    write_table(("table", "rows#"), found.rows.items())
    if found.statistics:
        write_table(("calibration", "statistics"), ((name, _bytes(size)) for name, size in found.statistics.items()))


@app.command()
def gc(
    db: Db = DEFAULT_DATABASE,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove calibrations that counted nothing and models that nothing uses, and give free space back.

    What was stored within the last hour stays.

    Example: qgraph db gc --dry-run
    """
    from qgraph.store.database import open_database  # loads SQLAlchemy
    from qgraph.store.removal import collect_garbage  # loads SQLAlchemy
    from qgraph.store.sizes import measure  # loads SQLAlchemy

    with closing(open_database(db, create=False)) as store:
        before = measure(store).size
        found = collect_garbage(store, dry_run=dry_run)
        after = measure(store).size
    if json:
        write_json({"removed": _named(found), "dry_run": dry_run, "bytes_before": before, "bytes_after": after})
        return
    _tell(found, "would remove" if dry_run else "removed")
    if not dry_run:
        write_line(f"{_shown(db)}: {_bytes(before)} before, {_bytes(after)} now")


@app.command()
def copy(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", metavar="DATABASE", help="A path or URL; made if it is not there.")],
    db: Db = DEFAULT_DATABASE,
    *,
    name: Name = None,
    json: Json = False,
) -> None:
    """Copy a run with its model, calibration and statistics to another database.

    Example: qgraph db copy latest --to postgresql://me@server/qgraph
    """
    from qgraph.store.copying import copy_run  # loads SQLAlchemy
    from qgraph.store.database import open_database  # loads SQLAlchemy

    with closing(open_database(db, create=False)) as source, closing(open_database(to, create=True)) as target:
        done = copy_run(source, run, target, name=name)
        there = target.name
    if json:
        write_json({"run": done.run, "model": done.model, "calibration": done.calibration})
    else:
        write_line(f"{there}: run {done.run}, calibration {done.calibration or '–'}, model {done.model}")


@removal.command()
def rm(
    what: References,
    db: Db = DEFAULT_DATABASE,
    *,
    with_dependents: Annotated[
        bool, typer.Option("--with-dependents", help="Remove what was made from it, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove runs, calibrations or models; all of them, or nothing if one cannot go.

    `qgraph db gc` gives the space back.

    Example: qgraph rm r1 c2
    """
    from qgraph.store.database import open_database  # loads SQLAlchemy
    from qgraph.store.removal import remove  # loads SQLAlchemy

    with closing(open_database(db, create=False)) as store:
        removed = remove(store, what, with_dependents=with_dependents)
    if json:
        write_json({"removed": _named(removed)})
    else:
        _tell(removed, "removed")


def _decoder() -> Decoder:
    from qgraph.calib.codec import decode  # loads numpy

    return decode


def _named(removed: Removed) -> dict[str, list[str]]:
    return {
        "runs": list(removed.runs),
        "calibrations": list(removed.calibrations),
        "models": list(removed.models),
    }


def _tell(removed: Removed, verb: str) -> None:
    names = [name for group in _named(removed).values() for name in group]
    write_line(f"{verb} {', '.join(names)}" if names else "nothing to remove")


def _shown(db: str) -> str:
    from qgraph.store.locations import shown, url_of  # loads SQLAlchemy

    return shown(url_of(db))


def _bytes(size: int) -> str:
    """A size as people read it.

    >>> _bytes(999), _bytes(1_500_000)
    ('999 bytes', '1.5 MB')
    """
    if size < 1000:
        return f"{size} bytes"
    power = min(len(f"{size:d}") - 1, 14) // 3
    return f"{size / 1000**power:.1f} {'kMGT'[power - 1]}B"
