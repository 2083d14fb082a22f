"""How far a quantized graph is from the float model, operation by operation, by the seed's names.

::

    graphwise    everything is quantized: the error that has come together at the output of each computing operation
    layerwise    one operation at a time is quantized: what that alone does to the outputs of the model
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from onnx import ModelProto

from qgraph.analysis.sessions import InMemory, Sample
from qgraph.analysis.verify import OutputAgreement, verify
from qgraph.calib.data.batches import batches, joined, samples_per_step
from qgraph.calib.data.source import open_data
from qgraph.errors import NotFoundError, UsageError
from qgraph.formats.qdq import to_qdq
from qgraph.ir.slots import parts
from qgraph.jobs.sources import fed
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.operation import Operation
from qgraph.passes.workplace import first_items
from qgraph.solve.run import RunData
from qgraph.tqc import QuantizationState

COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Types of the operations that are looked at: those that compute with weights, and products of activations."""

Measure = Callable[[OutputAgreement], float]

Collate = Callable[[Any], object]

Names = Iterable[str] | str | None


def _noise_over_signal(found: OutputAgreement) -> float:
    return float(10 ** (-found.snr_db / 10)) if not found.exact else 0.0


def _cosine(found: OutputAgreement) -> float:
    return 1.0 if found.cosine is None and found.exact else found.cosine or 0.0


MEASURES: Mapping[str, Measure] = {"snr": _noise_over_signal, "mse": lambda found: found.mse, "cosine": _cosine}
"""``snr`` is noise power over signal power, as the seed has it, and ``mse`` the mean squared error: lower is better.

``cosine`` is that of all values as one vector: higher is better.
"""


def graphwise_error_analyse(
    graph: QuantizedGraph,
    dataloader: object = None,
    collate_fn: Collate | None = None,
    method: str = "snr",
    steps: int | None = 8,
    interested_operations: Names = None,
    *,
    running_device: str = "cpu",
    verbose: bool = False,
) -> dict[str, float]:
    """Error at the first output of each computing operation while the whole graph is quantized.

    Args:
        dataloader: as for `qgraph.api.Database.calibrate`; read once, so that it may shuffle.
        collate_fn: as there.
        method: ``snr`` (noise over signal, lower is better), ``mse`` (lower is better) or ``cosine``, in any case.
        steps: batches; None for all.
        interested_operations: names of computing operations; None for all.
        running_device: ``cpu``: the exported model is run as it would be deployed there.
        verbose: tell the errors on standard error, the worst first.

    Returns:
        By name of the operation, in topological order.

    Raises:
        UsageError: the graph has no scales; no data; another device.
        NotFoundError: an unknown method; no such computing operation.
    """
    measure, data, feeds = _prepare(graph, dataloader, collate_fn, method, steps, running_device)
    operations = {op.name: op.outputs[0] for op in _computing(graph, interested_operations)}
    tensors = sorted({name for name in operations.values() if name is not None})
    proto = _exposed(graph, tensors)
    found = _compare(graph, proto, data, feeds)
    errors = {op: measure(found[name]) for op, name in operations.items() if name is not None and name in found}
    return _told(errors, method, verbose=verbose)


def layerwise_error_analyse(
    graph: QuantizedGraph,
    dataloader: object = None,
    interested_outputs: Names = None,
    collate_fn: Collate | None = None,
    method: str = "snr",
    steps: int | None = 8,
    interested_operations: Names = None,
    *,
    running_device: str = "cpu",
    verbose: bool = False,
) -> dict[str, float]:
    """Error at the model's outputs while one computing operation alone is quantized; of several outputs the worst.

    Args:
        interested_outputs: names of outputs; None for all. The others as for `graphwise_error_analyse`.

    Returns:
        By name of the operation, in topological order.

    Raises:
        UsageError: as `graphwise_error_analyse`.
        NotFoundError: as there; no such output.
    """
    measure, data, feeds = _prepare(graph, dataloader, collate_fn, method, steps, running_device)
    wanted = _among("output", interested_outputs, graph.outputs)
    errors: dict[str, float] = {}
    worst = min if _higher_is_better(method) else max
    for op in _computing(graph, interested_operations):
        alone = _only(op, data)
        if alone is not None:
            found = _compare(graph, graph.workplace.imported.proto, alone, feeds)
            errors[op.name] = worst(measure(found[name]) for name in wanted if name in found)
    return _told(errors, method, verbose=verbose)


