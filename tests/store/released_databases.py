"""One real database for each released schema, with rows in every table: run this file to make that of the newest one.

Before a release, run ``python tests/store/released_databases.py`` and commit what it writes; a released file is never
written again.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from store_examples import small_run, small_structure

from qgraph.calib.codec import encode
from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.statistics import EMPTY_STATISTICS, statistics_of
from qgraph.constraints.model import Derived, Fixed, Origin
from qgraph.solve.run import Choice, Finding, RunData
from qgraph.store import schema
from qgraph.store.calibrations import begin
from qgraph.store.database import Database, open_database
from qgraph.store.evidence import Served, save_evidence, save_served
from qgraph.store.models import derive, save_model
from qgraph.store.records import CalibrationIdentity, Passes, SampleOrigin
from qgraph.store.runs import save_run
from qgraph.store.sensitivities import Sensitivity, save_sensitivities
from qgraph.store.tables import leases
from qgraph.tqc import Scheme

FOLDER = Path(__file__).with_name("released")

COMPLETE = CalibrationIdentity("f1", "data", "none", 4, 2, "cpu", "all", "1/2")
PARTIAL = CalibrationIdentity("f2")
STATISTICS = {"image": statistics_of(np.linspace(-3, 7, 500), samples=3), "mid": EMPTY_STATISTICS}
BLOBS = {tensor: encode(statistics) for tensor, statistics in STATISTICS.items()}
CONSTANT = statistics_of(np.arange(4.0))
COUNTED = {"aa": 1, "bb": 2}
SCHEME = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
WEIGHTS = (WeightSolution("weight", SCHEME, "mse", (0.5, 1.5, 2.5, 3.5), float("-inf")),)
BIASES = (BiasMagnitude("bias", (0.0, 1.0, 1.0, 2.0)),)
SERVED = Served("packs", {"mid": (1,)})
MEASURED = Sensitivity("tensor", "mid", "sharing", "joined", -12.5)


def example_run() -> RunData:
    """The small run with everything that a run can have."""
    run = small_run("auto")
    groups = {group.id: group for group in run.grouping.groups}
    origin = Origin("rule", "conv", "Conv", "specification")
    groups["g-image"] = replace(groups["g-image"], fixed=Fixed("graph:in:image", 0.5, 3, origin))
    groups["g-weight"] = replace(groups["g-weight"], derived=Derived("conv:in:1", "conv:in:0", "conv:in:1", origin))
    return replace(
        run,
        grouping=replace(run.grouping, groups=tuple(groups.values())),
        choices={"g-shared": Choice("kl", "least noise")},
        findings=(Finding("ratio", "r", "join", "Concat", "specification", ("join:in:0",), "too far apart"),),
    )


def fill(database: Database) -> None:
    """Rows for every table."""
    with database.transaction() as connection:
        save_model(connection, small_structure(), "small.onnx")
        save_model(connection, small_structure("f2"), None)
        derive(connection, "m2", "m1", {"method": "bias"})
        save_evidence(connection, "m1", WEIGHTS, BIASES, {"bias": encode(CONSTANT)})
        save_served(connection, "m1", SERVED)
    with begin(database, COMPLETE, {"image": (1, 3, 4)}, {"aa": SampleOrigin(3, "photos/a.png")}) as claim:
        claim.complete(BLOBS, COUNTED, samples=3, inferences=4)
    with begin(database, PARTIAL) as claim:
        claim.checkpoint(BLOBS, {"cc": 1}, samples=1, inferences=1, passes=Passes(("image",), ("mid",)))
    with database.transaction() as connection:  # as after a kill
        values = {"owner": "o", "host": "h", "process_space": "p", "pid": 1, "since": 0.0, "heartbeat": 0.0}
        connection.execute(leases.insert().values(calibration_id=2, **values))
    with database.transaction() as connection:
        save_run(connection, "m1", "c1", example_run(), name="first")
        save_run(connection, "m1", None, small_run(None))
        save_sensitivities(connection, "r1", "samples", [MEASURED])


def make(folder: Path = FOLDER) -> Path:
    """Write the database of the newest schema, compressed."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "q.db"
        database = open_database(file, create=True)
        fill(database)
        with database.outside_transaction() as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
        database.close()
        made = folder / f"{schema.HEAD}.db.gz"
        folder.mkdir(exist_ok=True)
        made.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    return made


def unpack(revision: str, to: Path) -> Path:
    """The released database of a schema as a file of its own."""
    to.write_bytes(gzip.decompress((FOLDER / f"{revision}.db.gz").read_bytes()))
    return to


def move(file: Path, database: Database) -> None:
    """Put the rows of an SQLite file into a database of the same schema that has none."""
    source = sa.create_engine(f"sqlite:///{file}")
    tables = sa.MetaData()
    tables.reflect(source)
    with source.connect() as here, database.transaction() as there:
        into = sa.MetaData()
        into.reflect(there)
        for table in into.sorted_tables:
            names = [column.name for column in table.columns]
            rows = here.execute(sa.select(*(tables.tables[table.name].c[name] for name in names))).mappings().all()
            if rows and table.name != "alembic_version":
                there.execute(table.insert(), [dict(row) for row in rows])
    source.dispose()


if __name__ == "__main__":
    sys.stdout.write(f"{make()}\n")
