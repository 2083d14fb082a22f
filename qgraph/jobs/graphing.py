"""A stored run as a property graph: asked in Cypher, or written as GraphML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qgraph.formats.graphml import write_graphml
from qgraph.graphdb import cypher
from qgraph.graphdb.property_graph import PropertyGraph, property_graph
from qgraph.graphdb.statement import check_reads_only
from qgraph.objects import many_objects
from qgraph.store import models, runs
from qgraph.store.database import Database
from qgraph.store.view_tables import meant_slots
from qgraph.table import Table


@many_objects()
def graph_of_run(database: Database, run: str) -> PropertyGraph:
    """Read the property graph of a run; raises `NotFoundError`."""
    with database.reading() as connection:
        record = runs.resolve_run(connection, run)
        structure = models.load_structure(connection, record.model)
        data = runs.load_run(connection, record.id)
        meant = meant_slots(connection, record.id)
    return property_graph(structure, data, meant)


def query(
    database: Database,
    run: str,
    statement: str,
    parameters: Mapping[str, object],
    *,
    seconds: float = cypher.LONGEST_SECONDS,
) -> Table:
    """Answer a question in Cypher to the property graph of a run; see `qgraph.graphdb.cypher.query`."""
    check_reads_only(statement)
    cypher.check_installed()
    return cypher.query(graph_of_run(database, run), statement, parameters, seconds=seconds)


def export_graphml(database: Database, run: str, output: Path) -> None:
    """Write the property graph of a run as GraphML; the file takes its name once it is complete."""
    write_graphml(graph_of_run(database, run), output)