def _prepare(
    graph: QuantizedGraph, dataloader: object, collate_fn: Collate | None, method: str, steps: int | None, device: str
) -> tuple[Measure, RunData, list[Sample]]:
    if not isinstance(graph, QuantizedGraph):
        raise UsageError("not a quantized graph", type(graph).__name__, "pass what quantize_onnx_model returns")
    if str(method).lower() not in MEASURES:
        raise NotFoundError.among("method", str(method), MEASURES, f"use {', '.join(MEASURES)}")
    if device != "cpu":
        raise UsageError("exported models are compared on the CPU only", device, 'leave running_device, or say "cpu"')
    if dataloader is None:
        raise UsageError("no data to compare on", "dataloader", "pass samples that were not calibrated on")
    data = graph.data()
    tensors = {one.name: one for one in graph.workplace.structure.tensors}
    inputs = [tensors[name] for name in graph.inputs]
    loader, count = first_items(dataloader, steps)
    loader, collate = fed(graph.workplace.source, loader, collate_fn)
    with closing(open_data(loader, inputs, collate)) as source:
        size = samples_per_step(source, None, count)
        limit = None if count is None else count * size
        feeds: list[Sample] = [joined(batch) for batch in batches(source.samples(limit), source)]
    return MEASURES[method.lower()], data, feeds


def _computing(graph: QuantizedGraph, names: Names) -> list[Operation]:
    found = {
        op.name: op for op in graph.operations.values() if op.type in COMPUTING and op.config.input_quantization_config
    }
    wanted = set(_among("computing operation", names, found))
    return [op for name, op in found.items() if name in wanted]


def _among(kind: str, names: Names, known: Collection[str]) -> list[str]:
    """The names that are asked for; all where none is."""
    wanted = list(known) if not names else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise NotFoundError.among(kind, name, known, f"use {', '.join(sorted(known)[:8])}")
    return wanted


def _higher_is_better(method: str) -> bool:
    return method.lower() == "cosine"


def _told(errors: dict[str, float], method: str, *, verbose: bool) -> dict[str, float]:
    if verbose:
        for op in sorted(errors, key=lambda name: errors[name], reverse=not _higher_is_better(method)):
            sys.stderr.write(f"{method.lower()} {errors[op]:.6g}  {op}\n")
    return errors


def _exposed(graph: QuantizedGraph, tensors: Sequence[str]) -> ModelProto:
    """The float model with further outputs."""
    proto = ModelProto()
    proto.CopyFrom(graph.workplace.imported.proto)
    known = {value.name for value in proto.graph.output}
    described = {value.name: value for value in proto.graph.value_info}
    for name in tensors:
        if name not in known:
            if name in described:
                proto.graph.output.append(described[name])
            else:
                proto.graph.output.add(name=name)
    return proto


def _only(op: Operation, data: RunData) -> RunData | None:
    """The run with the slots of one operation alone; None where nothing is quantized there."""
    kept = tuple(
        one if parts(one.slot).op == op.name else replace(one, state=QuantizationState.FP32, scale=None, offset=None)
        for one in data.tqcs
    )
    return replace(data, tqcs=kept) if any(one.scale is not None for one in kept) else None


def _compare(
    graph: QuantizedGraph, proto: ModelProto, data: RunData, feeds: Sequence[Sample]
) -> Mapping[str, OutputAgreement]:
    folder = graph.workplace.imported.folder
    quantized = to_qdq(proto, data, {}, folder)
    reference = InMemory(proto.SerializeToString(), folder, "the float model")
    exported = InMemory(quantized.SerializeToString(), folder, "the quantized model")
    return verify(reference, exported, feeds, optimized=False).outputs
