"""A solved run as rows. `qgraph.store.run_reading` restores it exactly.

Inside a run, schemes and rules are numbered and slots are written as their ids, so that a million configs
stay small. What follows from other values is not stored twice: the members of a group are the configs with its
number, and its tensors are those of the members that represent a tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qgraph.constraints.model import Derived, Edge, Fixed
from qgraph.errors import StoreError
from qgraph.ir.slots import makes_its_tensor
from qgraph.solve.run import FINDING_FIELDS, Choice, Finding, RunData
from qgraph.store.bulk import insert_rows, next_id
from qgraph.store.encoding import encode, encode_optional
from qgraph.store.evidence import SCHEME_FIELDS, scheme_values
from qgraph.store.tables import (
    edges,
    events,
    findings,
    requantized,
    run_groups,
    run_rules,
    run_schemes,
    slots,
    tensors,
    tqcs,
)
from qgraph.tqc import TqcRecord

_TQC_COLUMNS = (
    "run_id",
    "slot_id",
    "represents",
    "role",
    "state",
    "scheme",
    "scale",
    "offset",
    "scales",
    "offsets",
    "master",
    "group_row",
    "reason",
    "noise_db",
    "own_noise_db",
    "price_db",
)
_GROUP_COLUMNS = (
    "id",
    "run_id",
    "group_id",
    "master",
    "scheme",
    "fixed",
    "derived",
    "observer",
    "observer_reason",
)
_EDGE_COLUMNS = ("run_id", "position", "kind", "a", "b", "strength", "rule", "op", "group_row")


class _Numbering(dict[Any, int]):
    """Numbers things as they are first met."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = number = len(self)
        return number


@dataclass(frozen=True, slots=True)
class _Numbers:
    """How the parts of one run are numbered. `groups` is by group id, `slot_groups` by slot."""

    run: int
    slots: Mapping[str, int]
    groups: Mapping[str, int]
    slot_groups: Mapping[str, int]
    schemes: _Numbering
    rules: _Numbering


def representatives(run: RunData) -> dict[str, str]:
    """For each tensor the slot that its name means: its producer's, or where that is in no group, a reader's that is.

    Raises:
        StoreError: a group names a tensor that none of its members is on, or that another group names too.
    """
    on_tensor: dict[str, list[TqcRecord]] = defaultdict(list)
    for tqc in run.tqcs:
        on_tensor[tqc.tensor].append(tqc)
    named: dict[str, str] = {}
    for group in run.grouping.groups:
        for tensor in group.tensors:
            if tensor in named:
                raise _contradiction(f"two groups name tensor {tensor}")
            named[tensor] = group.id
    chosen: dict[str, str] = {}
    for tensor, found in on_tensor.items():
        group_id = named.pop(tensor, None)
        candidates = [tqc.slot for tqc in found if tqc.group == group_id] or [tqc.slot for tqc in found if not group_id]
        if not candidates:
            raise _contradiction(f"group {group_id} names tensor {tensor}, but no member is on it")
        chosen[tensor] = min(candidates, key=lambda slot: (not makes_its_tensor(slot), slot))
    if named:
        raise _contradiction(f"tensor {min(named)} is in a group but has no config")
    return chosen


def write_run(connection: sa.Connection, run_id: int, model: int, run: RunData) -> None:
    """Write all rows of a run but its own.

    Raises:
        StoreError: the run contradicts itself or its model.
    """
    chosen = representatives(run)
    numbers = _number(connection, run_id, model, run)
    try:
        _write_groups(connection, run, numbers)
        _write_tqcs(connection, run, chosen, numbers)
        _write_edges(connection, run.grouping.joined, numbers)
        _write_requantizes(connection, run, numbers)
    except KeyError as error:
        raise _contradiction(f"its model has no slot {error.args[0]}") from error
    rows = ((run_id, number, *scheme_values(scheme)) for scheme, number in numbers.schemes.items())
    insert_rows(connection, run_schemes, ("run_id", "number", *SCHEME_FIELDS), rows)
    rules = ((run_id, number, *rule) for rule, number in numbers.rules.items())
    insert_rows(connection, run_rules, ("run_id", "number", "rule", "op_type", "source"), rules)
    told = ((run_id, position, message) for position, message in enumerate(run.events))
    insert_rows(connection, events, ("run_id", "position", "message"), told)
    broken = ((run_id, position, *_finding_values(finding)) for position, finding in enumerate(run.findings))
    insert_rows(connection, findings, ("run_id", "position", *FINDING_FIELDS), broken)


def _finding_values(finding: Finding) -> tuple[str, ...]:
    values = {name: getattr(finding, name) for name in FINDING_FIELDS}
    return tuple(encode(value) if name == "slots" else value for name, value in values.items())


