"""Calibrations of parts of the data become one: as if one machine had counted all of it.

Statistics are integers that add up, so the merged ones are bit-identical to those of one calibration, and get its
identity: `calibrate` with all of the data finds them and runs nothing. Either all parts are shards of one data set
(``--shard 1/3`` …), which must be complete; or none is, and each has data of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from qgraph.calib.codec import decode, encode
from qgraph.calib.data.samples import digest_of
from qgraph.calib.data.shards import parse_shard
from qgraph.calib.statistics import TensorStatistics
from qgraph.calib.statistics import merge as merge_statistics
from qgraph.errors import UsageError
from qgraph.store import calibrations, models
from qgraph.store.database import Database, open_database
from qgraph.store.evidence import load_evidence, load_served, save_evidence, save_served
from qgraph.store.records import CalibrationIdentity, CalibrationRecord, CalibrationStatus, Passes, SampleOrigin


@dataclass(frozen=True, slots=True)
class Part:
    """A calibration that is to be merged: where it is, and what the user calls it."""

    written: str
    database: Database
    record: CalibrationRecord
    counted: Mapping[str, int]
    origins: Mapping[str, SampleOrigin]


@dataclass(frozen=True, slots=True)
class Merged:
    """The calibration of all parts together; `status` is ``complete``, or ``reused`` if it was there already."""

    calibration: str
    status: str
    samples: int


def merge(database: Database, references: Sequence[str]) -> Merged:
    """Merge complete calibrations into one in `database`.

    Args:
        references: each a calibration of `database`, as ``c1``, or of another one, as ``OTHER.db:c1``.

    Raises:
        UsageError: fewer than two, shards that are missing or given twice, samples in more than one part, or parts that
            differ in model, preprocessing, runner or plan; it says in what.
        NotFoundError: no such calibration.
        BusyError: a live process is making the merged calibration.
    """
    if len(references) < 2:
        raise UsageError("nothing to merge", ", ".join(references) or "no calibration", "name two or more, as c1 c2")
    with ExitStack() as stack:
        parts = [_open_part(database, reference, stack) for reference in references]
        for part in parts[1:]:
            _check_parts(parts[0], part)
        counted = _joined_samples(parts)
        identity = _identity_of_all(parts, counted)
        _bring_model(database, parts[0])
        origins = {sample: origin for part in parts for sample, origin in part.origins.items()}
        with calibrations.begin(database, identity, parts[0].record.input_shapes, origins) as claim:
            if claim.outcome == "complete":
                return Merged(claim.calibration.id, "reused", claim.calibration.samples)
            for tensors in _merged_statistics(parts):  # nothing counts as counted before all of it is there
                claim.begin_pass(tensors, inferences=0, passes=Passes((), ()))
            inferences = sum(part.record.inferences for part in parts)
            done = claim.complete({}, counted, samples=sum(counted.values()), inferences=inferences)
    return Merged(done.id, "complete", done.samples)


def _open_part(database: Database, reference: str, stack: ExitStack) -> Part:
    location, colon, name = reference.rpartition(":")
    if not colon and Path(reference).is_file():
        raise UsageError("a database, and none of its calibrations", reference, f"name one, as {reference}:c1")
    home = database
    if colon:
        home = open_database(location, create=False)
        stack.callback(home.close)
    return load_part(home, name, reference)


def load_part(database: Database, calibration: str, written: str) -> Part:
    """A complete calibration, with what it counted.

    Raises:
        NotFoundError: no such calibration.
        UsageError: it is not complete.
    """
    with database.reading() as connection:
        record = calibrations.load_calibration(connection, calibration)
        counted = calibrations.load_counted(connection, record.id)
        origins = calibrations.load_origins(connection, record.id)
    if record.status != CalibrationStatus.COMPLETE:
        cure = "run the same qgraph calibrate to finish it"
        raise UsageError("a calibration that is not complete", f"{written} ({record.samples} samples)", cure)
    return Part(written, database, record, counted, origins)


def check_alike(one: CalibrationIdentity, other: CalibrationIdentity, written: str) -> None:
    """Refuse to count together what was not counted in the same way.

    Args:
        written: what the user calls the two.

    Raises:
        UsageError: they differ in model, preprocessing, runner or plan.
    """
    for field, cure in (
        ("model", "take calibrations of one model"),
        ("runner", "calibrate all data with the same runtime, on processors with the same instructions"),
        ("capability", "calibrate all data with the same qgraph and observers of your own, all with --lean or none"),
        ("preprocessing", "prepare all images in the same way"),
        ("batch_size", "use the same --batch-size"),
    ):
        if getattr(one, field) != getattr(other, field):
            named = "plan" if field == "capability" else field.replace("_", " ")
            detail = written + _shown(getattr(one, field), getattr(other, field), field)
            raise UsageError(f"calibrations that differ in their {named}", detail, cure)


def _check_parts(a: Part, b: Part) -> None:
    one, other = a.record.identity, b.record.identity
    check_alike(one, other, f"{a.written} and {b.written}")
    if (one.shard is None) != (other.shard is None):
        raise UsageError("a shard and a whole calibration", f"{a.written} and {b.written}", "merge either kind alone")
    if one.shard is not None and (one.data, one.steps) != (other.data, other.steps):
        cure = "give every shard the whole data set and the same --steps"
        raise UsageError("shards of different data sets", f"{a.written} and {b.written}", cure)


def _shown(a: object, b: object, field: str) -> str:
    """Both values, where a person can read them."""
    return "" if field in ("model", "capability", "runner") else f" ({a} and {b})"


def _joined_samples(parts: Sequence[Part]) -> dict[str, int]:
    """All samples with their multiplicities; shards must be all there, and no sample in two parts."""
    if parts[0].record.identity.shard is not None:
        _check_shards(parts)
    holders: dict[str, Part] = {}
    counted: Counter[str] = Counter()
    for part in parts:
        for sample in part.counted:
            if sample in holders:
                both = f"{holders[sample].written} and {part.written}, sample {sample}"
                raise UsageError("a sample that two parts have counted", both, "give each its own samples")
            holders[sample] = part
        counted.update(part.counted)
    return dict(sorted(counted.items()))


def _check_shards(parts: Iterable[Part]) -> None:
    found: dict[str, str] = {}
    for part in parts:
        shard = str(part.record.identity.shard)
        if shard in found:
            raise UsageError("a shard given twice", f"{shard}: {found[shard]} and {part.written}", "name each once")
        found[shard] = part.written
    counts = sorted({parse_shard(shard).count for shard in found})
    if len(counts) > 1:
        listed = ", ".join(f"{written} is {shard}" for shard, written in found.items())
        raise UsageError("shards of different splits", listed, "calibrate every shard with the same n")
    missing = [f"{i}/{counts[0]}" for i in range(1, counts[0] + 1) if f"{i}/{counts[0]}" not in found]
    if missing:
        raise UsageError("shards are missing", ", ".join(missing), "calibrate them with --shard, and merge all at once")


def _identity_of_all(parts: Sequence[Part], counted: Mapping[str, int]) -> CalibrationIdentity:
    """The identity of one calibration of all samples."""
    identity = replace(parts[0].record.identity, shard=None, data=digest_of(counted))
    sharded = parts[0].record.identity.shard is not None
    if sharded and identity.data != parts[0].record.identity.data:
        raise UsageError("shards that are not all of their data", parts[0].written, "calibrate the shards again")
    return identity if sharded else replace(identity, steps=None)


def _bring_model(database: Database, part: Part) -> None:
    """Store the model of a part, and what is known of its numbers, where the merged calibration will be."""
    if part.database is database:
        return
    with part.database.reading() as connection:
        structure = models.load_structure(connection, part.record.model)
        path = models.load_model(connection, part.record.model).path
        evidence = load_evidence(connection, part.record.model)
        served = load_served(connection, structure.fingerprint)
    with database.transaction() as connection:
        if models.find_model(connection, structure.fingerprint) is not None:
            return
        model = models.save_model(connection, structure, path)
        save_evidence(connection, model, evidence.weights, evidence.biases, evidence.constants)
        if served is not None:
            save_served(connection, model, served)


TENSORS_AT_ONCE = 64
"""Tensors that are merged before they are written."""


def _merged_statistics(parts: Sequence[Part]) -> Iterator[dict[str, bytes]]:
    """The statistics of all parts together, a few tensors at a time."""
    with parts[0].database.reading() as connection:
        names = calibrations.statistic_names(connection, parts[0].record.id)
    for first in range(0, len(names), TENSORS_AT_ONCE):
        some = names[first : first + TENSORS_AT_ONCE]
        merged: dict[str, TensorStatistics] = {}
        for part in parts:
            with part.database.reading() as connection:
                blobs = calibrations.load_statistics(connection, part.record.id, some)
            for tensor in some:
                found = decode(blobs[tensor])
                merged[tensor] = merge_statistics(merged[tensor], found) if tensor in merged else found
        yield {tensor: encode(statistics) for tensor, statistics in merged.items()}
