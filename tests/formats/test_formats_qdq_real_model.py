"""A real network, all its activations quantized by one sample's ranges, is exported whole and runs on integers."""

from __future__ import annotations

from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper
from simulation import UINT8, Array, P, run_of, weight

from qgraph.analysis.sessions import run_once
from qgraph.analysis.verify import verify
from qgraph.formats.onnx_file import write_checked
from qgraph.formats.qdq import to_qdq
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.tqc import scale_and_offset


def classifier() -> Path:
    """The text direction classifier of PP-OCR: 53 convolutions, 27 products, 26 sums."""
    spec = find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


def activations(model: ImportedModel, feed: dict[str, Array]) -> dict[str, Array]:
    """What every op makes of one sample, by tensor."""
    exposed = ModelProto()
    exposed.CopyFrom(model.proto)
    is_float = {tensor.name: tensor.is_float for tensor in model.structure.tensors}
    names = [name for op in model.structure.ops for name in op.outputs if name is not None and is_float[name]]
    del exposed.graph.output[:]
    exposed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    return {**feed, **dict(zip(names, session.run(names, feed), strict=True))}


def by_ranges(model: ImportedModel, values: dict[str, Array]) -> dict[str, P]:
    """A scale from the range of every tensor and operand, and per channel from that of every convolution's weight."""

    def of(value: Array) -> P:
        scale, offset = scale_and_offset(float(value.min()), float(value.max()), UINT8)
        return P(scale, offset)

    made = {name: of(value) for name, value in values.items()}
    slots = {f"graph:in:{name}": made[name] for name in model.structure.inputs}
    slots |= {f"graph:out:{name}": made[name] for name in model.structure.outputs}
    for op in model.structure.ops:
        slots |= {f"{op.name}:out:{i}": made[name] for i, name in enumerate(op.outputs) if name in made}
        slots |= {f"{op.name}:in:{i}": made[name] for i, name in enumerate(op.inputs) if name in made}
        if op.type in ("Add", "Mul", "Div", "MatMul"):
            operands = {i: name for i, name in enumerate(op.inputs) if name is not None and name not in made}
            slots |= {f"{op.name}:in:{i}": of(model.constant(name)) for i, name in operands.items()}
        if op.type == "Conv" and op.inputs[1] is not None:
            largest = np.abs(model.constant(op.inputs[1])).max(axis=(1, 2, 3))
            slots[f"{op.name}:in:1"] = P(tuple(np.maximum(largest / 127, 1e-9).tolist()), 0, weight())
    return slots


def test_a_real_network_is_exported_checked_and_run(tmp_path: Path) -> None:
    model = load_model(classifier())
    rows = np.linspace(-1, 1, 48 * 192, dtype="f").reshape(48, 192)
    feed = {model.structure.inputs[0]: np.stack([rows, -rows, np.roll(rows, 50)])[None]}
    run = run_of(model.proto, by_ranges(model, activations(model, feed)))
    exported = to_qdq(model.proto, run, {}, model.folder)
    path = tmp_path / "classifier.onnx"
    shapes = {name: array.shape for name, array in feed.items()}
    write_checked(exported, path, partial(run_once, shapes=shapes), model.folder)

    for optimized in (True, False):
        (agreement,) = verify(model.path, path, [feed], optimized=optimized).outputs.values()
        assert agreement.snr_db > 15  # plain ranges; a misplaced scale anywhere costs more than that
        assert agreement.top1 == 1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["QLinearMul"], kinds["QLinearAdd"]) == (53, 27, 26), kinds
