"""How qgraph's `openvino` models do in OpenVINO itself, beside those that NNCF makes of the same network.

    pip install openvino nncf
    python benchmarks/openvino_check.py mobilenet_v2 --samples 64

For each model: SNR of the outputs against the float model, both in OpenVINO, on samples that were not calibrated on;
the same in onnxruntime, where it loads the file; the median of an inference, all models interleaved on one thread; and
the layers that hold weights, by the type that they run in, with the quantizes and conversions left between layers.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from accuracy import Method, feeds, qgraph_method, row
from inputs import MODELS
from numpy.typing import NDArray

from qgraph.ir.onnx_import import load_model

COLUMNS = ("model", "method", "SNR in OpenVINO", "in onnxruntime", "ms", "layers with weights", "Q, conversions")

WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected")
"""Layers of OpenVINO's execution graph that hold weights."""

BETWEEN = ("FakeQuantize", "Convert")

ONE_THREAD = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}

Outputs = list[NDArray[Any]]


def nncf_method(*, fast: bool = True, transformer: bool = False) -> Method:
    """NNCF's post-training quantization with its defaults, which reads the model as OpenVINO does.

    Args:
        fast: correct biases from statistics, as by default, rather than by running the model layer by layer.
        transformer: say that the model is one: sums, differences, means, roots and the like stay in float then.
    """

    def make(model: Path, data: Path, target: Path) -> None:
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        with np.load(data) as archive:
            samples = list(feeds(model, dict(archive)))
        made = nncf.quantize(
            openvino.convert_model(model),
            nncf.Dataset(samples),
            subset_size=len(samples),
            fast_bias_correction=fast,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )
        openvino.save_model(made, target.with_suffix(".xml"), compress_to_fp16=False)

    return make


METHODS: Mapping[str, Method] = {
    "NNCF": nncf_method(),
    "NNCF, accurate bias correction": nncf_method(fast=False),
    "NNCF, model_type=TRANSFORMER": nncf_method(transformer=True),
    "qgraph --observer mse": qgraph_method("openvino", "mse"),
    "qgraph --observer mse, improve": qgraph_method("openvino", "mse", improved=True),
}


def compiled(path: Path) -> Any:
    """A model as OpenVINO runs it on the CPU, its floats in 32 bits."""
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(path), "CPU", ONE_THREAD)


def outputs(model: Any, samples: Sequence[Mapping[str, NDArray[Any]]]) -> Outputs:
    """Per output what a model makes of all samples."""
    request = model.create_infer_request()
    made = ([np.array(request.infer(dict(feed))[one]) for one in model.outputs] for feed in samples)
    return [np.stack(one) for one in zip(*made, strict=True)]


def in_onnxruntime(path: Path, samples: Sequence[Mapping[str, NDArray[Any]]]) -> Outputs:
    """The same in onnxruntime, with its default optimisation."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.stack(one) for one in zip(*(session.run(None, dict(feed)) for feed in samples), strict=True)]


def snr_db(reference: Outputs, made: Outputs) -> float:
    """The mean over the outputs of signal over error, in dB."""
    power = [
        (np.square(a, dtype=float).sum(), np.square(a - b, dtype=float).sum())
        for a, b in zip(reference, made, strict=True)
    ]
    return float(np.mean([10 * np.log10(signal / max(error, 1e-30)) for signal, error in power]))


def layers(model: Any) -> tuple[str, str]:
    """The layers with weights by type, and how many quantizes and conversions are left."""
    kinds = Counter[tuple[str, str]]()
    for layer in model.get_runtime_model().get_ordered_ops():
        told = layer.get_rt_info()
        kinds[told["layerType"].astype(str), told["runtimePrecision"].astype(str)] += 1
    weighted = Counter[str]()
    for (kind, precision), count in kinds.items():
        if kind in WEIGHTED:
            weighted[precision] += count
    between = sum(count for (kind, _), count in kinds.items() if kind in BETWEEN)
    return ", ".join(f"{count} {precision}" for precision, count in sorted(weighted.items())), str(between)


def milliseconds(models: Mapping[str, Any], feed: Mapping[str, NDArray[Any]], rounds: int) -> dict[str, float]:
    """The median of an inference of each model, interleaved."""
    requests = {name: model.create_infer_request() for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, request in requests.items():
            start = time.perf_counter()
            request.infer(dict(feed))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def measured(name: str, methods: Sequence[str], samples: int, others: int, rounds: int) -> list[tuple[str, ...]]:
    """The rows of a model."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        MODELS[name].write(folder / "source.onnx")
        model, data = folder / "model.onnx", folder / "data.npz"
        model.write_bytes(load_model(folder / "source.onnx").serialized())
        np.savez(data, allow_pickle=False, **MODELS[name].samples(samples, 0))
        unseen = list(feeds(model, MODELS[name].samples(others, samples)))
        models = {"float": compiled(model)}
        reference = outputs(models["float"], unseen)
        found = {"float": ("", "")}
        for number, method in enumerate(methods):
            file = folder / f"{number}.onnx"
            METHODS[method](model, data, file)
            models[method] = compiled(file if file.exists() else file.with_suffix(".xml"))
            here = f"{snr_db(reference, outputs(models[method], unseen)):.2f}"
            there = f"{snr_db(reference, in_onnxruntime(file, unseen)):.2f}" if file.exists() else ""
            found[method] = (here, there)
        taken = milliseconds(models, unseen[0], rounds)
        return [(name, one, *found[one], f"{taken[one]:.2f}", *layers(models[one])) for one in models]


def main() -> None:
    """Print the table of the models that are asked for."""
    parser = argparse.ArgumentParser(description="Compare qgraph's models for OpenVINO with NNCF's, in OpenVINO.")
    parser.add_argument("models", nargs="*", default=["mobilenet_v2", "ppocr4_det", "ppocr4_rec", "ppocr_cls_v2"])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--samples", type=int, default=64, help="to calibrate on")
    parser.add_argument("--others", type=int, default=32, help="to compare on")
    parser.add_argument("--rounds", type=int, default=40, help="inferences that are timed")
    arguments = parser.parse_args()
    missing = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed; pip install openvino nncf")
        return
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        sys.exit(f"no such model: {unknown[0]}; there are {', '.join(sorted(MODELS))}")
    print(row(COLUMNS), row(["---"] * len(COLUMNS)), sep="\n")
    for name in arguments.models:
        for cells in measured(name, arguments.methods, arguments.samples, arguments.others, arguments.rounds):
            print(row(cells), flush=True)


if __name__ == "__main__":
    main()
