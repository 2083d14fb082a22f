"""Upgrades keep everything, leave a copy of the file as it was, and either happen or do not."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import later_release
import pytest
import sqlalchemy as sa
from later_release import upgrade_to_it
from postgresql_server import Server
from released_databases import (
    BIASES,
    COMPLETE,
    CONSTANT,
    COUNTED,
    MEASURED,
    PARTIAL,
    STATISTICS,
    WEIGHTS,
    example_run,
    fill,
    move,
    unpack,
)
from store_examples import exact, small_run, small_structure

from qgraph.calib.codec import decode
from qgraph.calib.statistics import same_statistics
from qgraph.errors import SchemaError, StoreError
from qgraph.store import integrity, schema
from qgraph.store.calibrations import begin, load_counted, load_statistics
from qgraph.store.database import Database, connect, open_database
from qgraph.store.evidence import load_evidence
from qgraph.store.migrate import to_newest_schema
from qgraph.store.models import load_model, load_structure
from qgraph.store.runs import load_run
from qgraph.store.sensitivities import load_sensitivities
from qgraph.store.sizes import measure
from qgraph.store.tables import metadata
from qgraph.store.upgrade import Upgraded, upgrade


def check_nothing_is_lost(database: Database) -> None:
    assert integrity.check(database, decode) == []
    with database.reading() as connection:
        assert load_structure(connection, "m1") == small_structure()
        assert load_model(connection, "m2").parent == "m1"
        evidence = load_evidence(connection, "m1")
        assert exact((evidence.weights, evidence.biases)) == exact((WEIGHTS, BIASES))
        blobs = load_statistics(connection, "c1")
        assert blobs.keys() == STATISTICS.keys()
        assert all(same_statistics(decode(blob), STATISTICS[tensor]) for tensor, blob in blobs.items())
        assert same_statistics(decode(evidence.constants["bias"]), CONSTANT)
        assert load_counted(connection, "c1") == COUNTED
        assert exact(load_run(connection, "first")) == exact(example_run())
        assert exact(load_run(connection, "r2")) == exact(small_run(None))
        assert load_sensitivities(connection, "first", "samples") == (MEASURED,)
    with begin(database, COMPLETE) as complete, begin(database, PARTIAL) as partial:
        assert (complete.outcome, partial.outcome) == ("complete", "resumed")


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_a_database_of_every_released_schema_can_be_upgraded(revision: str, tmp_path: Path) -> None:
    file = unpack(revision, tmp_path / "q.db")
    assert upgrade(file).upgraded is (revision != schema.HEAD)
    database = open_database(file, create=False)
    assert [name for name, rows in measure(database).rows.items() if rows == 0] == []
    check_nothing_is_lost(database)
    database.close()


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_also_on_postgresql(revision: str, tmp_path: Path, postgresql: Server) -> None:
    url = postgresql.new_database()
    old = connect(url, create=True)
    with old.transaction() as connection:
        to_newest_schema(connection, revision)
    move(unpack(revision, tmp_path / "q.db"), old)
    old.close()
    assert upgrade(url) == Upgraded(upgraded=revision != schema.HEAD, backup=None)
    database = open_database(url, create=False)
    check_nothing_is_lost(database)
    database.close()


def test_the_database_of_the_newest_schema_is_as_the_migrations_make_it(tmp_path: Path, empty_file: Path) -> None:
    """If this fails, the schema has changed: as long as it is not released, run released_databases.py."""

    def definitions(file: Path) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()

    assert definitions(unpack(schema.HEAD, tmp_path / "q.db")) == definitions(empty_file)


@pytest.fixture
def filled(location: str) -> str:
    database = open_database(location, create=False)
    fill(database)
    assert set(measure(database).rows.values()) & {0} == set()
    database.close()
    return location


def columns(location: str) -> list[str]:
    database = connect(location, create=False)
    with database.reading() as connection:
        found = [column["name"] for column in sa.inspect(connection).get_columns("models")]
    database.close()
    return found


def test_an_upgrade_keeps_the_data_and_a_copy_of_the_file(filled: str, tmp_path: Path) -> None:
    done = upgrade_to_it(tmp_path, filled)
    assert done.upgraded
    assert "extra" in columns(filled)
    with pytest.raises(SchemaError, match="newer qgraph"):
        open_database(filled, create=False)
    database = connect(filled, create=False)
    with database.reading() as connection:
        rows = {name: connection.scalar(sa.select(sa.func.count()).select_from(metadata.tables[name]))
                for name in ("models", "calibrations", "tqcs", "statistics", "runs")}  # fmt: skip
    database.close()
    assert rows == {"models": 2, "calibrations": 2, "tqcs": 22, "statistics": 4, "runs": 2}
    assert (done.backup is not None) == (filled == str(tmp_path / "q.db"))
    if done.backup is not None:
        copy = open_database(done.backup, create=False)
        check_nothing_is_lost(copy)
        copy.close()
    assert upgrade_to_it(tmp_path / "again", filled) == Upgraded(upgraded=False, backup=None)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(filled: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        upgrade_to_it(tmp_path, filled, "fail")
    assert "extra" not in columns(filled)
    assert not list(tmp_path.glob("*.bak*"))
    database = open_database(filled, create=False)
    check_nothing_is_lost(database)
    database.close()


def test_an_upgrade_that_breaks_references_is_undone(tmp_path: Path) -> None:
    file = unpack(schema.HEAD, tmp_path / "q.db")
    with pytest.raises(SchemaError, match="break references"):
        upgrade_to_it(tmp_path, str(file), "break")
    database = open_database(file, create=False)
    check_nothing_is_lost(database)
    database.close()


def test_an_upgrade_that_is_killed_leaves_the_database_as_it_was_and_can_be_repeated(
    filled: str, tmp_path: Path
) -> None:
    command = [sys.executable, later_release.__file__, str(tmp_path), filled, "die"]
    assert subprocess.run(command, check=False).returncode == -9
    database = open_database(filled, create=False)
    check_nothing_is_lost(database)
    database.close()
    assert upgrade_to_it(tmp_path, filled).upgraded
    assert "extra" in columns(filled)


def test_an_upgrade_that_cannot_keep_a_copy_is_not_begun(
    empty_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "q.db"
    file.write_bytes(empty_file.read_bytes())
    (tmp_path / f"q.db.schema-{schema.HEAD}.1.bak.part").mkdir()
    with pytest.raises((StoreError, OSError), match="cannot be backed up"):
        upgrade_to_it(tmp_path, str(file))
    assert "extra" not in columns(str(file))


def test_upgrading_a_current_database_does_nothing(location: str, tmp_path: Path) -> None:
    assert upgrade(location) == Upgraded(upgraded=False, backup=None)
    assert not list(tmp_path.glob("*.bak*"))


def test_upgrading_what_is_not_there_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database"):
        upgrade(tmp_path / "q.db")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_database_is_not_touched(location: str) -> None:
    database = open_database(location, create=False)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'zzzz'")
    database.close()
    with pytest.raises(SchemaError, match="upgrade qgraph"):
        upgrade(location)
