"""Which Cypher is let through: one question that reads the graph and nothing else.

The graph lies in memory and is thrown away, so that a write could change nothing that is stored; but Cypher also reads
and writes files (``LOAD FROM``, ``COPY``), attaches databases and installs extensions. A statement is therefore taken
apart into words, and passes only if it begins as a question does and holds none of the words that do more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qgraph.errors import UsageError

LONGEST_STATEMENT = 100_000
"""Characters."""

FIRST_WORDS = frozenset({"MATCH", "OPTIONAL", "UNWIND", "WITH", "RETURN", "EXPLAIN", "PROFILE"})
REFUSED_WORDS = frozenset(
    {
        "ALTER", "ANALYZE", "ATTACH", "BEGIN", "CALL", "CHECKPOINT", "COMMENT", "COMMIT", "COPY", "CREATE", "DELETE",
        "DETACH", "DROP", "EXPORT", "IMPORT", "INSTALL", "LOAD", "MACRO", "MERGE", "PROJECT", "REMOVE", "ROLLBACK",
        "SET", "TRANSACTION", "UNINSTALL", "UPDATE", "USE",
    }
)  # fmt: skip

_TOKEN = re.compile(
    r"""
      (?P<skipped> \s+ | //[^\n]*\n? | /\*.*?\*/ )
    | (?P<text> '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" )
    | (?P<quoted> `[^`]*` )
    | (?P<word> [^\W\d]\w* )
    | (?P<open> ['"`] | /\* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def check_reads_only(statement: str) -> None:
    r"""Refuse what is not one question to the graph.

    A word of the language that does more can still be a name: in backticks, as a text, or after a dot, colon or ``$``.

    Raises:
        UsageError: it is empty, too long, has several statements, does more than read, or a quote is not closed.

    >>> check_reads_only("MATCH (s:Slot) WHERE s.op = 'Load' RETURN s.name // LOAD")
    >>> check_reads_only("MATCH (s) LOAD FROM 'file.csv' RETURN s")
    Traceback (most recent call last):
    qgraph.errors.UsageError: a query can only read the graph: LOAD; put a name that is a word of Cypher in backticks
    """
    if len(statement) > LONGEST_STATEMENT:
        raise UsageError("the query is too long", f"{len(statement)} characters", f"use at most {LONGEST_STATEMENT}")
    first: str | None = None
    before = ""
    for token in _TOKEN.finditer(statement):
        kind, text = token.lastgroup, token[0]
        if kind == "skipped":
            continue
        if kind == "open":
            raise UsageError("a quote or comment that is not closed", statement[token.start() :], "close it")
        word = text.upper() if kind == "word" else text
        if first is None:
            first = word
            if first not in FIRST_WORDS:
                raise UsageError("a query has to begin with MATCH, UNWIND, WITH or RETURN", text, "see docs/cypher.md")
        elif kind == "word" and word in REFUSED_WORDS and before not in {".", ":", "$", "|"}:
            cure = "put a name that is a word of Cypher in backticks"
            raise UsageError("a query can only read the graph", text, cure)
        elif text == ";" and statement[token.end() :].strip():
            raise UsageError("several statements", statement[token.end() :].strip(), "ask them one by one")
        before = text
    if first is None:
        raise UsageError("the query is empty", "qgraph query", "see docs/cypher.md for examples")


def check_parameters(statement: str, given: Iterable[str]) -> None:
    """Refuse a statement with a ``$name`` that has no value: it would compare with nothing, and find nothing.

    Raises:
        UsageError: a parameter is not given.

    >>> check_parameters("MATCH (s:Slot) WHERE s.tensor = $t RETURN '$price'", ["t"])
    >>> check_parameters("MATCH (s:Slot) WHERE s.tensor = $t RETURN s.name", [])
    Traceback (most recent call last):
    qgraph.errors.UsageError: the query has a parameter without a value: $t; give it with --param t=VALUE (parameters=)
    """
    known = set(given)
    before = ""
    for token in _TOKEN.finditer(statement):
        if token.lastgroup == "word" and before == "$" and token[0] not in known:
            cure = f"give it with --param {token[0]}=VALUE (parameters=)"
            raise UsageError("the query has a parameter without a value", f"${token[0]}", cure)
        before = token[0]
