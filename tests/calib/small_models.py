"""Small models with every op that calibration treats specially, built from onnx's text format."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from qgraph.ir.elements import Structure, Tensor
from qgraph.ir.onnx_import import ImportedModel, load_model


def small_cnn(folder: Path, *, batch: str = "n") -> ImportedModel:
    """Convolutions, clips, concats, rearranging ops."""
    return build(
        folder,
        f"""
        <ir_version: 8, opset_import: ["" : 13]>
        small (float[{batch}, 3, h, w] x) => (float[{batch}, m] y, float[p] sizes)
        <float zero = {{0.0}}, float six = {{6.0}}, int64[2] rows = {{0, -1}}>
        {{
            a = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x, w0)
            r = Relu (a)
            c6 = Clip (a, zero, six)
            p = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [1, 1]> (c6)
            both = Concat <axis: int = 1> (r, a, a)
            clipped = Concat <axis: int = 1> (c6, c6)
            mixed = Concat <axis: int = 1> (c6, a)
            t = Transpose <perm: ints = [0, 2, 3, 1]> (c6)
            s = Sigmoid (both)
            f = Reshape (s, rows)
            f2 = Flatten (mixed)
            f3 = Flatten (clipped)
            f4 = Flatten (p)
            f5 = Flatten (t)
            y = Concat <axis: int = 1> (f, f2, f3, f4, f5)
            shape = Shape (x)
            sizes = Cast <to: int = 1> (shape)
        }}
        """,
    )


def build(folder: Path, text: str) -> ImportedModel:
    """Write and import a model in onnx's text form; ``w0`` becomes a weight of shape (4, 3, 3, 3)."""
    model = parser.parse_model(text)
    weight = np.random.default_rng(0).normal(0, 1.5, (4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w0"))
    path = folder / "small.onnx"
    onnx.save(model, path)
    return load_model(path)


def inputs_of(structure: Structure) -> list[Tensor]:
    """The tensors that the data provides."""
    return [tensor for name in structure.inputs for tensor in structure.tensors if tensor.name == name]
