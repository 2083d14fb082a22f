"""A process with several readers, for the tests of readers beside a writer: DATABASE SECONDS READERS.

Each reads snapshots as fast as it can, and complains of one that is torn: statistics of other samples than are named.
"""

from __future__ import annotations

import sys
import threading
import time

from calibrating_process import counted_after, statistics_after

from qgraph.store.calibrations import load_calibration, load_counted, load_statistics
from qgraph.store.database import open_database


def read(location: str, seconds: float, done: list[int]) -> None:
    """Note how many snapshots were read; raise for a torn one."""
    database = open_database(location, create=False)
    end = time.monotonic() + seconds
    snapshots = 0
    while time.monotonic() < end:
        with database.reading() as connection:
            samples = load_calibration(connection, "c1").samples
            found = load_statistics(connection, "c1"), load_counted(connection, "c1")
        if samples and found != (statistics_after(samples), counted_after(samples)):
            raise AssertionError(f"torn after {samples} samples")
        snapshots += 1
    database.close()
    done.append(snapshots)


def main(location: str, seconds: str, readers: str) -> None:
    """Read in threads; print the snapshots of each reader that came to its end."""
    done: list[int] = []
    threads = [threading.Thread(target=read, args=(location, float(seconds), done)) for _ in range(int(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*done)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(*sys.argv[1:])
