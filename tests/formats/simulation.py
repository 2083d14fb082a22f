"""The meaning of a run, written out: a float model evaluated op by op, with fake quantization at every slot.

It knows nothing of Q/DQ nodes, so that an exported file can be held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph.constraints.model import Group, Grouping
from qgraph.solve.run import RunData, RunSettings
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

Array = NDArray[Any]

UINT8 = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
INT8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
BIAS = Scheme(32, signed=True, symmetric=True, quant_min=-(2**31), quant_max=2**31 - 1, axis=0)


def weight(axis: int | None = 0) -> Scheme:
    return Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=axis)


@dataclass(frozen=True)
class P:
    """Parameters of one slot, as tests write them down."""

    scale: float | tuple[float, ...]
    offset: int = 0
    scheme: Scheme = UINT8
    state: QuantizationState = QuantizationState.ACTIVATED

    @property
    def scales(self) -> tuple[float, ...]:
        """As float32 values."""
        given = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        return tuple(float(np.float32(one)) for one in given)


Parameters = Mapping[str, P]
"""Per slot; slots that are left out stay float."""


def run_of(model: ModelProto, parameters: Parameters, groups: tuple[Group, ...] = ()) -> RunData:
    """A run with a record for every slot of the model."""
    tensors = {f"{n.name}:in:{i}": name for n in model.graph.node for i, name in enumerate(n.input) if name}
    tensors |= {f"{n.name}:out:{i}": name for n in model.graph.node for i, name in enumerate(n.output) if name}
    tensors |= {f"graph:in:{value.name}": value.name for value in model.graph.input}
    tensors |= {f"graph:out:{value.name}": value.name for value in model.graph.output}
    tensors |= {f"graph:const:{value.name}": value.name for value in model.graph.initializer}
    assert parameters.keys() <= tensors.keys(), parameters.keys() - tensors.keys()
    records = []
    for slot, tensor in sorted(tensors.items()):
        if (p := parameters.get(slot)) is None:
            records.append(TqcRecord(slot, tensor, "activation", QuantizationState.FP32, reason="test"))
        else:
            offsets = (p.offset,) * len(p.scales)
            records.append(TqcRecord(slot, tensor, "activation", p.state, p.scheme, p.scales, offsets))
    settings = RunSettings("onnxruntime", "1", force_overlap=False, observer="minmax")
    return RunData(settings, tuple(records), Grouping(groups, (), ()))


def fake_quantize(x: Array, p: P) -> Array:
    """``Dequant(Quant(x))`` in float32; the quotient of 32-bit integers in float64."""
    shape = [1] * x.ndim
    if p.scheme.axis is not None:
        shape[p.scheme.axis] = -1
    scale = np.array(p.scales, "float32").reshape(shape)
    quotient = x / (scale.astype("float64") if p.scheme.bits == 32 else scale)
    steps = np.clip(np.round(quotient) + p.offset, p.scheme.quant_min, p.scheme.quant_max) - p.offset
    return cast("Array", steps.astype("float32") * scale)


def simulate(
    model: ModelProto, parameters: Parameters, feed: Mapping[str, Array], integer_ops: Iterable[str]
) -> dict[str, Array]:
    """The graph's outputs, by name.

    Args:
        integer_ops: the ops whose float readers get the dequantized tensor.
    """
    opset = model.opset_import[0].version
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    raw: dict[str, Array] = {**constants, **feed}
    producer = {name: f"graph:in:{name}" for name in feed}
    integer_made = {name for node in model.graph.node if node.name in {*integer_ops} for name in node.output}

    def read(tensor: str, slot: str) -> Array:
        x, reader, maker = raw[tensor], parameters.get(slot), parameters.get(producer.get(tensor, ""))
        if maker is None or tensor in constants:
            return x if reader is None else fake_quantize(x, reader)
        made = fake_quantize(x, maker)
        if reader is None:
            return made if tensor in integer_made else x
        return made if reader == maker else fake_quantize(made, reader)

    for node in model.graph.node:
        inputs = [read(name, f"{node.name}:in:{i}") if name else None for i, name in enumerate(node.input)]
        for i, (name, value) in enumerate(zip(node.output, evaluate(node, inputs, opset), strict=True)):
            raw[name] = value
            producer[name] = f"{node.name}:out:{i}"
    return {value.name: read(value.name, f"graph:out:{value.name}") for value in model.graph.output}


def evaluate(node: NodeProto, inputs: list[Array | None], opset: int) -> list[Array]:
    """One op on its own; an input read twice becomes two."""
    single = NodeProto()
    single.CopyFrom(node)
    feed = {f"in{i}": value for i, value in enumerate(inputs) if value is not None}
    single.input[:] = [f"in{i}" if value is not None else "" for i, value in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feed.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in single.output]
    graph = helper.make_graph([single], "one", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return cast("list[Array]", ReferenceEvaluator(model).run(None, feed))
