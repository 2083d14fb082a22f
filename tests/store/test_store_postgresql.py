"""What is PostgreSQL's own: its URL, its refusals, its locks. All other tests of the store run on it too."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa
from postgresql_server import Server
from store_examples import small_structure

from qgraph.errors import DamagedError, StoreError, UsageError
from qgraph.store import engines
from qgraph.store.calibrations import begin
from qgraph.store.database import Database, connect, is_there, open_database
from qgraph.store.leases import Heartbeat, Lease
from qgraph.store.locations import shown, url_of
from qgraph.store.models import list_models, save_model
from qgraph.store.records import CalibrationIdentity
from qgraph.store.tables import leases
from qgraph.store.upgrade import Upgraded, upgrade


@pytest.fixture
def url(postgresql: Server, empty_template: str) -> str:
    return postgresql.new_database(empty_template)


def test_a_database_is_created_once_and_found_again(postgresql: Server) -> None:
    url = postgresql.new_database()
    assert not is_there(url)
    with pytest.raises(StoreError, match="an empty database"):
        open_database(url, create=False)
    assert not is_there(url)
    first = open_database(url, create=True)
    with first.transaction() as connection:
        save_model(connection, small_structure(), None)
    first.close()
    assert is_there(url)
    for spelled in (url, url.replace("postgresql:", "postgres:"), url.replace("postgresql:", "postgresql+psycopg:")):
        again = open_database(spelled, create=True)
        with again.reading() as connection:
            assert len(list_models(connection)) == 1
        again.close()
    assert upgrade(url) == Upgraded(upgraded=False, backup=None)


def test_somebody_elses_database_is_refused_and_left_alone(postgresql: Server) -> None:
    url = postgresql.new_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE songs (id integer)")
    for create in (True, False):
        with pytest.raises(StoreError, match="not one of qgraph's"):
            open_database(url, create=create)


def test_a_server_that_is_not_there_is_one_line_without_the_password(postgresql: Server) -> None:
    cases = {
        "postgresql://me:secret@/q?host=/nowhere": "cannot be reached",
        "postgresql://me:secret@127.0.0.1:1/q": "cannot be reached",
        postgresql.url("absent").replace("postgres@", "postgres:secret@"): "no such database",
        postgresql.url("absent") + "&password=secret": "no such database",
    }
    for url, told in cases.items():
        for ask in (lambda url: open_database(url, create=False), is_there):
            with pytest.raises(StoreError, match=told) as refused:
                ask(url)
            assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/name",
        "postgresql+asyncpg://me:secret@host/name",
        "postgresql://me:secret@host:port/name",
        "sqlite+pysqlcipher://:secret@/name",
        "post gres://me:secret@host/name",
    ],
)
def test_other_urls_are_refused_without_the_password(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        connect(url, create=False)
    assert "secret" not in str(refused.value)


def test_what_is_secret_in_a_url_is_not_shown() -> None:
    url = "postgresql://me:secret@host:5432/name?sslmode=require&password=secret&sslpassword=secret"
    assert shown(url_of(url)) == "postgresql://me:***@host:5432/name?password=***&sslmode=require&sslpassword=***"


def test_the_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'qgraph\[postgres\]'"):
        connect("postgresql://me:secret@host/name", create=False)


def test_writers_queue_up_and_number_their_rows_without_a_clash(url: str) -> None:
    database = open_database(url, create=False)

    def write(name: str) -> None:
        for number in range(5):
            with database.transaction() as connection:
                save_model(connection, small_structure(f"{name}{number}"), None)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert [model.id for model in list_models(connection)] == [f"m{number}" for number in range(1, 21)]
    database.close()


def test_several_processes_may_create_the_same_database(postgresql: Server) -> None:
    script = "import sys; from qgraph.store.database import open_database; open_database(sys.argv[1], create=True)"
    command = [sys.executable, "-c", script, postgresql.new_database()]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 3


def test_a_writer_that_waits_too_long_says_that_the_database_is_locked(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = open_database(url, create=False)
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 0.1)
    waiter = open_database(url, create=False)
    with holder.transaction():
        with pytest.raises(StoreError, match="locked by another process"), waiter.transaction():
            pass
        with waiter.reading() as connection:  # readers never wait
            assert list_models(connection) == []
    for database in (holder, waiter):
        database.close()


def test_the_heart_beats_while_somebody_else_writes_for_long(url: str) -> None:
    database, writer = open_database(url, create=False), open_database(url, create=False)
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
    claim = begin(database, CalibrationIdentity("f1"))
    with database.transaction() as connection:
        connection.execute(leases.update().values(heartbeat=0.0))
        (token,) = connection.scalars(sa.select(leases.c.owner))
    heart = Heartbeat(database, Lease(1, token), interval=0.01)
    with writer.transaction():
        heart.start()
        deadline = time.monotonic() + 120
        beat = 0.0
        while beat == 0.0 and time.monotonic() < deadline:
            with database.reading() as connection:
                (beat,) = connection.scalars(sa.select(leases.c.heartbeat))
    assert beat > 0
    heart.stop()
    claim.release()
    for one in (database, writer):
        one.close()


def test_a_reader_sees_one_snapshot_and_cannot_write(url: str) -> None:
    database = open_database(url, create=False)
    with database.reading() as connection:
        assert list_models(connection) == []
        with database.transaction() as other:
            save_model(other, small_structure(), None)
        assert list_models(connection) == []
    with pytest.raises(StoreError, match="cannot be written"), database.reading() as connection:
        save_model(connection, small_structure("f2"), None)
    database.close()


def test_a_connection_that_was_cut_is_made_again(url: str) -> None:
    database = open_database(url, create=False)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
    database.close()


def test_a_database_that_cannot_store_every_name_is_refused(postgresql: Server) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="stores text in LATIN1"):
        open_database(postgresql.url("latin"), create=True)


def test_a_name_with_a_zero_byte_is_one_line(url: str) -> None:
    database = open_database(url, create=False)
    with pytest.raises(StoreError, match="no name with a zero byte"), database.transaction() as connection:
        save_model(connection, small_structure(), "a\0b")
    database.close()


def test_times_are_utc_to_the_second_whatever_the_servers_zone(postgresql: Server, url: str) -> None:
    database = url_of(url).database
    postgresql.execute(f"ALTER DATABASE \"{database}\" SET timezone TO 'Asia/Tokyo'")
    opened = open_database(url, create=False)
    with opened.transaction() as connection:
        save_model(connection, small_structure(), None)
        (record,) = list_models(connection)
        now = connection.exec_driver_sql("SELECT to_char(now() at time zone 'UTC', 'YYYY-MM-DD HH24:MI')").scalar()
    assert record.created.startswith(str(now))
    assert len(record.created) == len("2030-01-02 03:04:05")
    opened.close()


def test_values_that_qgraph_never_writes_are_damage(url: str) -> None:
    database: Database = open_database(url, create=False)
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
        connection.exec_driver_sql("UPDATE models SET derivation = '{'")
    with pytest.raises(DamagedError, match="what qgraph never writes"), database.reading() as connection:
        list_models(connection)
    database.close()
