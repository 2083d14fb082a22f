import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from calibrating_process import IDENTITY, SAMPLES, counted_after, statistics_after
from store_examples import small_structure

from qgraph.errors import BusyError, NotFoundError, StatisticsError, StoreError
from qgraph.store import leases
from qgraph.store.calibrations import (
    begin,
    find_calibration,
    list_calibrations,
    load_calibration,
    load_counted,
    load_statistics,
)
from qgraph.store.database import Database, open_database
from qgraph.store.leases import Heartbeat, Lease, database_now
from qgraph.store.models import save_model
from qgraph.store.processes import Process, current_process, is_alive
from qgraph.store.records import CalibrationIdentity, CalibrationStatus, Passes, Sibling
from qgraph.store.tables import calibrations, statistics
from qgraph.store.tables import leases as lease_table

SCRIPT = Path(__file__).with_name("calibrating_process.py")


@pytest.fixture
def database(location: str) -> Iterator[Database]:
    opened = open_database(location, create=False)
    with opened.transaction() as connection:
        save_model(connection, small_structure(), None)
    yield opened
    opened.close()


def start(database: Database, mode: str) -> subprocess.Popen[str]:
    """Start a process that calibrates, and wait until it holds the calibration."""
    command = [sys.executable, str(SCRIPT), url(database), mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def stored(database: Database) -> tuple[dict[str, bytes], dict[str, int], int]:
    with database.reading() as connection:
        return (
            load_statistics(connection, "c1"),
            load_counted(connection, "c1"),
            load_calibration(connection, "c1").samples,
        )


def test_the_identity_decides_whether_a_calibration_is_new_resumed_or_complete(database: Database) -> None:
    with begin(database, IDENTITY) as claim:
        assert (claim.outcome, claim.calibration.id, claim.calibration.samples, claim.counted) == (
            "created",
            "c1",
            0,
            {},
        )
        claim.checkpoint(statistics_after(3), counted_after(3), samples=3, inferences=4)
    with begin(database, IDENTITY) as claim:
        assert (claim.outcome, claim.calibration.id, claim.calibration.samples) == ("resumed", "c1", 3)
        assert claim.calibration.inferences == 4
        assert claim.counted == counted_after(3)
        done = claim.complete(statistics_after(5), counted_after(5), samples=5, inferences=6)
        assert (done.status, done.samples) == (CalibrationStatus.COMPLETE, 5)
    with begin(database, IDENTITY) as claim:
        assert (claim.outcome, claim.calibration.samples, claim.counted) == ("complete", 5, counted_after(5))
        with pytest.raises(StoreError, match="can no longer be written"):
            claim.checkpoint({}, {}, samples=9, inferences=9)
    assert stored(database) == (statistics_after(5), counted_after(5), 5)


def test_every_field_of_the_identity_counts() -> None:
    base = CalibrationIdentity("f", "d", "p", 1, 2, "r", "c")
    others = [
        replace(base, model="g"),
        replace(base, data=None),
        replace(base, preprocessing=None),
        replace(base, steps=None),
        replace(base, batch_size=None),
        replace(base, runner=None),
        replace(base, capability=None),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 8
    assert replace(base, steps=None, batch_size=1).digest != replace(base, steps=1, batch_size=None).digest


def test_an_unfinished_sibling_is_named_with_what_differs(database: Database) -> None:
    with begin(database, IDENTITY) as claim:
        claim.checkpoint({}, {"a": 7}, samples=7, inferences=7)
    with begin(database, replace(IDENTITY, steps=3, data="other")) as claim:
        assert claim.outcome == "created"
        assert claim.siblings == (Sibling("c1", 7, ("data", "steps")),)
    with database.reading() as connection:
        assert [(c.id, c.identity.steps) for c in list_calibrations(connection)] == [("c1", None), ("c2", 3)]
        assert find_calibration(connection, IDENTITY) == load_calibration(connection, "c1")
        assert find_calibration(connection, replace(IDENTITY, runner="x")) is None


def test_a_model_that_is_not_stored_cannot_be_calibrated(database: Database) -> None:
    with pytest.raises(NotFoundError, match="unknown model"):
        begin(database, CalibrationIdentity("unknown"))
    with database.reading() as connection, pytest.raises(NotFoundError, match="unknown calibration: c7"):
        load_calibration(connection, "c7")


def test_only_what_changed_is_written_again(database: Database) -> None:
    def rows(connection: sa.Connection) -> dict[str, int]:
        return {row.tensor: row.id for row in connection.execute(sa.select(statistics.c.tensor, statistics.c.id))}

    with begin(database, IDENTITY) as claim:
        claim.checkpoint({"a": b"1", "b": b"1"}, {}, samples=1, inferences=1)
        with database.transaction() as connection:
            connection.execute(statistics.update().where(statistics.c.tensor == "a").values(id=100))
        claim.checkpoint({"a": b"1", "b": b"2"}, {}, samples=2, inferences=2)
    with begin(database, IDENTITY) as claim:
        claim.checkpoint({"a": b"1"}, {}, samples=3, inferences=3)
    with database.reading() as connection:
        assert rows(connection)["a"] == 100
        assert load_statistics(connection, "c1") == {"a": b"1", "b": b"2"}
        assert load_statistics(connection, "c1", ["b", "absent"]) == {"b": b"2"}


def test_a_damaged_blob_is_noticed(database: Database) -> None:
    with begin(database, IDENTITY) as claim:
        claim.checkpoint({"a": b"1"}, {}, samples=1, inferences=1)
    with database.transaction() as connection:
        connection.execute(statistics.update().values(blob=b"2"))
    with database.reading() as connection, pytest.raises(StatisticsError, match="damaged statistics"):
        load_statistics(connection, "c1")


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2])
def test_after_a_kill_the_same_command_ends_as_if_nothing_had_happened(database: Database, delay: float) -> None:
    process = start(database, "slow")
    time.sleep(delay)
    kill(process)
    found, counted, samples = stored(database)
    assert found == (statistics_after(samples) if samples else {})
    assert counted == counted_after(samples)
    resumed = start(database, "fast")
    assert resumed.wait() == 0
    kill(resumed)
    assert stored(database) == (statistics_after(SAMPLES), counted_after(SAMPLES), SAMPLES)


