"""What is measured on the same samples: plain inference, qgraph's inference, calibrations of qgraph and onnxruntime.

A contender is made ready first, which is not counted, and is then a function without arguments.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from inputs import Samples, load, rows

BASE = "inference"
"""The contender that all others are divided by."""

Job = Callable[[], object]


def inference(model: Path, data: Path) -> Job:
    """Plain float inference with onnxruntime's defaults, one sample at a time."""
    import onnxruntime

    samples = load(data)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda: [session.run(None, feed) for feed in rows(samples)]


def exposed_inference(model: Path, data: Path) -> Job:
    """Inference as `calibrate` does it, every activation that it records handed out, and let go of: its floor."""
    from qgraph.calib.collect import THREADS
    from qgraph.ir.onnx_import import load_model
    from qgraph.jobs.serving import serve
    from qgraph.jobs.sources import runner_for

    samples = load(data)
    imported = load_model(model)
    runner = runner_for(model, imported, serve(imported.structure, None).plan(imported.structure), "cpu")

    def run() -> list[int]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda feed: len(runner.run(feed)), rows(samples)))

    return run


def calibration(model: Path, data: Samples | Path, *, checkpoint_every: float = 5.0, lean: bool = False) -> Job:
    """`calibrate` of a model that is stored already: it serves every observer, and unless it is lean every target."""
    import qgraph

    database = qgraph.open(Path(tempfile.mkdtemp()) / "qgraph.db")
    database.calibrate(model, data, steps=1)  # stores the model and compiles the kernels
    return lambda: database.calibrate(model, data, checkpoint_every=checkpoint_every, lean=lean)


def onnxruntime_calibrator(method: str) -> Callable[[Path, Path], Job]:
    """One of onnxruntime's own calibrators, which serves one observer."""

    def prepare(model: Path, data: Path) -> Job:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
            def __init__(self) -> None:
                self.feeds = rows(load(data))

            def get_next(self) -> Mapping[str, Any] | None:
                return next(self.feeds, None)

        reader = Reader()
        calibrator = create_calibrator(
            str(model),
            None,
            augmented_model_path=str(Path(tempfile.mkdtemp()) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )

        def run() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(reader)
                calibrator.compute_data()

        return run

    return prepare


CONTENDERS: Mapping[str, Callable[[Path, Path], Job]] = {
    BASE: inference,
    "qgraph, nothing recorded": exposed_inference,
    "qgraph": lambda model, data: calibration(model, load(data)),
    "qgraph, no checkpoints": lambda model, data: calibration(model, load(data), checkpoint_every=1e9),
    "qgraph --lean": lambda model, data: calibration(model, load(data), lean=True),
    "ORT MinMax": onnxruntime_calibrator("MinMax"),
    "ORT Percentile": onnxruntime_calibrator("Percentile"),
    "ORT Entropy": onnxruntime_calibrator("Entropy"),
}
"""Who takes part in every round, with the samples in memory."""

FROM_THE_FILE = "qgraph, from the file"
"""Whose memory is compared over numbers of samples: it reads them as it goes."""


def prepared(contender: str, model: Path, data: Path) -> Job:
    """Make a contender ready."""
    return calibration(model, data) if contender == FROM_THE_FILE else CONTENDERS[contender](model, data)
