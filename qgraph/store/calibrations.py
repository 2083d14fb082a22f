"""Calibrations: begun, resumed or reused by identity; checkpoints that survive kill -9; what was counted.

Statistics and the cursor (which samples were counted, how often) go in one transaction, so the database always
holds the statistics of exactly the samples that it names.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa

from qgraph.errors import NotFoundError, StoreError
from qgraph.store import leases
from qgraph.store.blobs import checked, digest
from qgraph.store.bulk import insert_row, insert_rows
from qgraph.store.database import Database
from qgraph.store.encoding import decode, encode, moment
from qgraph.store.records import (
    CalibrationIdentity,
    CalibrationRecord,
    CalibrationStatus,
    Passes,
    SampleOrigin,
    Sibling,
)
from qgraph.store.references import calibration_row
from qgraph.store.tables import calibration_samples, calibrations, models, statistics

_IDENTITY_COLUMNS = {
    "data": calibrations.c.data_digest,
    "preprocessing": calibrations.c.preprocessing,
    "steps": calibrations.c.steps,
    "batch_size": calibrations.c.batch_size,
    "runner": calibrations.c.runner,
    "capability": calibrations.c.capability,
    "shard": calibrations.c.shard,
}

Outcome = Literal["created", "resumed", "complete"]


class Claim:
    """A calibration that this process may write to, until the ``with`` block ends.

    Attributes:
        outcome: ``created``, ``resumed``, or ``complete``: then there is nothing to do and nothing can be written.
        calibration: as it was when it was claimed.
        counted: sample hash → multiplicity, as it was when it was claimed.
        siblings: unfinished calibrations of the same model with another identity, oldest first.
    """

    def __init__(
        self,
        database: Database,
        outcome: Outcome,
        calibration: CalibrationRecord,
        siblings: tuple[Sibling, ...],
        lease: leases.Lease | None,
        written: tuple[dict[str, str], dict[str, int]],
        origins: Mapping[str, SampleOrigin],
    ) -> None:
        self.outcome = outcome
        self.calibration = calibration
        self.siblings = siblings
        self.counted: Mapping[str, int] = dict(written[1])
        self._database = database
        self._lease = lease
        self._digests, self._counted = written
        self._origins = origins
        self._heartbeat = None if lease is None else leases.Heartbeat(database, lease)
        if self._heartbeat is not None:
            self._heartbeat.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError:
            if error is None:  # otherwise what went wrong first is what the user should hear; the lease grows stale
                raise

    def checkpoint(
        self,
        tensors: Mapping[str, bytes],
        counted: Mapping[str, int],
        *,
        samples: int,
        inferences: int,
        passes: Passes | None = None,
    ) -> None:
        """Store the statistics so far and what they were counted from, in one transaction.

        Args:
            tensors: the statistics of each tensor; one that is not mentioned stays as it is stored.
            counted: sample hash → multiplicity; one that is not mentioned stays as it is stored.
            samples: all samples counted so far.
            inferences: all samples ever run for this calibration.
            passes: what the statistics belong to, where there are several passes.

        Raises:
            BusyError: another process took the calibration over; nothing was written.
            StoreError: the calibration is complete or was released, or the database refuses.
        """
        self._write(CalibrationStatus.PARTIAL, tensors, counted, samples, inferences, passes)

    def begin_pass(self, tensors: Mapping[str, bytes], *, inferences: int, passes: Passes) -> None:
        """Store what a finished pass counted, and that the next one, over all samples, begins.

        Args:
            passes: what is finished then, and what the next pass counts.

        Raises:
            BusyError, StoreError: as `checkpoint`.
        """
        self._write(CalibrationStatus.PARTIAL, tensors, {}, 0, inferences, passes, anew=True)

    def complete(
        self, tensors: Mapping[str, bytes], counted: Mapping[str, int], *, samples: int, inferences: int
    ) -> CalibrationRecord:
        """Store the last statistics as `checkpoint` does, mark the calibration complete and give it back."""
        self._write(CalibrationStatus.COMPLETE, tensors, counted, samples, inferences, None)
        self.release()
        with self._database.reading() as connection:
            return load_calibration(connection, self.calibration.id)

    def release(self) -> None:
        """Let others continue the calibration. Can be called again."""
        if self._heartbeat is None or self._lease is None:
            return
        self._heartbeat.stop()
        lease, self._lease, self._heartbeat = self._lease, None, None
        with self._database.transaction() as connection:
            leases.release(connection, lease)

    def _write(
        self,
        status: CalibrationStatus,
        tensors: Mapping[str, bytes],
        counted: Mapping[str, int],
        samples: int,
        inferences: int,
        passes: Passes | None,
        *,
        anew: bool = False,
    ) -> None:
        if self._lease is None:
            raise StoreError("this calibration can no longer be written", self.calibration.id, "begin it again")
        digests = {tensor: digest(blob) for tensor, blob in tensors.items()}
        changed = sorted(tensor for tensor, found in digests.items() if self._digests.get(tensor) != found)
        recounted = sorted(item for item in counted.items() if self._counted.get(item[0]) != item[1])
        number = self._lease.calibration
        with self._database.transaction() as connection:
            leases.confirm(connection, self._lease)
            _replace_statistics(connection, number, {t: (digests[t], tensors[t]) for t in changed}, self._digests)
            if anew:
                connection.execute(calibration_samples.delete().where(calibration_samples.c.calibration_id == number))
            _replace_counted(connection, number, recounted, self._counted, self._origins)
            connection.execute(
                calibrations.update()
                .where(calibrations.c.id == number)
                .values(
                    status=status.value,
                    samples=samples,
                    inferences=inferences,
                    passes=None if passes is None else encode((passes.done, passes.current)),
                    updated=sa.text("CURRENT_TIMESTAMP"),
                )
            )
        if anew:
            self._counted.clear()
        self._digests.update(digests)
        self._counted.update(recounted)


def begin(
    database: Database,
    identity: CalibrationIdentity,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    origins: Mapping[str, SampleOrigin] = MappingProxyType({}),
) -> Claim:
    """Create the calibration with that identity, resume it, or find it complete.

    Args:
        input_shapes: by input, a shape in which the model is fed; kept with a calibration that is created.
        origins: by sample hash, where it was found; kept with each sample that is counted.

    Raises:
        NotFoundError: the model of that fingerprint is not stored.
        BusyError: a live process holds the calibration.
    """
    token = secrets.token_hex(16)
    with database.transaction() as connection:
        model = connection.scalar(sa.select(models.c.id).where(models.c.fingerprint == identity.model))
        if model is None:
            raise NotFoundError("unknown model", identity.model, "store its structure first")
        siblings = _siblings(connection, int(model), identity)
        number = connection.scalar(sa.select(calibrations.c.id).where(calibrations.c.identity == identity.digest))
        outcome: Outcome = "resumed"
        if number is None:
            number, outcome = _create(connection, int(model), identity, input_shapes or {}), "created"
        record = load_calibration(connection, f"c{number}")
        if record.status == CalibrationStatus.COMPLETE:
            return Claim(database, "complete", record, siblings, None, ({}, load_counted(connection, record.id)), {})
        lease = leases.acquire(connection, int(number), token)
        digests = sa.select(statistics.c.tensor, statistics.c.digest).where(statistics.c.calibration_id == number)
        written = {row.tensor: row.digest for row in connection.execute(digests)}, load_counted(connection, record.id)
    return Claim(database, outcome, record, siblings, lease, written, origins)


def list_calibrations(connection: sa.Connection) -> list[CalibrationRecord]:
    """All calibrations, oldest first."""
    return [_record(row) for row in connection.execute(_RECORDS.order_by(calibrations.c.id))]


def load_calibration(connection: sa.Connection, calibration: str) -> CalibrationRecord:
    """One calibration, written as ``c1``; raises `NotFoundError`."""
    number = calibration_row(connection, calibration)
    return _record(connection.execute(_RECORDS.where(calibrations.c.id == number)).one())


def find_calibration(connection: sa.Connection, identity: CalibrationIdentity) -> CalibrationRecord | None:
    """The calibration with that identity, if it was ever begun."""
    found = connection.execute(_RECORDS.where(calibrations.c.identity == identity.digest)).one_or_none()
    return None if found is None else _record(found)


def load_statistics(
    connection: sa.Connection, calibration: str, tensors: Iterable[str] | None = None
) -> dict[str, bytes]:
    """The stored statistics of all tensors, or of those named that have any, sorted by name.

    Raises:
        NotFoundError: no such calibration.
        StatisticsError: a blob is damaged.
    """
    number = calibration_row(connection, calibration)
    query = sa.select(statistics.c.tensor, statistics.c.digest, statistics.c.blob).where(
        statistics.c.calibration_id == number
    )
    if tensors is None:
        found = connection.execute(query.order_by(statistics.c.tensor)).all()
    else:  # one by one: a list of names could be longer than a query may be
        one = query.where(statistics.c.tensor == sa.bindparam("name"))
        found = [row for name in sorted(set(tensors)) for row in connection.execute(one, {"name": name})]
    return {row.tensor: checked(row.blob, row.digest, row.tensor) for row in found}


def statistic_names(connection: sa.Connection, calibration: str) -> list[str]:
    """The tensors that a calibration has statistics of, sorted."""
    number = calibration_row(connection, calibration)
    query = sa.select(statistics.c.tensor).where(statistics.c.calibration_id == number)
    return list(connection.scalars(query.order_by(statistics.c.tensor)))


def load_counted(connection: sa.Connection, calibration: str) -> dict[str, int]:
    """Which samples were counted: content hash → multiplicity, sorted by hash."""
    columns = calibration_samples.c
    number = calibration_row(connection, calibration)
    query = sa.select(columns.sample, columns.multiplicity).where(columns.calibration_id == number)
    return {row.sample: row.multiplicity for row in connection.execute(query.order_by(columns.sample))}


def load_origins(
    connection: sa.Connection, calibration: str, samples: Iterable[str] | None = None
) -> dict[str, SampleOrigin]:
    """Where the samples of a calibration, or those named, were found, by content hash; none where it is not known."""
    columns = calibration_samples.c
    number = calibration_row(connection, calibration)
    query = sa.select(columns.sample, columns.position, columns.origin).where(columns.calibration_id == number)
    if samples is not None:
        query = query.where(columns.sample.in_(sorted(set(samples))))
    rows = connection.execute(query.order_by(columns.sample))
    return {row.sample: SampleOrigin(row.position, row.origin) for row in rows if row.position is not None}


_RECORDS = sa.select(calibrations, models.c.fingerprint).join(models)


def _record(row: sa.Row[Any]) -> CalibrationRecord:
    return CalibrationRecord(
        id=f"c{row.id}",
        model=f"m{row.model_id}",
        identity=CalibrationIdentity(
            row.fingerprint, *(getattr(row, column.name) for column in _IDENTITY_COLUMNS.values())
        ),
        status=CalibrationStatus(row.status),
        samples=row.samples,
        inferences=row.inferences,
        input_shapes=decode(row.input_shapes),
        passes=None if row.passes is None else Passes(*decode(row.passes)),
        created=moment(row.created),
        updated=moment(row.updated),
        version=row.version,
    )


def _create(
    connection: sa.Connection, model: int, identity: CalibrationIdentity, input_shapes: Mapping[str, tuple[int, ...]]
) -> int:
    values = {column.name: getattr(identity, field) for field, column in _IDENTITY_COLUMNS.items()}
    return insert_row(
        connection,
        calibrations,
        model_id=model,
        identity=identity.digest,
        input_shapes=encode(input_shapes),
        status=CalibrationStatus.PARTIAL.value,
        version=version("qgraph"),
        **values,
    )


def _siblings(connection: sa.Connection, model: int, identity: CalibrationIdentity) -> tuple[Sibling, ...]:
    query = _RECORDS.where(
        calibrations.c.model_id == model,
        calibrations.c.status == CalibrationStatus.PARTIAL.value,
        calibrations.c.identity != identity.digest,
    ).order_by(calibrations.c.id)
    records = [_record(row) for row in connection.execute(query)]
    return tuple(Sibling(record.id, record.samples, _differing(record.identity, identity)) for record in records)


def _differing(a: CalibrationIdentity, b: CalibrationIdentity) -> tuple[str, ...]:
    return tuple(field for field in _IDENTITY_COLUMNS if getattr(a, field) != getattr(b, field))


def _replace_statistics(
    connection: sa.Connection, number: int, blobs: Mapping[str, tuple[str, bytes]], stored: Mapping[str, str]
) -> None:
    """Write blobs, and only those: a tensor's statistics change rarely once its range has settled."""
    _delete(connection, statistics.c.calibration_id, statistics.c.tensor, number, [t for t in blobs if t in stored])
    rows = ((number, tensor, found, blob) for tensor, (found, blob) in blobs.items())
    insert_rows(connection, statistics, ("calibration_id", "tensor", "digest", "blob"), rows)


def _replace_counted(
    connection: sa.Connection,
    number: int,
    counted: list[tuple[str, int]],
    stored: Mapping[str, int],
    origins: Mapping[str, SampleOrigin],
) -> None:
    columns = calibration_samples.c
    _delete(connection, columns.calibration_id, columns.sample, number, [s for s, _ in counted if s in stored])
    found = ((sample, multiplicity, origins.get(sample)) for sample, multiplicity in counted)
    rows = (
        (number, sample, multiplicity, *((None, None) if origin is None else (origin.index, origin.name)))
        for sample, multiplicity, origin in found
    )
    names = ("calibration_id", "sample", "multiplicity", "position", "origin")
    insert_rows(connection, calibration_samples, names, rows)


def _delete(
    connection: sa.Connection, owner: sa.Column[Any], key: sa.Column[Any], number: int, names: list[str]
) -> None:
    if names:
        condition = (owner == number) & (key == sa.bindparam("name"))
        connection.execute(sa.delete(owner.table).where(condition), [{"name": name} for name in names])
