"""What the statistics of one tensor say, in numbers that a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from qgraph.calib.channels import ChannelStatistics, means
from qgraph.calib.codec import decode
from qgraph.calib.octaves import octaves
from qgraph.calib.plan import CollectionPlan, complete, plan_collection
from qgraph.calib.rows import RowStatistics
from qgraph.calib.statistics import TensorStatistics, condition
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database
from qgraph.store.evidence import load_evidence
from qgraph.store.records import SampleOrigin


def describe_statistics(database: Database, run: str, tensor: str) -> Mapping[str, object] | None:
    """Counts and extremes of a tensor, activation or constant; None where nothing was collected of it.

    Raises:
        NotFoundError: no such run.
        StatisticsError: a stored blob is damaged.
    """
    found = statistics_of_tensors(database, run, [tensor]).get(tensor)
    if found is None:
        return None
    held = [one for one in asdict(found.provenance).values() if one is not None]
    origins: Mapping[str, SampleOrigin] = {}
    with database.reading() as connection:
        record = runs.resolve_run(connection, run)
        if record.calibration is not None and held:
            origins = calibrations.load_origins(connection, record.calibration, held)
    return {**_described(found), "origins": {sample: asdict(origin) for sample, origin in origins.items()}}


def statistics_of_tensors(database: Database, run: str, tensors: Sequence[str]) -> dict[str, TensorStatistics]:
    """Statistics of tensors, activations or constants, by name; one of which nothing was collected is left out.

    Only what they follow from is read.

    Raises:
        NotFoundError: no such run.
        StatisticsError: a stored blob is damaged.
    """
    with database.reading() as connection:
        record = runs.resolve_run(connection, run)
        if record.calibration is None:
            return {}
        plan = plan_collection(models.load_structure(connection, record.model))
        needed = _needed(tensors, plan)
        blobs = dict(load_evidence(connection, record.model).constants)
        blobs |= calibrations.load_statistics(connection, record.calibration, needed)
    followers = tuple(follower for follower in plan.followers if follower.tensor in needed)
    part = replace(plan, atoms={name: plan.atoms[name] for name in plan.tensors if name in needed}, followers=followers)
    known = {name: decode(blob) for name, blob in blobs.items() if name in needed}
    known |= complete(part, known)
    return {name: known[name] for name in tensors if name in known}


def _needed(tensors: Iterable[str], plan: CollectionPlan) -> frozenset[str]:
    """Tensors and all that their statistics follow from."""
    needed = set(tensors)
    for follower in reversed(plan.followers):
        if follower.tensor in needed:
            needed.update(follower.sources)
    return frozenset(needed)


def _described(statistics: TensorStatistics) -> Mapping[str, object]:
    return {
        "samples": statistics.samples,
        "elements": statistics.elements,
        "minimum": statistics.minimum,
        "maximum": statistics.maximum,
        "zeros": statistics.zeros,
        "nan": statistics.nan,
        "infinities": statistics.positive_infinities + statistics.negative_infinities,
        "bins": len(statistics.bins),
        "condition": condition(statistics),
        "provenance": asdict(statistics.provenance),
        "channels": [_described_channels(one) for one in statistics.channels],
        "rows": [_described_rows(one) for one in statistics.rows],
        "histogram": [asdict(one) for one in octaves(statistics)],
    }


def _described_channels(channels: ChannelStatistics) -> Mapping[str, object]:
    """Extremes and means are null where a channel had no finite value."""
    return {
        "axis": channels.axis,
        "channels": channels.size,
        "histograms": channels.binned,
        "minimum": channels.minimum.tolist(),
        "maximum": channels.maximum.tolist(),
        "mean": means(channels).tolist(),
    }


def _described_rows(rows: RowStatistics) -> Mapping[str, object]:
    return {"axis": rows.axis, "rows": rows.total, "nan": rows.nan, "infinite": rows.infinite, "single": rows.single}
