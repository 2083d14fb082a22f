"""Questions in Cypher to the property graph of a run, answered by ladybug, an embedded graph database.

The graph is loaded into memory for the question and thrown away after it. Needs the extra ``qgraph[cypher]``.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgraph.errors import UsageError
from qgraph.graphdb.property_graph import NODES, RELATIONSHIPS, PropertyGraph, Value
from qgraph.graphdb.statement import check_parameters, check_reads_only
from qgraph.table import Table

if TYPE_CHECKING:
    import ladybug

LONGEST_SECONDS = 60.0
A_DAY = 86_400.0
MOST_ROWS = 100_000
BUFFER_BYTES = 1 << 30
"""Memory that the graph and what is computed from it may take."""
LARGEST_GRAPH_BYTES = 1 << 33
THREADS = 2
LONGEST_PATH = 100_000
"""Relationships; models of a few thousand ops in a row exist."""


def check_installed() -> None:
    """Raise `UsageError` where ladybug is missing, before anything is read."""
    try:
        import ladybug as ladybug  # an optional extra
    except ImportError:
        raise UsageError("ladybug is not installed", "qgraph query", "pip install 'qgraph[cypher]'") from None


def query(
    graph: PropertyGraph,
    statement: str,
    parameters: Mapping[str, object] | None = None,
    *,
    seconds: float = LONGEST_SECONDS,
    most_rows: int = MOST_ROWS,
) -> Table:
    """Answer a question in Cypher.

    Nodes come as dicts of their properties with their label under ``"label"``, relationships too, paths as dicts of
    ``"nodes"`` and ``"relationships"``.

    Args:
        statement: only reads; see `qgraph.graphdb.statement`.
        parameters: values for ``$name``.
        seconds: how long it may take.
        most_rows: how many rows the answer may have.

    Raises:
        UsageError: ladybug is missing; the question is wrong, does more than read, takes too long, or has too many
            rows.
    """
    check_reads_only(statement)
    check_parameters(statement, parameters or {})
    check_installed()
    import ladybug as lb  # an optional extra

    with closing(_memory(lb)) as database, closing(lb.Connection(database, num_threads=THREADS)) as connection:
        _load(connection, graph)
        connection.execute(f"CALL var_length_extend_max_depth = {LONGEST_PATH}")
        connection.set_query_timeout(max(1, round(min(seconds, A_DAY) * 1000)))
        try:
            found = connection.execute(statement, dict(parameters or {}))
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(error, statement, seconds) from None
        assert not isinstance(found, list), "one statement has one answer"
        with closing(found):
            if found.get_num_tuples() > most_rows:
                size = f"{found.get_num_tuples()} rows"
                raise UsageError("the answer is too long", size, f"add LIMIT {most_rows} or ask for less")
            columns = tuple(found.get_column_names())
            return Table(columns, tuple(tuple(_plain(value) for value in row) for row in _rows(found)))


def _memory(lb: Any) -> ladybug.Database:
    database: ladybug.Database = lb.Database(
        ":memory:", buffer_pool_size=BUFFER_BYTES, max_db_size=LARGEST_GRAPH_BYTES, max_num_threads=THREADS
    )
    return database


def _rows(found: Any) -> Iterable[Sequence[Any]]:
    while found.has_next():
        yield found.get_next()


def _refused(error: Exception, statement: str, seconds: float) -> UsageError:
    message = str(error).split("\n", 1)[0].strip()
    if message.startswith("Interrupted"):
        return UsageError(
            "the query takes too long", f"more than {seconds:g} s", "ask for less, or allow more --seconds"
        )
    if "buffer pool" in message.lower():
        return UsageError("the query takes too much memory", statement, "ask for less")
    _, _, told = message.partition(" exception: ")
    return UsageError("the query is not understood", told or message, "see docs/cypher.md for the graph and examples")


def _load(connection: ladybug.Connection, graph: PropertyGraph) -> None:
    """Load a graph. As files: a hundred times as fast as statements; numbers are the keys, so no name is one."""
    with tempfile.TemporaryDirectory(prefix="qgraph-") as folder:
        for label, properties in NODES.items():
            columns = ", ".join(f"`{name}` {kind}" for name, kind in properties.items())
            connection.execute(f"CREATE NODE TABLE `{label}` (`_key` INT64, {columns}, PRIMARY KEY (`_key`))")
            rows = ((key, *row) for key, row in enumerate(graph.nodes[label]))
            _copy(connection, label, Path(folder) / f"{label}.csv", rows)
        for label, (start, end, properties) in RELATIONSHIPS.items():
            columns = "".join(f", `{name}` {kind}" for name, kind in properties.items())
            connection.execute(f"CREATE REL TABLE `{label}` (FROM `{start}` TO `{end}`{columns})")
            rows = ((one.start, one.end, *one.properties) for one in graph.relationships[label])
            _copy(connection, label, Path(folder) / f"{label}.csv", rows)


def _copy(connection: ladybug.Connection, label: str, path: Path, rows: Iterable[Sequence[Value]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        count = 0
        for row in rows:
            writer.writerow([_field(value) for value in row])
            count += 1
    if count:
        written = str(path).replace("\\", "\\\\").replace("'", "\\'")
        # An empty field is NULL; names with line breaks ask for one reader only.
        options = "(header=false, parallel=false, auto_detect=false, delim=',', quote='\"', escape='\"')"
        connection.execute(f"COPY `{label}` FROM '{written}' {options}")


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"[{','.join(repr(item) for item in value)}]"
    return str(value)


def _plain(value: Any) -> Any:
    """A value of an answer without the database's own numbers for nodes and relationships."""
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "_NODES" in value:
        return {"nodes": _plain(value["_NODES"]), "relationships": _plain(value["_RELS"])}
    kept = {name: _plain(item) for name, item in value.items() if not name.startswith("_")}
    return {"label": value["_LABEL"], **{k: v for k, v in kept.items() if v is not None}} if "_LABEL" in value else kept
