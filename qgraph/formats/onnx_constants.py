"""The constants of a quantized ONNX file: what scales say, which integers occur, and each weight as a float constant.

The float model only needs to know that a weight is there and what shape it has, so that
large ones are never dequantized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from qgraph.errors import ModelError
from qgraph.formats.quantized_model import Quantization
from qgraph.ir.onnx_light import SMALL
from qgraph.ir.onnx_tensors import dtype_name, elements, read_array

_VALUES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Attributes of a Constant node that hold plain numbers."""


class Constants:
    """Initializers and Constant nodes by name, and the float constants that stand for some of them."""

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self._folder = folder
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._float: dict[str, onnx.TensorProto] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    @property
    def floats(self) -> Iterable[str]:
        """Names of all constants, sorted."""
        return sorted(self._stored)

    def absorb(self, node: onnx.NodeProto) -> bool:
        """Take in a Constant node; whether it was one whose value is known."""
        if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
            return False
        attribute, name = node.attribute[0], node.output[0]
        if attribute.name == "value":
            self._stored[name] = attribute.t
        elif attribute.name in _VALUES:
            value = np.array(onnx.helper.get_attribute_value(attribute), _VALUES[attribute.name])
            self._stored[name] = numpy_helper.from_array(value)
        else:
            return False
        self._stored[name].name = name
        return True

    def dtype(self, name: str) -> str:
        """The element type of a constant; ``""`` for what is none."""
        return dtype_name(self._stored[name].data_type) if name in self._stored else ""

    def rank(self, name: str) -> int:
        """The number of dimensions of a constant; 0 for what is none."""
        return len(self._stored[name].dims) if name in self._stored else 0

    def _array(self, name: str) -> np.ndarray:
        return read_array(self._stored[name], self._folder)

    def parameters(self, scale: str, zero_point: str, dtype: str, axis: int) -> Quantization | None:
        """Scale and zero point as a quantization.

        Args:
            zero_point: ``""`` where it is left out, which means 0.
            dtype: the integer type where there is no zero point to tell it.
            axis: counts only where there are several scales.

        Returns:
            None where one of them is no constant, or has more than one dimension (per block).

        Raises:
            ModelError: a scale is no positive number.
        """
        if scale not in self._stored or (zero_point and zero_point not in self._stored):
            return None
        scales = self._array(scale).astype(np.float32)
        if scales.ndim > 1 or not scales.size:
            return None
        wrong = scales[~(np.isfinite(scales) & (scales > 0))]
        if wrong.size:
            raise ModelError("a scale that is no positive number", f"{scale}: {wrong[0]}", "export the model again")
        offsets = np.zeros(scales.shape, np.int64)
        if zero_point:
            dtype, given = self.dtype(zero_point), self._array(zero_point)
            if given.size not in (1, scales.size):
                return None
            offsets = np.broadcast_to(given.ravel(), scales.size)
        low, high = _limits(dtype)
        return Quantization(
            dtype=dtype,
            scale=tuple(float(value) for value in scales.ravel()),
            offset=tuple(int(value) for value in offsets.ravel()),
            axis=axis if scales.size > 1 else None,
            low=low,
            high=high,
        )

    def range_of(self, name: str) -> tuple[int, int]:
        """The least and the greatest integer in a constant."""
        values = self._array(name)
        if not values.size:
            return 0, 0
        if values.dtype.kind not in "iu":  # the 4-bit types are not numpy's own
            values = values.astype(np.int64)
        return int(values.min()), int(values.max())

    def quantized_range(self, name: str, parameters: Quantization) -> tuple[int, int]:
        """The least and the greatest integer that a float constant becomes."""
        values = self._array(name).astype(np.float32)
        if not values.size:
            return 0, 0
        scale, offset = (_along(part, parameters, values.ndim) for part in (parameters.scale, parameters.offset))
        integers = np.clip(np.rint(values / scale) + offset, parameters.low, parameters.high)
        return int(np.nanmin(integers)), int(np.nanmax(integers))

    def as_float(self, name: str, parameters: Quantization | None = None) -> None:
        """See a constant of integers as the float constant that it stands for; without parameters, one of NaN."""
        if name not in self._stored or name in self._float:
            return
        if elements(self._stored[name]) > SMALL:
            self._float[name] = _shaped(name, self._stored[name].dims)
            return
        values = self._array(name).astype(np.float32)
        values = values * np.float32(np.nan) if parameters is None else _dequantized(values, parameters)
        self._float[name] = numpy_helper.from_array(values, name)

    def transpose(self, name: str, output: str, permutation: Sequence[int] | None) -> tuple[int, ...]:
        """Add a float constant: another one with its axes in another order, which is returned."""
        tensor = self._float.get(name, self._stored[name])
        order = tuple(permutation) if permutation is not None else tuple(reversed(range(len(tensor.dims))))
        if elements(tensor) > SMALL:
            result = _shaped(output, [tensor.dims[axis] for axis in order])
        else:
            values = np.ascontiguousarray(read_array(tensor, self._folder).transpose(order))
            result = numpy_helper.from_array(values, output)
        self._stored[output] = self._float[output] = result
        return order

    def protos(self, names: set[str]) -> Iterable[onnx.TensorProto]:
        """The named constants as initializers of the float model; the data of large ones is not to be read."""
        return [self._float.get(name, self._stored[name]) for name in sorted(names & self._stored.keys())]


def _limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest value of an integer type; (0, 0) for small float types, which have no such grid."""
    found = re.fullmatch(r"(u?)int(\d+)", dtype)
    if found is None:
        return 0, 0
    bits = int(found[2])
    return (0, (1 << bits) - 1) if found[1] else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _shaped(name: str, dims: Sequence[int]) -> onnx.TensorProto:
    """A float constant whose data is never read."""
    return onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=dims)


def _along(values: Sequence[float], parameters: Quantization, rank: int) -> np.ndarray:
    """Scales or offsets, so that they broadcast along their axis of a constant."""
    shape = [1] * rank
    if parameters.axis is not None and rank:
        shape[parameters.axis] = -1
    return np.array(values, np.float32).reshape(shape)


def _dequantized(values: np.ndarray, parameters: Quantization) -> np.ndarray:
    scale = _along(parameters.scale, parameters, values.ndim)
    result: np.ndarray = (values - _along(parameters.offset, parameters, values.ndim)) * scale
    return result
