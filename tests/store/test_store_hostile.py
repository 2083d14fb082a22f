"""A database that somebody made up gives clear errors: it never crashes, hangs, fills the memory or runs anything."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from released_databases import COMPLETE, fill

from qgraph.errors import DamagedError, NotFoundError, QgraphError, StatisticsError, StoreError
from qgraph.store import engines, integrity, lookup, queries
from qgraph.store.calibrations import begin, list_calibrations, load_counted, load_statistics
from qgraph.store.copying import copy_run
from qgraph.store.database import Database, open_database
from qgraph.store.evidence import load_evidence, load_served
from qgraph.store.models import list_models, load_structure
from qgraph.store.provenance import provenance
from qgraph.store.removal import collect_garbage, remove
from qgraph.store.runs import list_runs, load_run
from qgraph.store.sensitivities import load_sensitivities
from qgraph.store.sizes import measure
from qgraph.store.tables import metadata

READS: dict[str, Callable[[sa.Connection], object]] = {
    "models": list_models,
    "structure": lambda c: load_structure(c, "m1"),
    "evidence": lambda c: load_evidence(c, "m1"),
    "served": lambda c: load_served(c, "f1"),
    "calibrations": list_calibrations,
    "statistics": lambda c: load_statistics(c, "c1"),
    "counted": lambda c: load_counted(c, "c1"),
    "all runs": list_runs,
    "run": lambda c: load_run(c, "r1"),
    "sensitivities": lambda c: load_sensitivities(c, "r1", "samples"),
    "listed": queries.runs,
    "shown": lambda c: queries.show(c, "r1"),
    "groups": lambda c: queries.groups(c, "r1", by_cost=True),
    "scales": lambda c: queries.scales(c, "r1"),
    "coverage": lambda c: queries.coverage(c, "r1"),
    "share": lambda c: queries.share(c, "first", "mid"),
    "tensor": lambda c: queries.tensor(c, "r1", "mid"),
    "edges": lambda c: lookup.edges_of_group(c, "r1", "g-shared"),
    "provenance": lambda c: provenance(c, "r1"),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "q.db"
    database = open_database(path, create=True)
    fill(database)
    database.close()
    return path


@pytest.fixture
def file(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "q.db"))


def change(file: Path, *statements: str) -> None:
    """Change a file behind qgraph's back, without any of its constraints."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            connection.execute(statement)


def ask_everything(file: Path) -> list[QgraphError]:
    """Every reading function, and those that change something; their errors, which may be of one family only."""
    refused: list[QgraphError] = []
    try:
        database = open_database(file, create=False)
    except QgraphError as error:
        return [error]
    with closing(database):
        for read in READS.values():
            try:
                with database.reading() as connection:
                    read(connection)
            except QgraphError as error:
                refused.append(error)
        for act in ACTS:
            try:
                act(database)
            except QgraphError as error:
                refused.append(error)
    return refused


def _copy(database: Database) -> None:
    other = open_database(Path(database.name).with_name("copy.db"), create=True)
    with closing(other):
        copy_run(database, "r1", other)


ACTS: tuple[Callable[[Database], object], ...] = (
    integrity.check,
    measure,
    _copy,
    lambda database: begin(database, COMPLETE).release(),
    lambda database: collect_garbage(database, dry_run=True),
    lambda database: remove(database, ["c2"]),
)

COLUMNS = [
    (table.name, column.name) for table in metadata.sorted_tables for column in table.columns if column.name != "id"
]
STRANGE = (
    "NULL", "'text'", "''", "-1", "0", "1e300", "9e999", "9223372036854775807", "x'00ff'", "'[1,'", "'{}'",
    "'[[[1]]]'", "'{\"mapping\": 3}'", "'{\"float\": \"x\"}'", "'x''; DROP TABLE runs; --'", "CAST(x'ff' AS TEXT)",
)  # fmt: skip


@pytest.mark.no_cover
@given(st.sampled_from(COLUMNS), st.sampled_from(STRANGE))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_column_holds_the_errors_are_qgraphs_own(
    filled: Path, tmp_path: Path, column: tuple[str, str], value: str
) -> None:
    file = Path(shutil.copy(filled, tmp_path / "q.db"))
    with suppress(sqlite3.IntegrityError):
        change(file, f'UPDATE "{column[0]}" SET "{column[1]}" = {value}')
    ask_everything(file)  # raises what is not qgraph's own


@pytest.mark.no_cover
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 300), st.integers(1, 255))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_file_has_the_errors_are_qgraphs_own(
    filled: Path, tmp_path: Path, place: float, length: int, flip: int
) -> None:
    content = bytearray(filled.read_bytes())
    start = int(place * len(content))
    content[start : start + length] = bytes(byte ^ flip for byte in content[start : start + length])
    (tmp_path / "q.db").write_bytes(content)
    ask_everything(tmp_path / "q.db")


