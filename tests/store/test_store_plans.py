"""What is asked of a large database stays fast: no question reads a whole table, no list reads a blob."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store_examples import small_run, small_structure

from qgraph.store import calibrations, lookup, models, queries, runs
from qgraph.store.calibrations import begin
from qgraph.store.database import Database, open_database
from qgraph.store.records import CalibrationIdentity
from qgraph.store.sizes import measure

LARGE = {"edges", "ops", "slots", "statistics", "tensors", "tqcs", "run_groups", "calibration_samples"}
"""Tables that grow with the models and runs in the database."""

Question = Callable[[sa.Connection], object]

POINTED: dict[str, Question] = {
    "share": lambda c: queries.share(c, "first", "side"),
    "tensor": lambda c: queries.tensor(c, "r1", "mid"),
    "slot_of a tensor": lambda c: lookup.slot_of(c, "r1", "mid"),
    "slot_of a slot": lambda c: lookup.slot_of(c, "r1", "join:in:0"),
    "group_of": lambda c: lookup.group_of(c, "r1", "join:in:0"),
    "group_named": lambda c: lookup.group_named(c, "r1", "g-shared"),
    "edges_of_group": lambda c: lookup.edges_of_group(c, "r1", "g-shared"),
    "members_of_group": lambda c: lookup.members_of_group(c, "r1", "g-shared"),
    "resolve_run": lambda c: runs.resolve_run(c, "first"),
    "load_calibration": lambda c: calibrations.load_calibration(c, "c1"),
}
"""Questions about one thing."""

LISTS: dict[str, Question] = {
    "runs": queries.runs,
    "show": lambda c: queries.show(c, "r1"),
    "groups": lambda c: queries.groups(c, "r1"),
    "scales": lambda c: queries.scales(c, "r1"),
    "coverage": lambda c: queries.coverage(c, "r1"),
    "calibrations": calibrations.list_calibrations,
    "models": models.list_models,
}
"""Questions about all of a run, or of all runs."""


@pytest.fixture
def database(empty_file: Path, tmp_path: Path) -> Iterator[Database]:
    opened = open_database(shutil.copy(empty_file, tmp_path / "q.db"), create=False)
    with opened.transaction() as connection:
        models.save_model(connection, small_structure(), None)
    with begin(opened, CalibrationIdentity("f1")) as claim:
        claim.checkpoint({"mid": b"blob"}, {"a": 1}, samples=1, inferences=1)
    with opened.transaction() as connection:
        runs.save_run(connection, "m1", "c1", small_run(), name="first")
        runs.save_run(connection, "m1", "c1", small_run("kl"))
    yield opened
    opened.close()


@contextmanager
def heard(connection: sa.Connection) -> Iterator[list[tuple[str, Any]]]:
    """The statements that run meanwhile."""
    statements: list[tuple[str, Any]] = []

    def hear(_: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
        statements.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", hear)
    yield statements
    sa.event.remove(connection, "before_cursor_execute", hear)


@pytest.mark.parametrize("question", POINTED.values(), ids=POINTED)
def test_a_question_about_one_thing_reads_no_whole_table(database: Database, question: Question) -> None:
    with database.reading() as connection:
        with heard(connection) as statements:
            question(connection)
        assert statements
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            names = aliases(statement)
            for *_, step in plan:
                scanned = re.match(r"SCAN (\w+)", step)
                assert scanned is None or names.get(scanned[1], scanned[1]) not in LARGE, (statement, step)
                whole_run = re.match(r"SEARCH (\w+) USING (PRIMARY KEY|.*INDEX \w+) \((run_id|model_id)=\?\)", step)
                assert whole_run is None or names.get(whole_run[1], whole_run[1]) not in LARGE - {"run_groups"}, step


def aliases(statement: str) -> dict[str, str]:
    """The tables behind the aliases of a statement and of the views."""
    return {
        "q": "tqcs", "m": "slots", "s": "slots", "t": "tensors", "g": "run_groups", "e": "edges", "a": "slots",
        "b": "slots", "p": "slots", "z": "requantized", **{b: a for a, b in re.findall(r"(\w+) AS (\w+)", statement)},
    }  # fmt: skip


@pytest.mark.parametrize("question", [*LISTS.values(), *POINTED.values()], ids=[*LISTS, *POINTED])
def test_no_question_reads_a_blob(database: Database, question: Question) -> None:
    with database.reading() as connection:
        with heard(connection) as statements:
            question(connection)
        read = [one for one, _ in statements if "blob" in re.sub(r"length\(\w+\.blob\)", "", one)]
    assert read == []


def test_measuring_reads_no_blob(database: Database) -> None:
    statements: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    measure(database)
    assert any("blob" in one for one in statements)
    assert [one for one in statements if "blob" in re.sub(r"length\(\w+\.blob\)", "", one)] == []


def test_removing_what_is_referred_to_reads_no_whole_table(database: Database) -> None:
    """Each reference is followed from the referring side, so it needs an index that begins with its column."""
    with database.reading() as connection:
        for table in database_tables(connection):
            for key in connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})").mappings():
                query = f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {key['from']} = 1"
                assert "SEARCH" in connection.exec_driver_sql(query).all()[0][3], (table, key["from"])


def database_tables(connection: sa.Connection) -> list[str]:
    return [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
