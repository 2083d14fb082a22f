"""A process that claims a calibration, for the tests that kill it: DATABASE MODE."""

from __future__ import annotations

import os
import signal
import sys
import time

from qgraph.store import calibrations
from qgraph.store.calibrations import begin
from qgraph.store.database import open_database
from qgraph.store.records import CalibrationIdentity

IDENTITY = CalibrationIdentity("f1", data="d")
SAMPLES = 20


def statistics_after(samples: int) -> dict[str, bytes]:
    """Made-up statistics: `fast` changes with every sample, `slow` with every fifth, `large` fills many pages."""
    return {
        "fast": str(samples).encode(),
        "large": bytes([samples % 256]) * 300_000,
        "slow": str(samples // 5).encode(),
    }


def counted_after(samples: int) -> dict[str, int]:
    """The cursor after so many samples; every hash occurs twice."""
    counted: dict[str, int] = {}
    for number in range(samples):
        name = f"hash{number // 2}"
        counted[name] = counted.get(name, 0) + 1
    return counted


def main(path: str, mode: str) -> None:
    """Count the remaining samples one by one; in mode ``hold`` wait after the claim, in ``inside`` die in a write."""
    database = open_database(path, create=False)
    with begin(database, IDENTITY) as claim:
        print(claim.outcome, claim.calibration.samples, flush=True)  # noqa: T201 - read by the test
        if mode == "hold":
            time.sleep(60)
        if mode == "inside":
            calibrations._replace_counted = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        for samples in range(claim.calibration.samples + 1, SAMPLES + 1):
            claim.checkpoint(statistics_after(samples), counted_after(samples), samples=samples, inferences=samples)
            time.sleep(0.02 if mode == "slow" else 0)
        claim.complete(statistics_after(SAMPLES), counted_after(SAMPLES), samples=SAMPLES, inferences=SAMPLES)


if __name__ == "__main__":
    main(*sys.argv[1:])
