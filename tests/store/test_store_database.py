import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from qgraph.errors import SchemaError, StoreError, UsageError
from qgraph.store import schema
from qgraph.store.database import Database, connect, open_database
from qgraph.store.engines import open_mode


def count_models(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM models").scalar_one())


def add_model(database: Database, fingerprint: str) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO models (fingerprint, name, opset, inputs, outputs) VALUES (?, 'm', 1, '[]', '[]')",
            (fingerprint,),
        )


def test_reading_never_creates_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no database: .*absent\.db; run qgraph analyze or qgraph calibrate first"):
        open_database(tmp_path / "absent.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_created_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "odd name #1 100%?.db"
    first = open_database(path, create=True)
    add_model(first, "f")
    first.close()
    for location in (path, str(path)):
        again = open_database(location, create=True)
        assert count_models(again) == 1
        again.close()


def test_a_url_of_sqlite_means_the_same_file(tmp_path: Path) -> None:
    open_database(tmp_path / "q.db", create=True).close()
    database = open_database(f"sqlite:///{tmp_path}/q.db", create=False)
    assert database.name == f"{tmp_path}/q.db"
    database.close()


def test_every_connection_holds_references_and_writes_ahead(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    database.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)

    def add_and_fail() -> None:
        with database.transaction() as connection:
            connection.exec_driver_sql(
                "INSERT INTO models (fingerprint, name, opset, inputs, outputs) VALUES ('x', 'm', 1, '', '')"
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_and_fail()
    assert count_models(database) == 0
    database.close()


@pytest.mark.parametrize("kind", ["transaction", "reading"])
def test_rows_that_a_traceback_keeps_half_read_do_not_lock_the_next_writer_out(tmp_path: Path, kind: str) -> None:
    database, other = (open_database(tmp_path / "q.db", create=True) for _ in range(2))
    for name in "abc":
        add_model(database, name)

    def read_and_fail() -> None:
        with getattr(database, kind)() as connection:
            half_read = connection.exec_driver_sql("SELECT * FROM models")
            assert half_read.fetchone()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        read_and_fail()
    add_model(other, "meanwhile")
    add_model(database, "afterwards")
    assert kept.tb
    assert count_models(database) == 5
    database.close()
    other.close()


def test_a_reader_sees_one_snapshot_while_another_writes(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.reading() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM models").scalar()
        add_model(database, "written meanwhile")
        assert connection.exec_driver_sql("SELECT count(*) FROM models").scalar() == before == 0
    assert count_models(database) == 1
    database.close()


def test_writers_queue_up_instead_of_failing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)

    def read_then_write(name: str) -> None:
        for number in range(10):
            with database.transaction() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM models").scalar()
                connection.exec_driver_sql(
                    "INSERT INTO models (fingerprint, name, opset, inputs, outputs) VALUES (?, 'm', 1, '', '')",
                    (f"{name}{number}",),
                )

    threads = [threading.Thread(target=read_then_write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_models(database) == 40
    database.close()


def test_several_processes_may_create_the_same_database(tmp_path: Path) -> None:
    script = "import sys; from qgraph.store.database import open_database; open_database(sys.argv[1], create=True)"
    command = [sys.executable, "-c", script, str(tmp_path / "q.db")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 4


def test_a_locked_database_says_so(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with database.reading() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        with pytest.raises(StoreError, match="locked by another process"):
            add_model(database, "f")
    database.close()


@pytest.mark.parametrize("content", [b"not a database at all", b"SQLite", b"\x00" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(content)
    for create in (True, False):
        with pytest.raises(StoreError, match="not a database"):
            open_database(path, create=create)
    assert path.read_bytes() == content


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (id)")
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StoreError, match="not one of qgraph's"):
            open_database(path, create=create)
    assert path.read_bytes() == before


def test_an_empty_file_is_filled_only_where_creating_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.touch()
    with pytest.raises(StoreError, match="an empty database"):
        open_database(path, create=False)
    database = open_database(path, create=True)
    assert count_models(database) == 0
    database.close()


def test_a_truncated_database_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    open_database(path, create=True).close()
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(StoreError, match=r"the database is damaged|cannot be read or written"):
        open_database(path, create=False)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    for create in (True, False):
        with pytest.raises(StoreError, match="a folder, not a database"):
            open_database(tmp_path, create=create)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        open_database(tmp_path / "absent" / "q.db", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_can_be_read_but_not_written(tmp_path: Path) -> None:
    open_database(tmp_path / "q.db", create=True).close()
    (tmp_path / "q.db").chmod(0o444)
    tmp_path.chmod(0o555)
    database = open_database(tmp_path / "q.db", create=False)
    assert count_models(database) == 0
    with pytest.raises(StoreError, match="cannot be written"):
        add_model(database, "f")
    database.close()
    tmp_path.chmod(0o755)


def test_without_a_writable_folder_the_file_is_opened_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(tmp_path / "q.db", create=True).close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "immutable" in open_mode(tmp_path / "q.db", create=False)
    database = open_database(tmp_path / "q.db", create=False)
    assert count_models(database) == 0
    with pytest.raises(StoreError, match="the database cannot be written"):
        add_model(database, "f")
    database.close()


def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my data.db"
    open_database(path, create=True).close()
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    monkeypatch.setattr(schema, "HEAD", "9999")
    for create in (True, False):
        with pytest.raises(SchemaError) as caught:
            open_database(path, create=create)
        assert caught.value.cure == f"run: qgraph db upgrade --db '{path}'"


def test_a_newer_schema_says_to_upgrade_qgraph(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'zzzz'")
    database.close()
    for create in (True, False):
        with pytest.raises(SchemaError, match=r"newer qgraph.*upgrade qgraph"):
            open_database(tmp_path / "q.db", create=create)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(UsageError) as caught:
        connect("nodialect://me:secret@host/name", create=False)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        connect("post gres://me:secret@host:port:/name", create=False)
    assert "secret" not in str(caught.value)


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="in memory"):
        open_database("sqlite://", create=True)


def test_queries_load_nothing_heavy() -> None:
    script = (
        "import sys, qgraph.store.database, qgraph.store.queries, qgraph.store.records, qgraph.store.calibrations\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numba', 'networkx', 'numpy', 'alembic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_records_need_no_third_party() -> None:
    script = "import sys, qgraph.store.records; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