@pytest.mark.parametrize("kept", [0.0001, 0.05, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_wherever_it_ends(filled: Path, tmp_path: Path, kept: float) -> None:
    content = filled.read_bytes()
    (tmp_path / "q.db").write_bytes(content[: int(kept * len(content))])
    refused = ask_everything(tmp_path / "q.db")
    assert refused
    assert all(isinstance(error, StoreError) for error in refused)


def test_a_sound_database_refuses_nothing(file: Path) -> None:
    assert ask_everything(file) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_loop_of_masters_is_refused(file: Path, length: int) -> None:
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT slot_id FROM tqcs WHERE run_id = 1 ORDER BY slot_id LIMIT ?", (length,))
        slots = [slot for (slot,) in found]
    ring = zip(slots, [*slots[1:], slots[0]], strict=True)
    change(file, *(f"UPDATE tqcs SET master = {b} WHERE run_id = 1 AND slot_id = {a}" for a, b in ring))
    database = open_database(file, create=False)
    with pytest.raises(DamagedError, match="is its own master"), database.reading() as connection:
        load_run(connection, "r1")
    assert any("its own master" in finding.what for finding in integrity.check(database))
    database.close()


def test_a_loop_of_parents_is_found_and_ends(file: Path) -> None:
    change(file, "UPDATE models SET parent_id = 3 - id")
    database = open_database(file, create=False)
    assert {finding.what for finding in integrity.check(database)} == {
        "m1: was made from itself",
        "m2: was made from itself",
    }
    with database.reading() as connection:
        provenance(connection, "r1")
    collect_garbage(database, dry_run=True)
    database.close()


def test_a_value_of_any_length_takes_no_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(file, "UPDATE statistics SET blob = zeroblob(5000000)", "UPDATE models SET name = hex(zeroblob(3000000))")
    monkeypatch.setattr(engines, "LARGEST_VALUE", 1_000_000)
    database = open_database(file, create=False)
    for read in (list_models, READS["statistics"]):
        with pytest.raises(StoreError, match="larger than any that qgraph writes"), database.reading() as connection:
            read(connection)
    database.close()


@pytest.mark.parametrize("blob", ["'text'", "17", "x'00'", "zeroblob(100)"])
def test_a_blob_that_is_none_is_refused(file: Path, blob: str) -> None:
    change(file, f"UPDATE statistics SET blob = {blob}")
    database = open_database(file, create=False)
    with pytest.raises(StatisticsError, match="damaged statistics"), database.reading() as connection:
        load_statistics(connection, "c1")
    database.close()


NAMES = ["x'; DROP TABLE runs; --", 'a"b', "100%", "%s", ":x", "_", "*", "\x1b[31m", "🙂", "(SELECT 1)"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_never_part_of_a_command(location: str, name: str) -> None:
    database = open_database(location, create=False)
    fill(database)
    asks: tuple[Callable[[sa.Connection], object], ...] = (
        lambda c: queries.share(c, "r1", name),
        lambda c: queries.tensor(c, "r1", name),
        lambda c: queries.show(c, name),
        lambda c: lookup.edges_of_group(c, "r1", name),
        lambda c: lookup.ties_of_op(c, "r1", name),
        lambda c: load_statistics(c, name),
    )
    for ask in asks:
        with pytest.raises(NotFoundError), database.reading() as connection:
            ask(connection)
    with pytest.raises(NotFoundError):
        remove(database, [name])
    assert integrity.check(database) == []
    database.close()


def test_an_order_of_nesting_that_no_reader_survives_is_damage(file: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    change(file, f"UPDATE models SET inputs = '{deep}'")
    database = open_database(file, create=False)
    with pytest.raises(DamagedError, match="what qgraph never writes"), database.reading() as connection:
        load_structure(connection, "m1")
    assert any(finding.check == "models" for finding in integrity.check(database))
    database.close()


def test_a_huge_position_takes_no_memory(file: Path) -> None:
    for statement in ("UPDATE ops SET input_count = 1000000000000", "UPDATE slots SET position = 1000000000000"):
        change(file, statement)
        database = open_database(file, create=False)
        with pytest.raises(DamagedError), database.reading() as connection:
            load_structure(connection, "m1")
        database.close()


def test_nothing_that_a_file_defines_is_run(file: Path) -> None:
    change(file, "CREATE TRIGGER t AFTER INSERT ON models BEGIN DELETE FROM runs; END")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"defines what qgraph did not make: .* \(trigger t\)"):
            open_database(file, create=create)


def test_a_view_that_never_ends_is_refused_at_once(file: Path) -> None:
    change(
        file,
        "DROP VIEW tensor_scales",
        "CREATE VIEW tensor_scales AS WITH RECURSIVE n(run_id) AS (SELECT 1 UNION ALL SELECT run_id FROM n) "
        "SELECT * FROM n",
    )
    began = time.process_time()
    with pytest.raises(StoreError, match=r"\(view tensor_scales\)"):
        open_database(file, create=False)
    assert time.process_time() - began < 5


def test_a_view_in_place_of_a_table_is_refused(file: Path) -> None:
    change(file, "DROP TABLE events", "CREATE VIEW events AS SELECT 1 AS run_id, 2 AS position, 'x' AS message")
    with pytest.raises(StoreError, match=r"\(table events\)"):
        open_database(file, create=False)


def test_what_users_add_beside_is_their_own(file: Path) -> None:
    change(
        file,
        "CREATE VIEW mine AS SELECT tensor FROM tensor_scales",
        "CREATE TABLE notes (x)",
        "CREATE INDEX notes_x ON notes (x)",
    )
    assert ask_everything(file) == []


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    for left in tmp_path.glob("copy.db*"):
        left.unlink()