def test_a_kill_inside_a_checkpoint_leaves_the_one_before(database: Database) -> None:
    with begin(database, IDENTITY) as claim:
        claim.checkpoint(statistics_after(4), counted_after(4), samples=4, inferences=4)
    kill(start(database, "inside"))
    process = start(database, "inside")
    assert process.wait() == -9
    kill(process)
    assert stored(database) == (statistics_after(4), counted_after(4), 4)
    with begin(database, IDENTITY) as claim:
        assert (claim.outcome, claim.calibration.samples) == ("resumed", 4)


def test_a_live_holder_is_named_and_not_disturbed(database: Database) -> None:
    process = start(database, "hold")
    with pytest.raises(
        BusyError, match=rf"a live process holds the calibration: c1 \(process {process.pid} on .* since 2"
    ):
        begin(database, IDENTITY)
    with begin(database, replace(IDENTITY, data="another")) as claim:
        assert claim.outcome == "created"
    kill(process)
    with begin(database, IDENTITY) as claim:
        assert claim.outcome == "resumed"


def test_one_process_holds_a_calibration_once(database: Database) -> None:
    with begin(database, IDENTITY), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        begin(database, IDENTITY)
    begin(database, IDENTITY).release()


def _pretend_elsewhere(database: Database, silent_seconds: float) -> None:
    with database.transaction() as connection:
        connection.execute(
            lease_table.update().values(
                host="far", process_space="another machine", heartbeat=database_now() - silent_seconds
            )
        )


def test_elsewhere_three_missed_heartbeats_make_a_holder_stale(database: Database) -> None:
    claim = begin(database, IDENTITY)
    _pretend_elsewhere(database, leases.STALE_SECONDS - 2)
    with pytest.raises(BusyError, match="on far"):
        begin(database, IDENTITY)
    _pretend_elsewhere(database, leases.STALE_SECONDS + 1)
    begin(database, IDENTITY).release()
    claim.release()


def test_who_was_taken_over_notices_and_writes_nothing(database: Database) -> None:
    old = begin(database, IDENTITY)
    old.checkpoint(statistics_after(1), counted_after(1), samples=1, inferences=1)
    _pretend_elsewhere(database, 100)
    with begin(database, IDENTITY) as new:
        new.checkpoint(statistics_after(2), counted_after(2), samples=2, inferences=2)
        with pytest.raises(BusyError, match=f"taken over by process {os.getpid()}"):
            old.checkpoint(statistics_after(9), counted_after(9), samples=9, inferences=9)
        with pytest.raises(BusyError, match="taken over"):
            old.complete(statistics_after(9), counted_after(9), samples=9, inferences=9)
        old.release()
        new.checkpoint(statistics_after(3), counted_after(3), samples=3, inferences=3)
    assert stored(database) == (statistics_after(3), counted_after(3), 3)


