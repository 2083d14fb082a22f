"""What changes to a quantized file cost, by the statistics of a run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from qgraph.analysis.pricing import Prices, StoredPrices
from qgraph.calib.codec import decode
from qgraph.calib.plan import complete, plan_collection
from qgraph.errors import UsageError
from qgraph.formats.quantized_model import QuantizedModel
from qgraph.store import calibrations, models, runs
from qgraph.store.database import open_database


def prices_of(model: QuantizedModel, database: str | Path, run: str) -> Prices:
    """Prices from the statistics of a run's calibration, for the tensors that have the same names in both models.

    Raises:
        StoreError, NotFoundError: no such database, or no such run.
        UsageError: the run has no calibration, or its model no tensor of that name.
        StatisticsError: a stored blob is damaged.
    """
    with closing(open_database(database, create=False)) as store, store.reading() as connection:
        record = runs.resolve_run(connection, run)
        if record.calibration is None:
            raise UsageError("a run without statistics", run, "name a run that qgraph calibrate or qgraph solve made")
        structure = models.load_structure(connection, record.model)
        blobs = calibrations.load_statistics(connection, record.calibration)
    plan = plan_collection(structure)
    collected = {name: decode(blobs[name]) for name in plan.tensors if name in blobs}
    known = complete(plan, collected) if len(collected) == len(plan.tensors) else collected
    names = {tensor.name for tensor in model.structure.tensors}
    shared = {name: known[name] for name in sorted(names & known.keys())}
    if not shared:
        cure = "name a run of the float model that this one was made from"
        raise UsageError("no tensor has a name in both models", f"the run's model {record.model} and this one", cure)
    return StoredPrices(shared)
