"""Who may write to a calibration: one process at a time, as long as its heart beats.

A lease is held while its process lives. On the same machine that is known from the pid and its start time, so a
killed holder is stale at once; elsewhere a holder is stale after three missed heartbeats. All times are the
database's. Taking over is one conditional UPDATE: of several that try, one wins. The old owner finds its token
gone when it next writes, and writes nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from qgraph.errors import BusyError, StoreError
from qgraph.store.database import Database
from qgraph.store.processes import Process, current_process, is_alive
from qgraph.store.tables import leases

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 15.0


class database_now(sa.sql.functions.FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 by the database's clock."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_now)
def _standard_now(element: database_now, compiler: Any, **_: object) -> str:  # noqa: ARG001 - a protocol
    return "CAST(extract(epoch from clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: Any, **_: object) -> str:  # noqa: ARG001 - a protocol
    return "((julianday('now') - 2440587.5) * 86400.0)"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a calibration; `token` is known to its owner only."""

    calibration: int
    token: str


def acquire(connection: sa.Connection, calibration: int, token: str) -> Lease:
    """Take the lease of a calibration that nobody holds, or whose holder is stale.

    Raises:
        BusyError: a live process holds it.
    """
    held = _held(connection, calibration)
    me = current_process()
    values = {
        "owner": token,
        "host": me.host,
        "process_space": me.space,
        "pid": me.pid,
        "process_start": me.start,
        "since": database_now(),
        "heartbeat": database_now(),
    }
    if held is None:
        connection.execute(leases.insert().values(calibration_id=calibration, **values))
        return Lease(calibration, token)
    if not _is_stale(held):
        raise _busy(held)
    same = (leases.c.calibration_id == calibration) & (leases.c.owner == held.owner)
    taken = connection.execute(leases.update().where(same & (leases.c.heartbeat == held.heartbeat)).values(**values))
    if taken.rowcount != 1:
        raise _busy(held)
    return Lease(calibration, token)


def confirm(connection: sa.Connection, lease: Lease) -> None:
    """Beat once, inside the transaction that is about to write under the lease.

    Raises:
        BusyError: the lease was taken over; nothing may be written.
    """
    if _beat(connection, lease):
        return
    holder = connection.execute(sa.select(leases).where(leases.c.calibration_id == lease.calibration)).one_or_none()
    by = "" if holder is None else f" by process {holder.pid} on {holder.host}"
    raise BusyError(
        f"the calibration was taken over{by}",
        f"c{lease.calibration}",
        "let that process finish; it keeps what is stored",
    )


def release(connection: sa.Connection, lease: Lease) -> None:
    """Give the lease back; nothing happens if it is not held any more."""
    connection.execute(leases.delete().where(_mine(lease)))


def holder(connection: sa.Connection, calibration: int) -> str | None:
    """Who holds a calibration and since when, in words; None if nobody that lives does."""
    held = _held(connection, calibration)
    return None if held is None or _is_stale(held) else _described(held)


class Heartbeat:
    """Beats for a lease in a thread until stopped. A beat that fails is left to the next one."""

    def __init__(self, database: Database, lease: Lease, interval: float = HEARTBEAT_SECONDS) -> None:
        self._database = database
        self._lease = lease
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat of c{lease.calibration}", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; returns when the thread has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                # Not behind the writers: a long write of somebody else must not make this one look dead.
                with self._database.outside_transaction() as connection:
                    if not _beat(connection, self._lease):
                        return  # taken over: the owner learns it from its next write
            except StoreError:
                continue  # busy for too long; three beats may be missed


def _held(connection: sa.Connection, calibration: int) -> sa.Row[Any] | None:
    silent = (database_now() - leases.c.heartbeat).label("silent")
    return connection.execute(sa.select(leases, silent).where(leases.c.calibration_id == calibration)).one_or_none()


def _beat(connection: sa.Connection, lease: Lease) -> bool:
    beaten = connection.execute(leases.update().where(_mine(lease)).values(heartbeat=database_now()))
    return beaten.rowcount == 1


def _mine(lease: Lease) -> sa.ColumnElement[bool]:
    return (leases.c.calibration_id == lease.calibration) & (leases.c.owner == lease.token)


def _is_stale(held: sa.Row[Any]) -> bool:
    alive = is_alive(Process(held.host, held.process_space, held.pid, held.process_start))
    return bool(held.silent > STALE_SECONDS) if alive is None else not alive


def _busy(held: sa.Row[Any]) -> BusyError:
    cure = "wait for it, or end it; nothing that it counted is lost"
    return BusyError("a live process holds the calibration", _described(held), cure)


def _described(held: sa.Row[Any]) -> str:
    since = datetime.fromtimestamp(held.since, UTC).isoformat(" ", "seconds")
    return f"c{held.calibration_id} (process {held.pid} on {held.host} since {since})"