def test_of_several_that_take_over_one_wins(database: Database) -> None:
    kill(start(database, "hold"))
    command = [sys.executable, str(SCRIPT), url(database), "hold"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    deadline = time.monotonic() + 120
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    winners = [process for process in processes if process.poll() is None]
    assert len(winners) == 1
    kill(winners[0])
    for process in processes:
        _, errors = process.communicate()
        assert process in winners or "BusyError" in errors


def test_on_a_full_disk_the_last_checkpoint_stays_and_the_next_claim_goes_on(empty_file: Path, tmp_path: Path) -> None:
    database = open_database(shutil.copy(empty_file, tmp_path / "q.db"), create=False)
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
    claim = begin(database, IDENTITY)
    claim.checkpoint(statistics_after(1), counted_after(1), samples=1, inferences=1)
    with database.outside_transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    larger = {**statistics_after(2), "more": bytes(500_000)}
    with pytest.raises(StoreError, match=r"no space is left for the database: .*; free some space and run the same"):
        claim.checkpoint(larger, counted_after(2), samples=2, inferences=2)
    assert stored(database) == (statistics_after(1), counted_after(1), 1)
    with database.outside_transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    claim.checkpoint(larger, counted_after(2), samples=2, inferences=2)
    claim.release()
    assert stored(database) == (larger, counted_after(2), 2)
    database.close()


def test_what_went_wrong_first_is_what_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full may refuse to give the lease back as well."""

    def refuse(*_: object) -> None:
        raise StoreError("no space is left for the database", "q.db", "free some space")

    def fail_inside() -> None:
        with begin(database, IDENTITY):
            monkeypatch.setattr(leases, "release", refuse)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()


PROCESSES, READERS, SECONDS = 4, 4, 1.0


def test_sixteen_readers_beside_a_writer_see_whole_snapshots_and_disturb_nobody(database: Database) -> None:
    script = str(Path(__file__).with_name("reading_process.py"))
    command = [sys.executable, script, url(database), str(SECONDS), str(READERS)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(PROCESSES)]
    written = 0
    with begin(database, IDENTITY) as claim:
        while any(process.poll() is None for process in processes):
            samples = written % SAMPLES + 1
            if samples == 1:
                claim.begin_pass({}, inferences=0, passes=Passes((), ()))
            claim.checkpoint(statistics_after(samples), counted_after(samples), samples=samples, inferences=samples)
            written += 1
    for process in processes:
        out, errors = process.communicate()
        assert errors == ""
        snapshots = [int(number) for number in out.split()]
        assert len(snapshots) == READERS
        assert min(snapshots) > 0
    assert written > SAMPLES


def test_the_heart_beats_by_the_clock_of_the_database(database: Database) -> None:
    claim = begin(database, IDENTITY)
    with database.transaction() as connection:
        connection.execute(lease_table.update().values(heartbeat=0.0))
        (token,) = connection.scalars(sa.select(lease_table.c.owner))
    heart = Heartbeat(database, Lease(1, token), interval=0.01)
    heart.start()
    deadline = time.monotonic() + 120
    beat = 0.0
    while beat == 0.0 and time.monotonic() < deadline:
        with database.reading() as connection:
            (beat,) = connection.scalars(sa.select(lease_table.c.heartbeat))
    heart.stop()
    with database.reading() as connection:
        now = connection.scalar(sa.select(database_now()))
    assert now is not None
    assert now - 120 < beat <= now
    claim.release()


def test_a_process_is_known_by_its_pid_and_its_start() -> None:
    me = current_process()
    assert is_alive(me) is True
    assert is_alive(replace(me, start="1")) is False  # the pid was given to another process
    assert is_alive(replace(me, space="another machine")) is None
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_alive(Process(me.host, me.space, child.pid, "1")) is False


def test_a_killed_process_that_nobody_has_collected_is_gone() -> None:
    me = current_process()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    start_time = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    record = Process(me.host, me.space, child.pid, start_time)
    assert is_alive(record) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(record) is False
    child.wait()


def test_deleting_a_calibration_takes_all_of_it_along(database: Database) -> None:
    with begin(database, IDENTITY) as claim:
        claim.checkpoint(statistics_after(2), counted_after(2), samples=2, inferences=2)
    with database.transaction() as connection:
        connection.execute(calibrations.delete())
    with database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(statistics)) == 0
