"""The rows of a solved run as the plain data that they were written from, equal in every field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from qgraph.constraints.model import Derived, Edge, Fixed, Group, Grouping, Kind, Origin, Requantize, Strength
from qgraph.objects import many_objects
from qgraph.solve.run import FINDING_FIELDS, Choice, Finding
from qgraph.store.encoding import decode, decode_optional
from qgraph.store.evidence import read_scheme
from qgraph.store.tables import (
    edges,
    events,
    findings,
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
    "slot_id", "represents", "role", "state", "scheme", "scale", "offset", "scales", "offsets", "master", "group_row",
    "reason", "noise_db", "own_noise_db",
)  # fmt: skip
_KINDS = {kind.value: kind for kind in Kind}
_STRENGTHS: dict[str | None, Strength | None] = {None: None, **{strength.value: strength for strength in Strength}}
_STATES = {state.value: state for state in QuantizationState}

SlotNames = Mapping[int, tuple[str, str]]
"""Slot ids, each with the names of the slot and of its tensor."""


@dataclass(frozen=True, slots=True)
class Configs:
    """All configs of a run, sorted by slot; by group id, the slots and the tensors of each group, sorted."""

    tqcs: tuple[TqcRecord, ...]
    slots: Mapping[str, Sequence[str]]
    tensors: Mapping[str, Sequence[str]]


def read_configs(connection: sa.Connection, run_id: int, names: SlotNames) -> Configs:
    """The configs of a run, and what follows from them for its groups."""
    schemes = _schemes(connection, run_id)
    groups = _group_ids(connection, run_id)
    query = sa.select(*(tqcs.c[column] for column in _TQC_COLUMNS)).where(tqcs.c.run_id == run_id)
    found = []
    named: dict[str, list[str]] = {}
    # Unpacked by position: there can be a million of them.
    for (
        slot_id, represents, role, state, scheme, scale, offset, scales, offsets, master, group,
        reason, noise, own_noise,
    ) in connection.execute(query).all():  # fmt: skip
        slot, tensor = names[slot_id]
        group_id = None if group is None else groups[group]
        one = scale is not None
        if represents and group_id is not None:
            named.setdefault(group_id, []).append(tensor)
        found.append(
            TqcRecord(
                slot,
                tensor,
                role,
                _STATES[state],
                None if scheme is None else schemes[scheme],
                (scale,) if one else decode_optional(scales),
                (offset,) if one else decode_optional(offsets),
                None if master is None else names[master][0],
                group_id,
                reason,
                noise,
                own_noise,
            )
        )
    _check_masters({tqc.slot: tqc.master for tqc in found if tqc.master is not None})
    found.sort(key=lambda tqc: tqc.slot)
    members: dict[str, list[str]] = {}
    for tqc in found:
        if tqc.group is not None:
            members.setdefault(tqc.group, []).append(tqc.slot)
    return Configs(tuple(found), members, {group: sorted(tensors) for group, tensors in named.items()})


def _check_masters(masters: Mapping[str, str]) -> None:
    """Raises ValueError for configs that are their own masters, through however many others."""
    sound: set[str] = set()
    for start, master in masters.items():
        if master not in masters:  # nearly all of them
            continue
        path: dict[str, None] = {}
        slot = start
        while slot in masters and slot not in sound:
            if slot in path:
                raise ValueError(f"{slot} is its own master")
            path[slot] = None
            slot = masters[slot]
        sound.update(path)


def read_grouping(
    connection: sa.Connection, run_id: int, names: SlotNames, configs: Configs
) -> tuple[Grouping, dict[str, float]]:
    """Groups, requantizes and joined edges of a run, and the prices of the requantizes by slot."""
    columns = (requantized.c.slot_id, requantized.c.producer_id, requantized.c.price_db)
    query = sa.select(*columns).where(requantized.c.run_id == run_id)
    found = [
        (Requantize(names[slot][1], names[slot][0], names[producer][0]), price)
        for slot, producer, price in connection.execute(query).all()
    ]
    found.sort(key=lambda item: item[0].slot)
    grouping = Grouping(
        groups=_read_groups(connection, run_id, names, configs),
        requantizes=tuple(requantize for requantize, _ in found),
        joined=read_edges(connection, run_id),
    )
    return grouping, {requantize.slot: price for requantize, price in found if price is not None}


def read_choices(connection: sa.Connection, run_id: int) -> dict[str, Choice]:
    """The observers that ``auto`` took, by group id; none in a run of another observer."""
    columns = (run_groups.c.group_id, run_groups.c.observer, run_groups.c.observer_reason)
    query = sa.select(*columns).where(run_groups.c.run_id == run_id, run_groups.c.observer.is_not(None))
    return {row.group_id: Choice(row.observer, row.observer_reason) for row in connection.execute(query)}


@many_objects()
def read_edges(connection: sa.Connection, run_id: int, *, group_id: str | None = None) -> tuple[Edge, ...]:
    """The joined edges of a run or of one of its groups, in the order in which they were given."""
    a, b = slots.alias("a"), slots.alias("b")
    of_rule = (run_rules.c.run_id == edges.c.run_id) & (run_rules.c.number == edges.c.rule)
    query = (
        sa.select(
            edges.c.position, edges.c.kind, a.c.name, b.c.name, run_rules.c.rule,
            edges.c.op, run_rules.c.op_type, edges.c.strength, run_rules.c.source,
        )
        .join(a, a.c.id == edges.c.a)
        .join(b, b.c.id == edges.c.b)
        .outerjoin(run_rules, of_rule)
    )  # fmt: skip
    if group_id is None:
        query = query.where(edges.c.run_id == run_id)
    else:  # a group is of one run; naming the run too would make SQLite read all of it
        of_group = (run_groups.c.run_id == run_id) & (run_groups.c.group_id == group_id)
        query = query.where(edges.c.group_row == connection.scalar(sa.select(run_groups.c.id).where(of_group)))
    # Fetched at once and unpacked by position: a group may have many thousands, and `why` reads all of them.
    rows = sorted(connection.execute(query).all(), key=itemgetter(0))
    return tuple(
        Edge(_KINDS[kind], a_name, b_name, rule, op, op_type, _STRENGTHS[strength], source)
        for _, kind, a_name, b_name, rule, op, op_type, strength, source in rows
    )


def read_events(connection: sa.Connection, run_id: int) -> tuple[str, ...]:
    """What the solver told about a run."""
    query = sa.select(events.c.message).where(events.c.run_id == run_id)
    return tuple(connection.scalars(query.order_by(events.c.position)))


def read_findings(connection: sa.Connection, run_id: int) -> tuple[Finding, ...]:
    """What the target would not like about a run."""
    query = sa.select(findings).where(findings.c.run_id == run_id).order_by(findings.c.position)
    rows = ({name: getattr(row, name) for name in FINDING_FIELDS} for row in connection.execute(query))
    return tuple(Finding(**{**row, "slots": decode(row["slots"])}) for row in rows)


def slot_names(connection: sa.Connection, run_id: int) -> SlotNames:
    """The names behind the slot ids of a run's model."""
    model = sa.select(runs.c.model_id).where(runs.c.id == run_id).scalar_subquery()
    query = sa.select(slots.c.id, slots.c.name, tensors.c.name.label("tensor")).join(tensors)
    return {
        number: (name, tensor)
        for number, name, tensor in connection.execute(query.where(slots.c.model_id == model)).all()
    }


