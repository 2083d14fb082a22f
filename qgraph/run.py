"""One stored run: the questions it answers, and what can be made of it.

Answers are plain dicts in the shape in which the command line prints them as JSON. Methods check what they are given
and call the store or a job; jobs that load heavy libraries are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qgraph import arguments, measuring
from qgraph.answers import Answer
from qgraph.constraints.model import Edge
from qgraph.jobs import explaining
from qgraph.solve.run import RunData
from qgraph.store import lookup, provenance, queries, runs, view_tables
from qgraph.table import Table

if TYPE_CHECKING:
    from qgraph.api import Database

A_TENSOR = "pass the name of a tensor; see qgraph scales"


class Run:
    """A stored run: one target, observer and set of options on one model; its `id` is ``r1``, ``r2`` and so on."""

    def __init__(self, database: Database, reference: str) -> None:
        self.database = database
        self.id = reference
        # What a run holds never changes, and whoever asks about a large group asks again.
        self._edges: tuple[str, tuple[Edge, ...]] | None = None

    @property
    def location(self) -> str:
        """The path or URL of the database that the run is in."""
        return self.database.location

    def __repr__(self) -> str:
        return f"<Run {self.id} in {self.database!r}>"

    def _ask(self, question: Callable[..., Answer], *arguments: object, **options: object) -> Answer:
        with self.database.store().reading() as connection:
            return question(connection, self.id, *arguments, **options)

    def _edges_of(self, group: str) -> tuple[Edge, ...]:
        """The edges of a group; those of the last one that was asked for are kept."""
        if self._edges is None or self._edges[0] != group:
            with self.database.store().reading() as connection:
                self._edges = group, lookup.edges_of_group(connection, self.id, group)
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
            "statistics": describe_statistics(self.database.store(), self.id, name),
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
            self.database.store(), self.id, arguments.path("output", output), tensor=chosen, group=group
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
        return explaining.why(self.database.store(), self.id, a, b, self._edges_of)

    def why_not(self, a: str, b: str) -> Answer:
        """Tell what keeps two tensors (or slots) apart: the chain between them with the fewest cuts.

        ``"needed"`` says for each cut what would have to be added or dropped, so that the two share.
        """
        arguments.text("a", a, A_TENSOR)
        arguments.text("b", b, A_TENSOR)
        return explaining.why_not(self.database.store(), self.id, a, b)

    def blame(self, group: str, *, top: int | None = None) -> Answer:
        """The minimal sets of constraints whose removal would split a group, the dearest sharing first.

        Args:
            group: its id, or a tensor in it.
            top: how many sets at most; None for `qgraph.constraints.blame.MOST_CUTS`.
        """
        arguments.text("group", group, "pass its id, or a tensor in it; see qgraph groups")
        most = arguments.count("top", top)
        return explaining.blame(self.database.store(), self.id, group, self._edges_of, most=most)

    def cascade(self, op: str) -> Answer:
        """Tell what one op's constraints drag along: what its groups would fall into without them."""
        arguments.text("op", op, "pass the name of an op")
        return explaining.cascade(self.database.store(), self.id, op)

    def coverage(self) -> Answer:
        """Tell whether every float tensor is accounted for; ``"missing"`` is empty if so."""
        return self._ask(queries.coverage)

    def data(self) -> RunData:
        """The whole run as frozen plain data."""
        with self.database.store().reading() as connection:
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
        with self.database.store().reading() as connection:
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
        return query(self.database.store(), self.id, statement, given, seconds=allowed)

    def diff(self, other: Run | str, *, fail_on: Iterable[str] = (), output: str | Path | None = None) -> Answer:
        """Tell what differs from this run to the other one, given as such, by id or by name; see `Database.diff`."""
        return self.database.diff(self, other, fail_on=fail_on, output=output)

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
                file takes its name; ``float``, the same without them, the model whose tensors' names all formats have;
                ``graphml``, the run's property graph; or one of
                `qgraph.formats.scale_files.FORMATS`: scales alone, for which the model is not needed.
            model: where the float model is now, if it was moved.
            op_library: as for `Database.calibrate`, for the trial run.

        Returns:
            A line for each thing that the format cannot say.
        """
        place = arguments.path("output", output)
        if format == "graphml":
            from qgraph.jobs.graphing import export_graphml

            export_graphml(self.database.store(), self.id, place)
            return ()
        if format in ("qdq", "float"):
            from qgraph.jobs.exporting import export  # heavy

            libraries = arguments.paths("op_library", op_library)
            quantized = format == "qdq"
            export(
                self.database.store(),
                self.id,
                place,
                model=arguments.moved(model),
                libraries=libraries,
                quantized=quantized,
            )
            return ()
        from qgraph.jobs.exporting import export_scales  # heavy

        return export_scales(self.database.store(), self.id, place, arguments.text("format", format))

    # What runs models: functions on a run, told in `qgraph.measuring`.
    verify = measuring.verify
    golden = measuring.golden
    sensitivity = measuring.sensitivity
    advise = measuring.advise
    improve = measuring.improve
