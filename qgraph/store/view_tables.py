"""The documented views as tables of plain values, cut to one run."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qgraph.errors import NotFoundError
from qgraph.store import views
from qgraph.store.encoding import decode_optional
from qgraph.store.runs import resolve_run, row_of
from qgraph.table import Table

VIEWS_BY_NAME = {
    "scales": views.tensor_scales,
    "slots": views.slot_scales,
    "groups": views.shared_groups,
    "members": views.group_members,
    "reasons": views.reasons,
    "requantizes": views.requantizes,
    "prices": views.prices,
}
"""What each table is called by, and the view behind it."""

_NOT_SHOWN = frozenset({"run_id", "slot_id"})
_JSON = frozenset({"scales", "offsets"})


def table(connection: sa.Connection, run: str, name: str) -> Table:
    """All rows of a view that are about a run; lists are tuples, and the run's own number is left out.

    Args:
        name: one of `VIEWS_BY_NAME`, or the name of its view.

    Raises:
        NotFoundError: no such run or table.
    """
    record = resolve_run(connection, run)
    known = {**{view.name: view for view in VIEWS_BY_NAME.values()}, **VIEWS_BY_NAME}
    if name not in known:
        raise NotFoundError.among("table", name, known, f"use one of {', '.join(VIEWS_BY_NAME)}")
    view = known[name]
    columns = [column for column in view.c if column.name not in _NOT_SHOWN]
    rows = connection.execute(sa.select(*columns).where(view.c.run_id == row_of(record)))
    names = tuple(column.name for column in columns)
    found = (tuple(_value(*pair) for pair in zip(names, row, strict=True)) for row in rows)
    return Table(names, tuple(sorted(found, key=_key)))


def meant_slots(connection: sa.Connection, run: str) -> dict[str, str]:
    """By float tensor of a run, the slot that is meant by its name."""
    view = views.tensor_scales
    number = row_of(resolve_run(connection, run))
    rows = connection.execute(sa.select(view.c.tensor, view.c.slot).where(view.c.run_id == number))
    return {row.tensor: row.slot for row in rows}


def _value(column: str, value: Any) -> Any:
    return decode_optional(value) if column in _JSON else value


def _key(row: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in row)
