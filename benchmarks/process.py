"""One measurement in a process of its own: the side that asks for it, and the side that does it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SHARE_RUNS = 9
"""How often `share` is started; the median counts."""

MEMORY_PART = 0.9
"""Of the machine's memory: what a process may have, so that one that wants more fails instead of slowing the rest."""


class FailedError(Exception):
    """A measurement that came to nothing, in a few words."""


def measure(what: str, *arguments: object) -> dict[str, Any]:
    """Run one of `MEASUREMENTS` in a new process.

    Raises:
        FailedError: it did not end well.
    """
    command = [sys.executable, __file__, what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0 or any(word in done.stderr for word in ("MemoryError", "bad_alloc", "Unable to allocate")):
        raise FailedError("out of memory")
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or ["failed"])[-1][:100])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def contender(name: str, model: str, data: str) -> dict[str, float]:
    """Seconds of a contender, and the peak memory of its process in MiB."""
    from contenders import prepared

    job = prepared(name, Path(model), Path(data))
    begun = time.perf_counter()
    job()
    return {"seconds": time.perf_counter() - begun, "mib": peak_mib()}


def stages(model: str, data: str, database: str) -> dict[str, dict[str, float]]:
    """Seconds by stage of one calibration and solve, into a new database, and of one more."""
    from breakdown import breakdown

    return breakdown(Path(model), Path(data), Path(database))


def solving(database: str) -> dict[str, float]:
    """Seconds of `solve` by observer, from stored statistics, in a process that has solved before."""
    import qgraph
    from qgraph.calib.observers.catalog import OBSERVERS

    found = {}
    for warm in (False, True):  # the first time loads libraries and compiles
        copy = Path(tempfile.mkdtemp()) / "qgraph.db"
        shutil.copyfile(database, copy)
        with qgraph.open(copy) as opened:
            for observer in OBSERVERS:
                begun = time.perf_counter()
                opened.solve("c1", target="onnxruntime", observer=observer)
                if warm:
                    found[observer] = time.perf_counter() - begun
        copy.unlink()
    return found


def share(database: str) -> dict[str, float]:
    """Seconds of the whole process `qgraph share`, the median of several after one that warms the caches."""
    import qgraph

    with qgraph.open(database) as opened:
        tensor = next(name for name, one in opened.run().scales()["tensors"].items() if one["group"] is not None)
    command = [sys.executable, "-m", "qgraph", "share", tensor, "--db", database]
    taken = []
    for _ in range(SHARE_RUNS + 1):
        begun = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        taken.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(taken[1:])}


def limit_memory() -> None:
    """Have this process fail where it wants more than `MEMORY_PART`."""
    most = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_PART)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def peak_mib() -> float:
    """Peak resident memory of this process; getrusage would count the parent's pages from before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


MEASUREMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "contender": contender,
    "stages": stages,
    "solving": solving,
    "share": share,
}


def main() -> None:
    """Do what the arguments say and print it as JSON, in the last line."""
    warnings.simplefilter("ignore")
    limit_memory()
    what, *arguments = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[what](*arguments)))


if __name__ == "__main__":
    main()
