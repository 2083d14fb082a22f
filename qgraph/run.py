"""One stored run: the questions it answers, and what can be made of it.

Answers are plain dicts in the shape in which the command line prints them as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgraph import arguments
from qgraph.constraints import explain
from qgraph.constraints.model import Edge, SlotPlan
from qgraph.errors import UsageError
from qgraph.solve.run import RunData
from qgraph.store import queries, runs

if TYPE_CHECKING:
    from qgraph.analysis.verify import Verification
    from qgraph.api import Database
    from qgraph.calib.images import ImageOptions
    from qgraph.jobs.calibrating import Report

Answer = dict[str, Any]

A_TENSOR = "pass the name of a tensor; see qgraph scales"


class Run:
    """A stored run: one target, observer and set of options on one model; its `id` is ``r1``, ``r2`` and so on."""

    def __init__(self, database: Database, reference: str) -> None:
        self._database = database
        self.id = reference

    def _ask(self, question: Callable[..., Answer], *arguments: object, **options: object) -> Answer:
        with self._database.store().reading() as connection:
            return question(connection, self.id, *arguments, **options)

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
            edges = queries.edges_of_group(connection, self.id, group) if shared and group is not None else ()
        path = explain.why(edges, start, end) if shared else None
        return {"a": a, "b": b, "shared": shared, "path": [edge_as_json(edge) for edge in path or ()]}

    def why_not(self, a: str, b: str) -> Answer:
        """Tell what keeps two tensors (or slots) apart: the shortest chain between them, and where it is cut."""
        arguments.text("a", a, A_TENSOR)
        arguments.text("b", b, A_TENSOR)
        with self._database.store().reading() as connection:
            start, end = (queries.slot_of(connection, self.id, name) for name in (a, b))
            data = runs.load_run(connection, self.id)
        plans = {
            tqc.slot: SlotPlan(tqc.slot, tqc.tensor, tqc.role, tqc.scheme, tqc.reason if tqc.scheme is None else None)
            for tqc in data.tqcs
        }
        chain = explain.why_not(data.grouping.joined, explain.barriers(plans.values(), data.grouping), start, end)
        steps = [step_as_json(step) for step in chain or ()]
        cuts = [step["barrier"] for step in steps if step["barrier"]]
        shared = chain is not None and not cuts
        reason = f"{a} and {b} share" if shared else f"no rule or tensor leads from {a} to {b}"
        if cuts:
            reason = f"{a} and {b} are kept apart: {'; '.join(cuts)}"
        elif shared and plans[start].scheme is None:  # the chain is empty: both are this one slot
            shared, reason = False, f"{a} is not quantized: {plans[start].reason}"
        return {"a": a, "b": b, "shared": shared, "reason": reason, "path": steps}

    def data(self) -> RunData:
        """The whole run as frozen plain data."""
        with self._database.store().reading() as connection:
            return runs.load_run(connection, self.id)

    def diff(self, other: Run | str) -> Answer:
        """Tell what differs from this run to the other one, given as such, by id or by name."""
        return self._database.diff(self, other)

    def export(self, output: str | Path, *, format: str = "qdq", model: str | Path | None = None) -> None:  # noqa: A002
        """Write a model that runs with these scales; it is checked and run once before the file takes its name.

        Args:
            format: ``qdq``, an ONNX model with QuantizeLinear and DequantizeLinear.
            model: where the float model is now, if it was moved.
        """
        if format != "qdq":
            raise UsageError("unknown format", format, "use qdq")
        from qgraph.jobs.exporting import export  # heavy

        export(self._database.store(), self.id, arguments.path("output", output), model=_moved(model))

    def verify(
        self,
        data: object,
        *,
        steps: int | None = None,
        images: ImageOptions | None = None,
        model: str | Path | None = None,
        optimized: bool = True,
        report: Report = lambda _: None,
    ) -> Verification:
        """Run the exported model against the float one on the same samples.

        Args:
            data: as for `Database.calibrate`; use samples that were not calibrated on.
            images: as for `Database.calibrate`.
            optimized: with onnxruntime's integer kernels; False runs every node as it is written.
            report: called with each line that a user should see.
        """
        from qgraph.jobs.exporting import verify  # heavy

        found, _ = verify(
            self._database.store(),
            self.id,
            data,
            model=_moved(model),
            steps=arguments.count("steps", steps),
            images=images,
            optimized=optimized,
            report=report,
        )
        return found


def _moved(model: str | Path | None) -> Path | None:
    return None if model is None else arguments.path("model", model)


def step_as_json(step: explain.Step) -> Answer:
    """One step of a chain that may be cut: an edge, and what keeps its ends apart (None where nothing does)."""
    edge = {"kind": None, "rule": None, "op": None, "op_type": None, "source": None}
    if step.edge is not None:
        edge = edge_as_json(step.edge)
    return {**edge, "from": step.a, "to": step.b, "barrier": step.barrier}


def edge_as_json(edge: Edge) -> Answer:
    """One step of a chain, with the keys of the command line's JSON."""
    return {
        "kind": str(edge.kind),
        "rule": edge.rule,
        "op": edge.op,
        "op_type": edge.op_type,
        "from": edge.a,
        "to": edge.b,
        "source": edge.source,
    }
