"""What differs between two stored runs: of one model, or of two versions of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qgraph.analysis.diff import Diff, as_json, diff, noises
from qgraph.analysis.diff_match import match
from qgraph.analysis.diff_rename import renamed
from qgraph.analysis.diff_thresholds import conditions, failures
from qgraph.objects import many_objects
from qgraph.solve.run import RunData
from qgraph.store import models, runs
from qgraph.store.database import Database
from qgraph.store.provenance import differing, provenance


def compare(
    database: Database, a: str, b: str, *, fail_on: Iterable[str] = (), output: Path | None = None
) -> dict[str, Any]:
    """Compare two runs; see `qgraph.analysis.diff.as_json` for the answer.

    Args:
        fail_on: conditions, see `qgraph.analysis.diff_thresholds`; those that hold are listed under ``"failed"``.
        output: where to draw a picture of it, ``.svg`` or ``.png``.

    Raises:
        NotFoundError: no such run, or no such measure in a condition.
        UsageError: not a condition, or a picture that cannot be drawn.
    """
    wanted = conditions(fail_on)
    if output is not None:
        from qgraph.formats.plot import check_plot  # loads numpy

        check_plot(output)
    compared = _compare(database, a, b)
    if output is not None:
        from qgraph.formats.diff_plot import Point, draw_diff  # loads numpy

        points = [Point(one.tensor, one.a, one.b) for one in noises(*compared.runs)]
        draw_diff(output, compared.names, points)
    failed = [dataclasses.asdict(one) for one in failures(compared.diff, wanted)]
    first, second = compared.names
    return {"a": first, "b": second, **as_json(compared.diff), "failed": failed}


@dataclasses.dataclass(frozen=True, slots=True)
class _Compared:
    """Two runs, the second under the names of the first, their ids, and what differs."""

    names: tuple[str, str]
    runs: tuple[RunData, RunData]
    diff: Diff


@many_objects()
def _compare(database: Database, a: str, b: str) -> _Compared:
    with database.reading() as connection:
        first, second = (runs.resolve_run(connection, reference) for reference in (a, b))
        data_a, data_b = (runs.load_run(connection, record.id) for record in (first, second))
        lineage_a, lineage_b = (provenance(connection, record.id) for record in (first, second))
        structures = (
            None
            if first.model == second.model
            else tuple(models.load_structure(connection, record.model) for record in (first, second))
        )
    names: dict[str, str] = {}
    if structures is not None:
        old, new = structures
        matching = match(old, new)
        data_b = renamed(data_b, matching, old, new)
        names = {one: other for other, one in matching.tensors.items() if one != other}
    found = diff(data_a, data_b, renamed=names, provenance=differing(lineage_a, lineage_b))
    return _Compared((first.id, second.id), (data_a, data_b), found)
