"""Whatever the graph and wherever its slots are quantized, an exported file computes what the run means."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from simulation import INT8, UINT8, P, run_of, simulate

from qgraph.formats.qdq import to_qdq

SIZE = 16
FEED = {"x": np.linspace(-3, 3, SIZE, dtype="float32")}
CONSTANT = np.linspace(-1, 2, SIZE, dtype="float32")
CHOICES = (None, P(0.03, 128), P(0.05, 100), P(0.05, -28, INT8), P(0.01, 3, UINT8))
KINDS = {"Relu": 1, "Neg": 1, "Identity": 1, "Add": 2, "Mul": 2, "Max": 2}


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """Graphs of ops without rounding of their own, with fan-out, constants and several outputs."""
    tensors, nodes = ["x", "k"], []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(sorted(KINDS)))
        inputs = [draw(st.sampled_from(tensors)) for _ in range(KINDS[kind])]
        nodes.append(helper.make_node(kind, inputs, [f"t{number}"], name=f"op{number}"))
        tensors.append(f"t{number}")
    made = tensors[2:]
    outputs = sorted({*draw(st.lists(st.sampled_from(made), max_size=3)), made[-1]})
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE]) for name in outputs],
        [numpy_helper.from_array(CONSTANT, "k")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@st.composite
def quantized(draw: st.DrawFn) -> tuple[ModelProto, dict[str, P]]:
    """A graph, and parameters for some of its slots."""
    model = draw(models())
    slots = [f"graph:out:{value.name}" for value in model.graph.output] + ["graph:in:x", "graph:const:k", "op0:in:0"]
    for node in model.graph.node:
        slots += [f"{node.name}:in:{index}" for index in range(len(node.input))] + [f"{node.name}:out:0"]
    chosen = {slot: draw(st.sampled_from(CHOICES)) for slot in sorted({*slots})}
    parameters = {slot: p for slot, p in chosen.items() if p is not None}
    return model, parameters or {"op0:in:0": P(0.03, 128)}


def integer_ops(model: ModelProto, parameters: dict[str, P]) -> list[str]:
    """Ops with a quantized input, and ops that such an op runs into without any quantization in between."""
    found: list[str] = []
    makers = {node.output[0]: node.name for node in model.graph.node}
    for node in model.graph.node:
        slots = {f"{node.name}:in:{index}": name for index, name in enumerate(node.input)}
        unquantized = {makers.get(name) for name in node.input if f"{makers.get(name)}:out:0" not in parameters}
        is_end_of_chain = f"{node.name}:out:0" in parameters and not unquantized.isdisjoint(found)
        if not slots.keys().isdisjoint(parameters) or is_end_of_chain:
            found.append(node.name)
    return found


@given(quantized())
@settings(max_examples=150, deadline=None)
def test_an_exported_graph_computes_what_the_run_means_to_the_last_bit(case: tuple[ModelProto, dict[str, P]]) -> None:
    model, parameters = case
    exported = to_qdq(model, run_of(model, parameters), {})
    onnx.checker.check_model(exported, full_check=True)
    names = [node.name for node in exported.graph.node]
    assert len({*names}) == len(names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in exported.graph.output]
    expected = simulate(model, parameters, FEED, integer_ops(model, parameters))
    for name, value in zip(outputs, session.run(outputs, FEED), strict=True):
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@given(quantized())
@settings(max_examples=50, deadline=None)
def test_every_initializer_and_every_inserted_node_is_read(case: tuple[ModelProto, dict[str, P]]) -> None:
    model, parameters = case
    exported = to_qdq(model, run_of(model, parameters), {})
    read = {name for node in exported.graph.node for name in node.input}
    read |= {value.name for value in exported.graph.output}
    assert [tensor.name for tensor in exported.graph.initializer if tensor.name not in read] == []
    inserted = [node for node in exported.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert [node.output[0] for node in inserted if node.output[0] not in read] == []
