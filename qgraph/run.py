"""One stored run: the questions it answers, and what can be made of it.

Answers are plain dicts in the shape in which the command line prints them as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qgraph import answers, arguments
from qgraph.answers import Answer
from qgraph.constraints import blame as blaming
from qgraph.constraints import explain
from qgraph.constraints.alignment import REMOVING
from qgraph.constraints.merge_methods import FAMILIES
from qgraph.constraints.model import Edge, Same, SlotPlan
from qgraph.ir.elements import Structure
from qgraph.measuring import MeasuredRun, moved
from qgraph.solve.run import RunData, RunSettings
from qgraph.store import models, provenance, queries, runs, view_tables
from qgraph.table import Table

if TYPE_CHECKING:
    from qgraph.api import Database

A_TENSOR = "pass the name of a tensor; see qgraph scales"


class Run(MeasuredRun):
    """A stored run: one target, observer and set of options on one model; its `id` is ``r1``, ``r2`` and so on."""

    def __init__(self, database: Database, reference: str) -> None:
        super().__init__(database, reference)
        # What a run holds never changes, and whoever asks about a large group asks again.
        self._edges: tuple[str, tuple[Edge, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.id} in {self._database!r}>"

    def _ask(self, question: Callable[..., Answer], *arguments: object, **options: object) -> Answer:
        with self._database.store().reading() as connection:
            return question(connection, self.id, *arguments, **options)

    def _edges_of(self, group: str) -> tuple[Edge, ...]:
        """The edges of a group; those of the last one that was asked for are kept."""
        if self._edges is None or self._edges[0] != group:
            with self._database.store().reading() as connection:
                self._edges = group, queries.edges_of_group(connection, self.id, group)
        return self._edges[1]

    def show(self) -> Answer:
        """Tell what the run is, and how many groups, requantizes and states it has."""
        return self._ask(queries.show)

    def tensor(self, name: str) -> Answer:
        """All that the run says of one tensor, slot by slot, and the statistics that it was solved from."""
        from qgraph.jobs.describing import describe_statistics  # loads numpy

        arguments.text("tensor", name, A_TENSOR)
        return {
            **self._ask(queries.tensor, name),
            "statistics": describe_statistics(self._database.store(), self.id, name),
        }

    def plot(self, output: str | Path, *, tensor: str | None = None, group: str | None = None) -> Answer:
        """Draw the histogram of a tensor or a group with every observer's range and noise; needs matplotlib.

        Args:
            output: an ``.svg`` or ``.png`` file.
            group: its id; see `groups`.
        """
        from qgraph.jobs.plotting import plot  # heavy

        chosen = None if tensor is None else arguments.text("tensor", tensor, A_TENSOR)
        found: Answer = plot(
            self._database.store(), self.id, arguments.path("output", output), tensor=chosen, group=group
        )
        return found

    def groups(self, *, by_cost: bool = False) -> Answer:
        """All groups that share scale and offset; `by_cost` lists the dearest first."""
        return self._ask(queries.groups, by_cost=by_cost)

    def scales(self) -> Answer:
        """Scale and offset of every tensor, and the requantizes."""
        return self._ask(queries.scales)

    def share(self, tensor: str) -> Answer:
        """Tell who shares scale and offset with a tensor."""
        return self._ask(queries.share, arguments.text("tensor", tensor, A_TENSOR))

    def why(self, a: str, b: str) -> Answer:
        """The shortest chain of constraints that makes two tensors (or slots) share; empty if they do not."""
        arguments.text("a", a, A_TENSOR)
        arguments.text("b", b, A_TENSOR)
        with self._database.store().reading() as connection:
            start, end = (queries.slot_of(connection, self.id, name) for name in (a, b))
            group = queries.group_of(connection, self.id, start)
            shared = group is not None and group == queries.group_of(connection, self.id, end)
        edges = self._edges_of(group) if shared and group is not None else ()
        path = explain.why(edges, start, end) if shared else None
        return {"a": a, "b": b, "shared": shared, "path": [answers.edge_as_json(edge) for edge in path or ()]}

    def why_not(self, a: str, b: str) -> Answer:
        """Tell what keeps two tensors (or slots) apart: the chain between them with the fewest cuts.

        ``"needed"`` says for each cut what would have to be added or dropped, so that the two share.
        """
        arguments.text("a", a, A_TENSOR)
        arguments.text("b", b, A_TENSOR)
        with self._database.store().reading() as connection:
            start, end = (queries.slot_of(connection, self.id, name) for name in (a, b))
            data = runs.load_run(connection, self.id)
            types = queries.op_types(connection, self.id)
        plans = {
            tqc.slot: SlotPlan(tqc.slot, tqc.tensor, tqc.role, tqc.scheme, tqc.reason if tqc.scheme is None else None)
            for tqc in data.tqcs
        }
        between = explain.barriers(plans.values(), data.grouping, types, self._dropped_ties(data.settings))
        chain = explain.why_not(data.grouping.joined, between, start, end)
        return answers.why_not(a, b, chain, plans[start])

    def _dropped_ties(self, settings: RunSettings) -> tuple[tuple[Same, str], ...]:
        """What the target would tie, and which option or override of the run drops it."""
        if not settings.overrides and not any(getattr(settings, option) in REMOVING for option in FAMILIES):
            return ()
        from qgraph.jobs.question import ties_dropped  # only for such runs

        return ties_dropped(self._structure, settings)

    def _structure(self) -> Structure:
        with self._database.store().reading() as connection:
            return models.load_structure(connection, runs.resolve_run(connection, self.id).model)

    def blame(self, group: str, *, top: int | None = None) -> Answer:
        """The minimal sets of constraints whose removal would split a group, the dearest sharing first.

        Args:
            group: its id, or a tensor in it.
            top: how many sets at most; None for `qgraph.constraints.blame.MOST_CUTS`.
        """
        arguments.text("group", group, "pass its id, or a tensor in it; see qgraph groups")
        arguments.count("top", top)
        with self._database.store().reading() as connection:
            found = queries.group_named(connection, self.id, group)
            members = queries.members_of_group(connection, self.id, found)
        edges = self._edges_of(found)
        paid = {one.slot: one.price_db for one in members if one.price_db is not None}
        makers = {one.slot for one in members if one.represents}
        splits = blaming.blame(edges, paid, makers, most=blaming.MOST_CUTS if top is None else top)
        return answers.blame(found, self.id, splits, members)

    def cascade(self, op: str) -> Answer:
        """Tell what one op's constraints drag along: what its groups would fall into without them."""
        arguments.text("op", op, "pass the name of an op")
        with self._database.store().reading() as connection:
            ties = queries.ties_of_op(connection, self.id, op)
            op_type = queries.op_types(connection, self.id)[op]
            groups = sorted({tie["group"] for tie in ties})
            edges = {group: queries.edges_of_group(connection, self.id, group) for group in groups}
            members = {group: queries.members_of_group(connection, self.id, group) for group in groups}
        parts = {group: blaming.cascade(edges[group], op) for group in groups}
        return answers.cascade(op, op_type, self.id, ties, parts, members)

    def coverage(self) -> Answer:
        """Tell whether every float tensor is accounted for; ``"missing"`` is empty if so."""
        return self._ask(queries.coverage)

    def data(self) -> RunData:
        """The whole run as frozen plain data."""
        with self._database.store().reading() as connection:
            return runs.load_run(connection, self.id)

    def provenance(self) -> Answer:
        """Tell what the run comes from: fingerprints of data, preprocessing, graph and weights, settings, versions."""
        return self._ask(provenance.provenance)

    def table(self, name: str) -> Table:
        """One of the documented views, cut to this run; `to_pandas` and `to_polars` make more of it.

        Args:
            name: ``scales``, ``slots``, ``groups``, ``members``, ``reasons``, ``requantizes`` or ``prices``; see
                docs/sql-views.md.
        """
        arguments.text("table", name, f"use one of {', '.join(view_tables.VIEWS_BY_NAME)}")
        with self._database.store().reading() as connection:
            return view_tables.table(connection, self.id, name)

    def query(self, statement: str, parameters: Mapping[str, object] | None = None, *, seconds: float = 60.0) -> Table:
        """Ask the property graph of the run in Cypher; see docs/cypher.md. Needs ``qgraph[cypher]``.

        Args:
            statement: it can only read.
            parameters: the value of each ``$name`` in it; a name that is given so needs no quoting.
            seconds: how long it may take.
        """
        from qgraph.jobs.graphing import query  # heavy

        arguments.text("query", statement, "pass a statement in Cypher")
        given = (
            {} if parameters is None else arguments.mapping("parameters", parameters, "pass the value of each $name")
        )
        allowed = arguments.seconds("seconds", seconds)
        assert allowed is not None
        return query(self._database.store(), self.id, statement, given, seconds=allowed)

    def diff(self, other: Run | str, *, fail_on: Iterable[str] = (), output: str | Path | None = None) -> Answer:
        """Tell what differs from this run to the other one, given as such, by id or by name; see `Database.diff`."""
        return self._database.diff(self, other, fail_on=fail_on, output=output)

    def export(
        self,
        output: str | Path,
        *,
        format: str = "qdq",  # noqa: A002
        model: str | Path | None = None,
        op_library: arguments.Paths = None,
    ) -> tuple[str, ...]:
        """Write a model that runs with these scales, or the scales as another tool reads them; see docs/formats.md.

        Args:
            format: ``qdq``, an ONNX model with QuantizeLinear and DequantizeLinear, checked and run once before the
                file takes its name; ``graphml``, the run's property graph; or one of
                `qgraph.formats.scale_files.FORMATS`: scales alone, for which the model is not needed.
            model: where the float model is now, if it was moved.
            op_library: as for `Database.calibrate`, for the trial run.

        Returns:
            A line for each thing that the format cannot say.
        """
        place = arguments.path("output", output)
        if format == "graphml":
            from qgraph.jobs.graphing import export_graphml

            export_graphml(self._database.store(), self.id, place)
            return ()
        if format == "qdq":
            from qgraph.jobs.exporting import export  # heavy

            libraries = arguments.paths("op_library", op_library)
            export(self._database.store(), self.id, place, model=moved(model), libraries=libraries)
            return ()
        from qgraph.jobs.exporting import export_scales  # heavy

        return export_scales(self._database.store(), self.id, place, arguments.text("format", format))
