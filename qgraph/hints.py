"""Commands that answers suggest, written so that they can be pasted into a shell."""

from __future__ import annotations

import os
import shlex

DEFAULT_DATABASE = "qgraph.db"
"""The database where neither ``--db`` nor ``QGRAPH_DB`` names one."""

POOR_DB = 10.0
"""An SNR of an output below which few networks still do what they should."""


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


def lost_accuracy(
    run: str, data: str, *, db: str, has_layers: bool = False, can_be_solved: bool = True
) -> tuple[str, ...]:
    """Lines for an output below `POOR_DB`: which commands tell where it is lost, and how to win it back.

    Args:
        run: its id.
        data: the samples that it was measured on.
        has_layers: what `verify --layers` tells is known already.
        can_be_solved: its scales were not imported, so that `advise` can change them.

    >>> for line in lost_accuracy("r1", "x.npz", db="qgraph.db", can_be_solved=False):
    ...     print(line)
    below 10 dB
      where:         qgraph verify r1 --data x.npz --layers
      through what:  qgraph sensitivity r1 --data x.npz
    """
    lines = [f"below {POOR_DB:g} dB"]
    if not has_layers:
        lines.append(f"  where:         {suggest('verify', run, db=db, data=data)} --layers")
    lines.append(f"  through what:  {suggest('sensitivity', run, db=db, data=data)}")
    if can_be_solved:
        lines.append(f"  what to do:    {suggest('advise', run, db=db, data=data, **{'target-snr': 20})}")
    return tuple(lines)
