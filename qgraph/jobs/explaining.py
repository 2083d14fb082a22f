"""Why slots of a stored run share scale and offset, why not, and what that costs: answered from the database alone."""

from __future__ import annotations

from collections.abc import Callable

from qgraph import answers
from qgraph.answers import Answer
from qgraph.constraints import blame as blaming
from qgraph.constraints import explain
from qgraph.constraints.alignment import REMOVING
from qgraph.constraints.merge_methods import FAMILIES
from qgraph.constraints.model import Edge, Same, SlotPlan
from qgraph.ir.elements import Structure
from qgraph.solve.run import RunSettings
from qgraph.store import lookup, models, runs
from qgraph.store.database import Database

EdgesOf = Callable[[str], tuple[Edge, ...]]
"""The edges that made a group of the run, by its id; see `qgraph.store.lookup.edges_of_group`."""


def why(database: Database, run: str, a: str, b: str, edges_of: EdgesOf) -> Answer:
    """The shortest chain of constraints that makes two tensors or slots share: ``{"a", "b", "shared", "path"}``.

    Raises:
        NotFoundError: the run has no such tensor or slot.
    """
    with database.reading() as connection:
        start, end = (lookup.slot_of(connection, run, name) for name in (a, b))
        group = lookup.group_of(connection, run, start)
        shared = group is not None and group == lookup.group_of(connection, run, end)
    path = explain.why(edges_of(group), start, end) if shared and group is not None else None
    return {"a": a, "b": b, "shared": shared, "path": [answers.edge_as_json(edge) for edge in path or ()]}


def why_not(database: Database, run: str, a: str, b: str) -> Answer:
    """What keeps two tensors or slots apart; see `qgraph.answers.why_not`.

    Raises:
        NotFoundError: the run has no such tensor or slot.
    """
    with database.reading() as connection:
        start, end = (lookup.slot_of(connection, run, name) for name in (a, b))
        data = runs.load_run(connection, run)
        types = lookup.op_types(connection, run)
    plans = {
        tqc.slot: SlotPlan(tqc.slot, tqc.tensor, tqc.role, tqc.scheme, tqc.reason if tqc.scheme is None else None)
        for tqc in data.tqcs
    }
    between = explain.barriers(plans.values(), data.grouping, types, _dropped_ties(database, run, data.settings))
    return answers.why_not(a, b, explain.why_not(data.grouping.joined, between, start, end), plans[start])


def _dropped_ties(database: Database, run: str, settings: RunSettings) -> tuple[tuple[Same, str], ...]:
    """What the target would tie, and which option or override of the run drops it."""
    if not settings.overrides and not any(getattr(settings, option) in REMOVING for option in FAMILIES):
        return ()
    from qgraph.jobs.question import ties_dropped  # only for such runs

    def structure() -> Structure:
        with database.reading() as connection:
            return models.load_structure(connection, runs.resolve_run(connection, run).model)

    return ties_dropped(structure, settings)


def blame(database: Database, run: str, group: str, edges_of: EdgesOf, *, most: int | None = None) -> Answer:
    """The minimal sets of constraints whose removal would split a group; see `qgraph.answers.blame`.

    Args:
        group: its id, or a tensor in it.
        most: how many sets; None for `qgraph.constraints.blame.MOST_CUTS`.

    Raises:
        NotFoundError: the run has no such group, tensor or slot.
        UsageError: a tensor that is not quantized.
    """
    with database.reading() as connection:
        found = lookup.group_named(connection, run, group)
        members = lookup.members_of_group(connection, run, found)
    paid = {one.slot: one.price_db for one in members if one.price_db is not None}
    made = {one.tensor for one in members if one.represents}
    # A tensor that is made with another scale stands in this group with the slots that read it with this one.
    makers = {one.slot for one in members if one.represents or one.tensor not in made}
    splits = blaming.blame(edges_of(found), paid, makers, most=blaming.MOST_CUTS if most is None else most)
    return answers.blame(found, run, splits, members)


def cascade(database: Database, run: str, op: str) -> Answer:
    """What one op's constraints drag along; see `qgraph.answers.cascade`.

    Raises:
        NotFoundError: the run's model has no such op.
    """
    with database.reading() as connection:
        ties = lookup.ties_of_op(connection, run, op)
        op_type = lookup.op_types(connection, run)[op]
        groups = sorted({tie["group"] for tie in ties})
        edges = {group: lookup.edges_of_group(connection, run, group) for group in groups}
        members = {group: lookup.members_of_group(connection, run, group) for group in groups}
    parts = {group: blaming.cascade(edges[group], op) for group in groups}
    return answers.cascade(op, op_type, run, ties, parts, members)
