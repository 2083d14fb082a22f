"""What the statistics of one tensor say, in numbers that a person reads."""

from __future__ import annotations

from collections.abc import Mapping

from qgraph.calib.codec import decode
from qgraph.calib.plan import complete, plan_collection
from qgraph.calib.statistics import TensorStatistics, condition
from qgraph.store import calibrations, models, runs
from qgraph.store.database import Database
from qgraph.store.evidence import load_evidence


def describe_statistics(database: Database, run: str, tensor: str) -> Mapping[str, object] | None:
    """Counts and extremes of a tensor, activation or constant; None where nothing was collected of it.

    Raises:
        NotFoundError: no such run.
        StatisticsError: a stored blob is damaged.
    """
    with database.reading() as connection:
        record = runs.resolve_run(connection, run)
        if record.calibration is None:
            return None
        structure = models.load_structure(connection, record.model)
        blobs = dict(load_evidence(connection, record.model).constants)
        blobs |= calibrations.load_statistics(connection, record.calibration)
    if tensor in blobs:
        return _described(decode(blobs[tensor]))
    plan = plan_collection(structure)
    if all(follower.tensor != tensor for follower in plan.followers):
        return None
    collected = {name: decode(blobs[name]) for name in plan.tensors}
    return _described(complete(plan, collected)[tensor])


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
    }
