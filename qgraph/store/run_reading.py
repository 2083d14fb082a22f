"""The rows of a solved run as the plain data that they were written from, equal in every field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from qgraph.constraints.model import Derived, Edge, Fixed, Group, Grouping, Kind, Origin, Requantize, Strength
from qgraph.store.encoding import decode, decode_optional
from qgraph.store.evidence import SCHEME_FIELDS
from qgraph.store.tables import (
    edges,
    events,
    requantized,
    run_groups,
    run_rules,
    run_schemes,
    runs,
    slots,
    tensors,
    tqcs,
)
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

_TQC_COLUMNS = (
    "slot_id", "role", "state", "scheme", "scale", "offset", "scales", "offsets", "master", "group_row", "reason",
    "noise_db", "own_noise_db",
)  # fmt: skip
_STATES = {state.value: state for state in QuantizationState}

SlotNames = Mapping[int, tuple[str, str]]
"""Slot ids, each with the names of the slot and of its tensor."""


def read_tqcs(connection: sa.Connection, run_id: int, names: SlotNames) -> tuple[TqcRecord, ...]:
    """All configs of a run, sorted by slot."""
    schemes = _schemes(connection, run_id)
    groups = _group_ids(connection, run_id)
    query = sa.select(*(tqcs.c[column] for column in _TQC_COLUMNS)).where(tqcs.c.run_id == run_id)
    found = []
    # Unpacked by position: there can be a million of them.
    for (
        slot_id, role, state, scheme, scale, offset, scales, offsets, master, group, reason, noise, own_noise,
    ) in connection.execute(query):  # fmt: skip
        one = scale is not None
        found.append(
            TqcRecord(
                *names[slot_id],
                role,
                _STATES[state],
                None if scheme is None else schemes[scheme],
                (scale,) if one else decode_optional(scales),
                (offset,) if one else decode_optional(offsets),
                None if master is None else names[master][0],
                None if group is None else groups[group],
                reason,
                noise,
                own_noise,
            )
        )
    return tuple(sorted(found, key=lambda tqc: tqc.slot))


def read_grouping(connection: sa.Connection, run_id: int, names: SlotNames) -> tuple[Grouping, dict[str, float]]:
    """Groups, requantizes and joined edges of a run, and the prices of the requantizes by slot."""
    query = sa.select(requantized).where(requantized.c.run_id == run_id)
    found = [
        (Requantize(names[row.slot_id][1], names[row.slot_id][0], names[row.producer_id][0]), row.price_db)
        for row in connection.execute(query)
    ]
    found.sort(key=lambda item: item[0].slot)
    grouping = Grouping(
        groups=_read_groups(connection, run_id, names),
        requantizes=tuple(requantize for requantize, _ in found),
        joined=read_edges(connection, run_id),
    )
    return grouping, {requantize.slot: price for requantize, price in found if price is not None}


def read_edges(connection: sa.Connection, run_id: int, *, group_id: str | None = None) -> tuple[Edge, ...]:
    """The joined edges of a run or of one of its groups, in the order in which they were given."""
    a, b = slots.alias("a"), slots.alias("b")
    query = (
        sa.select(
            edges,
            a.c.name.label("a_name"),
            b.c.name.label("b_name"),
            run_rules.c.rule.label("rule_name"),
            run_rules.c.op_type,
            run_rules.c.source,
        )
        .join(a, a.c.id == edges.c.a)
        .join(b, b.c.id == edges.c.b)
        .outerjoin(run_rules, (run_rules.c.run_id == edges.c.run_id) & (run_rules.c.number == edges.c.rule))
    )
    if group_id is None:
        query = query.where(edges.c.run_id == run_id)
    else:  # a group is of one run; naming the run too would make SQLite read all of it
        of_group = (run_groups.c.run_id == run_id) & (run_groups.c.group_id == group_id)
        query = query.where(edges.c.group_row == connection.scalar(sa.select(run_groups.c.id).where(of_group)))
    rows = sorted(connection.execute(query), key=lambda row: row.position)
    return tuple(
        Edge(
            kind=Kind(row.kind),
            a=row.a_name,
            b=row.b_name,
            rule=row.rule_name,
            op=row.op,
            op_type=row.op_type,
            strength=None if row.strength is None else Strength(row.strength),
            source=row.source,
        )
        for row in rows
    )


def read_events(connection: sa.Connection, run_id: int) -> tuple[str, ...]:
    """What the solver told about a run."""
    query = sa.select(events.c.message).where(events.c.run_id == run_id)
    return tuple(connection.scalars(query.order_by(events.c.position)))


def slot_names(connection: sa.Connection, run_id: int) -> SlotNames:
    """The names behind the slot ids of a run's model."""
    model = sa.select(runs.c.model_id).where(runs.c.id == run_id).scalar_subquery()
    query = sa.select(slots.c.id, slots.c.name, tensors.c.name.label("tensor")).join(tensors)
    return {
        number: (name, tensor) for number, name, tensor in connection.execute(query.where(slots.c.model_id == model))
    }


def _schemes(connection: sa.Connection, run_id: int) -> dict[int, Scheme]:
    rows = connection.execute(sa.select(run_schemes).where(run_schemes.c.run_id == run_id))
    return {row.number: Scheme(**{name: getattr(row, name) for name in SCHEME_FIELDS}) for row in rows}


def _group_ids(connection: sa.Connection, run_id: int) -> dict[int, str]:
    query = sa.select(run_groups.c.id, run_groups.c.group_id).where(run_groups.c.run_id == run_id)
    return {row.id: row.group_id for row in connection.execute(query)}


def _read_groups(connection: sa.Connection, run_id: int, names: SlotNames) -> tuple[Group, ...]:
    schemes = _schemes(connection, run_id)
    members: dict[int, list[str]] = defaultdict(list)
    named: dict[int, list[str]] = defaultdict(list)
    query = sa.select(tqcs.c.group_row, tqcs.c.slot_id, tqcs.c.represents).where(
        tqcs.c.run_id == run_id, tqcs.c.group_row.is_not(None)
    )
    for number, slot_id, represents in connection.execute(query):
        slot, tensor = names[slot_id]
        members[number].append(slot)
        if represents:
            named[number].append(tensor)
    rows = connection.execute(sa.select(run_groups).where(run_groups.c.run_id == run_id).order_by(run_groups.c.id))
    return tuple(
        Group(
            id=row.group_id,
            slots=tuple(sorted(members[row.id])),
            tensors=tuple(sorted(named[row.id])),
            master=names[row.master][0],
            scheme=schemes[row.scheme],
            fixed=None if row.fixed is None else Fixed(**_prescribed(row.fixed)),
            derived=None if row.derived is None else Derived(**_prescribed(row.derived)),
        )
        for row in rows
    )


def _prescribed(text: str) -> dict[str, Any]:
    values = decode(text)
    return {**values, "origin": Origin(*values["origin"])}