def _schemes(connection: sa.Connection, run_id: int) -> dict[int, Scheme]:
    rows = connection.execute(sa.select(run_schemes).where(run_schemes.c.run_id == run_id))
    return {row.number: read_scheme(row) for row in rows}


def _group_ids(connection: sa.Connection, run_id: int) -> dict[int, str]:
    query = sa.select(run_groups.c.id, run_groups.c.group_id).where(run_groups.c.run_id == run_id)
    return {row.id: row.group_id for row in connection.execute(query)}


def _read_groups(connection: sa.Connection, run_id: int, names: SlotNames, configs: Configs) -> tuple[Group, ...]:
    schemes = _schemes(connection, run_id)
    columns = ("group_id", "master", "scheme", "fixed", "derived")
    query = sa.select(*(run_groups.c[column] for column in columns)).where(run_groups.c.run_id == run_id)
    return tuple(
        Group(
            id=group_id,
            slots=tuple(configs.slots.get(group_id, ())),
            tensors=tuple(configs.tensors.get(group_id, ())),
            master=names[master][0],
            scheme=schemes[scheme],
            fixed=None if fixed is None else Fixed(**_prescribed(fixed)),
            derived=None if derived is None else Derived(**_prescribed(derived)),
        )
        for group_id, master, scheme, fixed, derived in connection.execute(query.order_by(run_groups.c.id)).all()
    )


def _prescribed(text: str) -> dict[str, Any]:
    values = decode(text)
    return {**values, "origin": Origin(*values["origin"])}
