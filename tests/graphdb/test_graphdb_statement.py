"""A query reads the graph, and nothing else passes."""

from __future__ import annotations

import pytest

from qgraph.errors import UsageError
from qgraph.graphdb import cypher
from qgraph.graphdb.property_graph import NODES, RELATIONSHIPS, PropertyGraph
from qgraph.graphdb.statement import check_reads_only

EMPTY = PropertyGraph(dict.fromkeys(NODES, ()), dict.fromkeys(RELATIONSHIPS, ()))
HOSTILE = "a'b\"c\\\n\r\x00\x1b,;null`é"


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "  // only a comment",
        "CREATE (:Op {_key: 1})",
        "MATCH (o:Op) SET o.name = 'x'",
        "MATCH (o:Op) DETACH DELETE o",
        "MATCH (o:Op) merge (p:Op {_key: 2})",
        "LOAD FROM '/etc/passwd' RETURN *",
        "MATCH (o) LOAD FROM '/etc/passwd' (file_format='csv') RETURN *",
        "MATCH (o) /* ' */ LOAD FROM 'x' RETURN *",
        "MATCH (o) WHERE o.name = '\\'' LOAD FROM 'x' RETURN *",
        "COPY (MATCH (o) RETURN o) TO 'x.csv'",
        "CALL show_tables() RETURN *",
        "INSTALL httpfs",
        "ATTACH 'x' AS y (dbtype sqlite)",
        "EXPORT DATABASE 'x'",
        "RETURN 1; RETURN 2",
        "MATCH (o:Op) RETURN 'open",
        "RETURN 1 /* open",
        "RETURN " + "1+" * 60_000 + "1",
    ],
)
def test_what_does_more_than_read_is_refused(statement: str) -> None:
    with pytest.raises(UsageError):
        check_reads_only(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "MATCH (o:Op) WHERE o.name = 'LOAD' RETURN o.set",
        'match (o:Op) where o.type = "it\'s a COPY; CREATE" return o;',
        "MATCH (`set`:Op) RETURN `set`.name // DELETE",
        "OPTIONAL MATCH (o:Op) /* CALL */ RETURN o",
        "EXPLAIN MATCH (o:Op {name: $load}) RETURN o",
    ],
)
def test_words_in_texts_comments_and_backticks_are_only_words(statement: str) -> None:
    check_reads_only(statement)


def test_a_wrong_query_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match="nope") as error:
        cypher.query(EMPTY, "MATCH (o:Op) RETURN o.nope")
    assert "\n" not in str(error.value)


def test_a_query_that_takes_too_long_is_stopped() -> None:
    counting = "UNWIND range(1, 3000) AS a UNWIND range(1, 3000) AS b UNWIND range(1, 3000) AS c RETURN sum(a * b * c)"
    with pytest.raises(UsageError, match="too long"):
        cypher.query(EMPTY, counting, seconds=0.2)


def test_an_answer_with_too_many_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="5 rows"):
        cypher.query(EMPTY, "UNWIND range(1, 5) AS a RETURN a", most_rows=4)


def test_a_name_comes_back_as_it_is_whatever_it_contains() -> None:
    graph = PropertyGraph({**EMPTY.nodes, "Op": ((HOSTILE, "Conv", "ai.onnx", None),)}, EMPTY.relationships)
    found = cypher.query(graph, "MATCH (o:Op {name: $name}) RETURN o.name, o.excluded, o", {"name": HOSTILE})
    assert found.rows == ((HOSTILE, None, {"label": "Op", "name": HOSTILE, "type": "Conv", "domain": "ai.onnx"}),)


def test_without_ladybug_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ladybug", None)
    with pytest.raises(UsageError, match=r"qgraph\[cypher\]"):
        cypher.query(EMPTY, "RETURN 1")
