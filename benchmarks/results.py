"""What was measured, as data."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from contenders import BASE

LIBRARIES = ("onnxruntime", "numpy", "numba", "torch")


@dataclass(frozen=True, slots=True)
class Round:
    """One contender in one round."""

    seconds: float
    mib: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All that was measured on one model.

    Attributes:
        rounds: by contender, a `Round` for each round.
        failed: by contender, why it has none.
        memory: qgraph's peak in MiB by number of samples.
        stages: seconds by stage of one calibration and solve: of the first in a process, import to answer, and again.
        solving: seconds by observer.
        share: seconds of the whole process.
    """

    name: str
    samples: int
    rounds: Mapping[str, tuple[Round, ...]]
    failed: Mapping[str, str]
    memory: Mapping[int, float]
    stages: Mapping[str, Mapping[str, float]]
    solving: Mapping[str, float]
    share: float

    def ratio(self, contender: str) -> float:
        """How much longer than plain inference, as the median over the rounds of the ratio within each."""
        pairs = zip(self.rounds[contender], self.rounds[BASE], strict=True)
        return statistics.median(one.seconds / base.seconds for one, base in pairs)

    def seconds(self, contender: str) -> float:
        """The median over the rounds."""
        return statistics.median(one.seconds for one in self.rounds[contender])

    def mib(self, contender: str) -> float:
        """The largest peak over the rounds."""
        return max(one.mib for one in self.rounds[contender])


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run of the benchmark.

    Attributes:
        machine: processor, cores and memory.
        load: what else was running when it began: the load average of one minute.
    """

    date: str
    machine: str
    load: float
    versions: Mapping[str, str]
    models: tuple[ModelResult, ...]


def results(models: tuple[ModelResult, ...], load: float) -> Results:
    """Results of this machine, today."""
    versions = {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return Results(f"{datetime.now(UTC):%Y-%m-%d}", machine(), load, versions, models)


def machine() -> str:
    """Processor, cores and memory in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB"
