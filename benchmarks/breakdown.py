"""Where the time of one `calibrate` and `solve` goes, in a new process with a new database.

The functions at the seams of the job are timed in place. A function's time is its own: what it calls and is timed too
is taken off. All of them are called by the main thread; inference and counting, which share threads, are one stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

STAGES: Mapping[str, tuple[str, ...]] = {
    "model": ("qgraph.ir.onnx_import:load_model",),
    "constrain and evidence": ("qgraph.jobs.serving:serve", "qgraph.jobs.serving:store_model"),
    "session": ("qgraph.calib.runners.onnx_runner:OnnxRunner.__init__",),
    "data pass": ("qgraph.calib.data.source:DataSource.census",),
    "inference and count": ("qgraph.calib.collect:check_repeats", "qgraph.calib.collect:collect"),
    "store": ("qgraph.store.calibrations:Claim.complete", "qgraph.store.calibrations:Claim.checkpoint"),
    "solve": ("qgraph.jobs.solving:solve",),
}
"""For each stage the functions that it is made of, as ``module:name`` where they are defined."""

JOBS = ("qgraph.jobs.calibrating", "qgraph.jobs.solving")
"""The modules that are loaded before anything is timed, so that what they imported can be timed too."""

START = "import"
REST = "the rest"


class Stopwatch:
    """Seconds by stage, each without those of the stages that began inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._running: list[list[Any]] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as part of a stage."""

        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            self._running.append([0.0])
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - begun
                (inside,) = self._running.pop()
                self.seconds[stage] += took - inside
                if self._running:
                    self._running[-1][0] += took

        return call

    def attach(self) -> None:
        """Time the functions of all stages, from now on, in this process."""
        for job in JOBS:
            import_module(job)
        for stage, functions in STAGES.items():
            for function in functions:
                owner, name = seam(function)
                original = getattr(owner, name)
                timed = self.timed(stage, original)
                setattr(owner, name, timed)
                for module in [module for key, module in sys.modules.items() if key.startswith("qgraph.")]:
                    if vars(module).get(name) is original:  # imported by name
                        setattr(module, name, timed)

    def read(self, total: float, imported: float) -> dict[str, float]:
        """What has been timed, with what is left of `total` seconds; the watch begins anew."""
        found = {START: imported, **self.seconds}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        return {**found, REST: total - sum(found.values())}


def seam(function: str) -> tuple[Any, str]:
    """The module or class that has a function, and its name there.

    Raises:
        AttributeError: there is none of this name any more.
    """
    module, _, path = function.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    getattr(owner, name)
    return owner, name


def breakdown(model: Path, data: Path, database: Path) -> dict[str, dict[str, float]]:
    """Seconds by stage in this process: of the first calibration and solve, and of one more with all loaded."""
    begun = time.perf_counter()
    import qgraph

    watch = Stopwatch()
    watch.attach()
    imported = time.perf_counter() - begun
    with qgraph.open(database) as opened:
        calibration = opened.calibrate(model, data)
        calibration.solve(target="tflite", observer="mse")
        first = watch.read(time.perf_counter() - begun, imported)
        begun = time.perf_counter()
        opened.calibrate(model, data, steps=calibration.samples).solve(target="tflite", observer="mse")
        again = watch.read(time.perf_counter() - begun, 0.0)
    return {"first": first, "again": again}