def _number(connection: sa.Connection, run_id: int, model: int, run: RunData) -> _Numbers:
    named = sa.select(tensors.c.id, tensors.c.name).where(tensors.c.model_id == model)
    tensor_names = {row.id: row.name for row in connection.execute(named)}
    query = sa.select(slots.c.name, slots.c.id, slots.c.tensor_id).where(slots.c.model_id == model)
    rows = connection.execute(query).all()
    ids = {name: number for name, number, _ in rows}
    tensor_of = {name: tensor_names.get(tensor) for name, _, tensor in rows}
    groups = {group.id: number for number, group in enumerate(run.grouping.groups, next_id(connection, run_groups))}
    slot_groups = {slot: groups[group.id] for group in run.grouping.groups for slot in group.slots}
    for tqc in run.tqcs:
        if tensor_of.get(tqc.slot) != tqc.tensor:
            raise _contradiction(f"its model has no slot {tqc.slot} on tensor {tqc.tensor}")
        if slot_groups.get(tqc.slot) != (None if tqc.group is None else groups.get(tqc.group, -1)):
            raise _contradiction(f"slot {tqc.slot} and group {tqc.group} disagree")
    grouped = sum(tqc.group is not None for tqc in run.tqcs)
    if len(groups) != len(run.grouping.groups) or len(slot_groups) != grouped:
        raise _contradiction("a group is there twice, or a member has no config")
    for requantize in run.grouping.requantizes:
        if tensor_of.get(requantize.slot) != requantize.tensor:
            raise _contradiction(f"requantize slot {requantize.slot} is not on tensor {requantize.tensor}")
    return _Numbers(run_id, ids, groups, slot_groups, _Numbering(), _Numbering())


def _write_tqcs(connection: sa.Connection, run: RunData, chosen: Mapping[str, str], numbers: _Numbers) -> None:
    slots, groups = numbers.slots, numbers.groups
    # A few objects serve all configs: to hash them by their fields costs more than all else here.
    distinct = {id(tqc.scheme): tqc.scheme for tqc in run.tqcs}
    schemes = {key: None if scheme is None else numbers.schemes[scheme] for key, scheme in distinct.items()}
    rows = (
        (
            numbers.run,
            slots[tqc.slot],
            chosen[tqc.tensor] == tqc.slot,
            tqc.role,
            str(tqc.state),
            schemes[id(tqc.scheme)],
            *_split(tqc.scale, tqc.offset),
            None if tqc.master is None else slots[tqc.master],
            None if tqc.group is None else groups[tqc.group],
            tqc.reason,
            tqc.noise_db,
            tqc.own_noise_db,
            tqc.price_db,
        )
        # In the order of the table's key, so that the file grows at its end.
        for tqc in sorted(run.tqcs, key=lambda tqc: slots[tqc.slot])
    )
    insert_rows(connection, tqcs, _TQC_COLUMNS, rows)


_UNKNOWN = (None, None, None, None)
_NO_RULE = (None, None, None)


def _split(scale: tuple[float, ...] | None, offset: tuple[int, ...] | None) -> tuple[object, object, object, object]:
    """Scale and offset as numbers where there is one of each, else as texts."""
    if scale is None and offset is None:
        return _UNKNOWN
    if scale is not None and offset is not None and len(scale) == len(offset) == 1:
        return scale[0], offset[0], None, None
    return None, None, encode_optional(scale), encode_optional(offset)


def _write_edges(connection: sa.Connection, joined: Iterable[Edge], numbers: _Numbers) -> None:
    slots, slot_groups = numbers.slots, numbers.slot_groups
    rows = (
        (
            numbers.run,
            position,
            str(edge.kind),
            slots[edge.a],
            slots[edge.b],
            None if edge.strength is None else str(edge.strength),
            _rule(edge, numbers.rules),
            edge.op,
            slot_groups.get(edge.a),
        )
        for position, edge in enumerate(joined)
    )
    insert_rows(connection, edges, _EDGE_COLUMNS, rows)


def _rule(edge: Edge, rules: _Numbering) -> int | None:
    key = (edge.rule, edge.op_type, edge.source)
    return None if key == _NO_RULE else rules[key]


def _write_groups(connection: sa.Connection, run: RunData, numbers: _Numbers) -> None:
    unknown = run.choices.keys() - numbers.groups.keys()
    if unknown:
        raise _contradiction(f"group {min(unknown)} has an observer, but is none")
    rows = (
        (
            numbers.groups[group.id],
            numbers.run,
            group.id,
            numbers.slots[group.master],
            numbers.schemes[group.scheme],
            None if group.fixed is None else _prescription(group.fixed),
            None if group.derived is None else _prescription(group.derived),
            *_choice(run.choices.get(group.id)),
        )
        for group in run.grouping.groups
    )
    insert_rows(connection, run_groups, _GROUP_COLUMNS, rows)


def _choice(choice: Choice | None) -> tuple[str | None, str | None]:
    return (None, None) if choice is None else (choice.observer, choice.reason)


def _prescription(given: Fixed | Derived) -> str:
    origin = given.origin
    values: dict[str, Any] = {name: getattr(given, name) for name in type(given).__slots__ if name != "origin"}
    return encode({**values, "origin": (origin.rule, origin.op, origin.op_type, origin.source)})


def _write_requantizes(connection: sa.Connection, run: RunData, numbers: _Numbers) -> None:
    prices = run.requantize_price_db
    found = run.grouping.requantizes
    unknown = prices.keys() - {requantize.slot for requantize in found}
    if unknown:
        raise _contradiction(f"slot {min(unknown)} has the price of a requantize, but none")
    rows = ((numbers.run, numbers.slots[r.slot], numbers.slots[r.producer], prices.get(r.slot)) for r in found)
    insert_rows(connection, requantized, ("run_id", "slot_id", "producer_id", "price_db"), rows)


def _contradiction(what: str) -> StoreError:
    return StoreError("a run that contradicts itself or its model", what, "solve it again")
