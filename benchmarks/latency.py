"""How fast int8 models run: qgraph's exports against the models of onnxruntime's own quantizer, and the float model.

    python benchmarks/latency.py mobilenet_v2 --rounds 30

All models run interleaved, one sample at a time, at onnxruntime's default optimisation; the figure is the median.
Beside it stand the ops on integers that are left after optimisation, and the quantizes and dequantizes between them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from accuracy import Method, onnxruntime_method, qgraph_method
from inputs import MODELS, rows

from qgraph.ir.onnx_import import load_model

METHODS: Mapping[str, Method] = {
    **{f"onnxruntime {method}": onnxruntime_method(method) for method in ("MinMax", "Percentile")},
    "qgraph onnxruntime": qgraph_method("onnxruntime", "mse"),
    "qgraph tflite (int8)": qgraph_method("tflite", "mse"),
}


def opened(model: Path) -> tuple[onnxruntime.InferenceSession, str]:
    """A session, and what the model consists of after optimisation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # threads of other sessions would spin beside it
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.optimized_model_filepath = str(model.with_suffix(".optimized.onnx"))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    integer = sum(kind.startswith("QLinear") or kind == "QGemm" for kind in kinds)
    between = sum(kind in ("QuantizeLinear", "DequantizeLinear") for kind in kinds)
    return session, f"{integer:4} on integers, {between:4} Q and DQ, {len(kinds) - integer - between:4} others"


def measured(name: str, samples: int, rounds: int) -> dict[str, str]:
    """For the float model and each method the median milliseconds of an inference, or why there are none."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        MODELS[name].write(folder / "source.onnx")
        (folder / "model.onnx").write_bytes(load_model(folder / "source.onnx").serialized())
        np.savez(folder / "data.npz", allow_pickle=False, **MODELS[name].samples(samples, 0))
        feed = next(iter(rows(MODELS[name].samples(1, 0))))
        sessions = {"float": opened(folder / "model.onnx")}
        for number, (method, make) in enumerate(METHODS.items()):
            try:
                make(folder / "model.onnx", folder / "data.npz", folder / f"{number}.onnx")
                sessions[method] = opened(folder / f"{number}.onnx")
                sessions[method][0].run(None, feed)
            except Exception as error:  # noqa: BLE001 - a peer raises what it likes; the table says so
                sessions.pop(method, None)
                found[method] = " ".join(str(error).split())[:80]
        times: dict[str, list[float]] = {method: [] for method in sessions}
        for _ in range(rounds):
            for method, (session, _) in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                times[method].append(time.perf_counter() - start)
    for method, (_, kinds) in sessions.items():
        found[method] = f"{statistics.median(times[method]) * 1e3:8.2f} ms  {kinds}"
    return found


def main() -> None:
    """Print the table of the models that are asked for."""
    parser = argparse.ArgumentParser(description="Compare the latency of int8 models.")
    parser.add_argument("models", nargs="*", default=["mobilenet_v2", "ppocr4_det"])
    parser.add_argument("--samples", type=int, default=8, help="to calibrate on")
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        sys.exit(f"no such model: {unknown[0]}; there are {', '.join(sorted(MODELS))}")
    for name in arguments.models:
        print(f"{name}: {arguments.rounds} inferences of one sample each, interleaved")
        for method, result in measured(name, arguments.samples, arguments.rounds).items():
            print(f"  {method:28}{result}", flush=True)


if __name__ == "__main__":
    main()
