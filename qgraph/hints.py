"""Commands that answers suggest, written so that they can be pasted into a shell."""

from __future__ import annotations

import os
import shlex

DEFAULT_DATABASE = "qgraph.db"
"""The database where neither ``--db`` nor ``QGRAPH_DB`` names one."""


def suggest(command: str, *names: object, db: str, **options: object) -> str:
    """A command line: names are quoted, and the database is named unless the command would find it anyway.

    Args:
        command: as it is typed after ``qgraph``.
        names: the command's arguments.
        db: the database that is asked now. A URL is not repeated, as it may hold a password.
        options: further options, by name without the dashes.

    >>> print(suggest("why-not", "a b", "$c", db="qgraph.db", run="r1"))
    qgraph why-not 'a b' '$c' --run r1
    >>> print(suggest("db check", db="other.db"))
    qgraph db check --db other.db
    >>> print(suggest("share", "-x", db="other.db"))
    qgraph share --db other.db -- -x
    """
    if db != (os.environ.get("QGRAPH_DB") or DEFAULT_DATABASE):
        options["db"] = "URL" if "://" in db else db
    given = [str(name) for name in names]
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    if any(name.startswith("-") for name in given):
        return shlex.join(["qgraph", *command.split(), *flags, "--", *given])
    return shlex.join(["qgraph", *command.split(), *given, *flags])
