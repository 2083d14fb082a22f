"""Scale, offset and integer type of a tensor in ONNX: `Encoding`, and the protos that carry one.

``QuantizeLinear`` saturates to its whole integer type. An encoding that uses less of the type than that gets an
integer ``Clip`` behind it; a range that only lacks the type's lowest value ([-127, 127]) does not: there the plain node
saturates one step further out, nearer to the true value, and every runtime keeps its integer kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qgraph.errors import ExportError
from qgraph.tqc import QuantizationState, TqcRecord

SLAB = 1 << 22
"""Elements of a constant that are quantized at a time."""

OPSET_OF_DTYPE = {"int8": 13, "uint8": 13, "int32": 13, "int16": 21, "uint16": 21}
"""The first opset whose QuantizeLinear and DequantizeLinear know the type, per channel too (int32: dequantize only)."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a pair of QuantizeLinear and DequantizeLinear says. Tensors with equal encodings hold equal integers.

    Attributes:
        dtype: the integer type, int8 to int32.
        axis: the channel axis; None where one scale serves the whole tensor.
        scale: float32 values, one per channel.
        offset: zero points, as many as scales.
    """

    dtype: str
    quant_min: int
    quant_max: int
    axis: int | None
    scale: tuple[float, ...]
    offset: tuple[int, ...]

    @property
    def is_narrow(self) -> bool:
        """Whether it needs a Clip behind QuantizeLinear, see the module's docstring."""
        whole = np.iinfo(self.dtype)
        return self.quant_min > whole.min + 1 or self.quant_max < whole.max

    def shaped(self, values: Sequence[float] | Sequence[int], dtype: str) -> NDArray[np.generic]:
        """Scales or offsets as the array that ONNX wants: a scalar, or one dimension where per channel."""
        return np.array(values[0] if self.axis is None else values, dtype=dtype)


def encoding_of(record: TqcRecord) -> Encoding | None:
    """The encoding of a slot; None where it stays float.

    Raises:
        ExportError: there are several scales but no channel axis, or ONNX has no such integers.
    """
    scheme = record.scheme
    if record.state == QuantizationState.FP32 or scheme is None or record.scale is None or record.offset is None:
        return None
    if len(record.scale) != len(record.offset) or (scheme.axis is None and len(record.scale) != 1):
        raise ExportError(
            "scales and offsets do not fit the granularity",
            f"{record.slot} with {len(record.scale)} scales and {len(record.offset)} offsets, {scheme}",
            "solve the run again",
        )
    if scheme.dtype not in OPSET_OF_DTYPE:
        raise ExportError(
            "QDQ ONNX cannot quantize a tensor like this", f"{record.tensor} in {scheme.dtype}", "use at most 16 bits"
        )
    return Encoding(scheme.dtype, scheme.quant_min, scheme.quant_max, scheme.axis, record.scale, record.offset)


def quantize(values: NDArray[np.generic], encoding: Encoding, tensor: str) -> NDArray[np.generic]:
    """The integers of a constant: ``clip(round_half_even(values / scale) + offset)``.

    Up to 16 bits the quotient is float32, as QuantizeLinear's; int32 (bias), which that node cannot make, divides in
    float64, since float32 does not hold the integers above 2**24.

    Args:
        values: float array; a float32 one for all but int32.
        encoding: with `axis`, as many scales as `values` has channels there.
        tensor: named in errors.

    Returns:
        An array of `values`' shape and the encoding's dtype.

    Raises:
        ExportError: the number of scales is not the number of channels, or `values` has NaN.
    """
    scale, offset = (encoding.shaped(part, "float64") for part in (encoding.scale, encoding.offset))
    axis = encoding.axis
    if axis is not None:
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
            raise ExportError(
                "scales do not fit the channels of a constant",
                f"{tensor} of shape {values.shape} with {scale.size} scales on axis {axis}",
                "export with the model that the run was made from",
            )
        along = [1] * values.ndim
        along[axis] = scale.size
        scale, offset = scale.reshape(along), offset.reshape(along)
    integers = np.empty(values.shape, encoding.dtype)
    for part in _slabs(values.shape):
        own = part if axis is not None and axis % values.ndim == len(part) - 1 else ()
        if np.isnan(values[part]).any():
            raise ExportError("a constant holds NaN", tensor, "exclude it from quantization or repair the model")
        integers[part] = _integers(values[part], encoding, scale[own], offset[own])
    return integers


def _integers(
    values: NDArray[np.generic], encoding: Encoding, scale: NDArray[np.generic], offset: NDArray[np.generic]
) -> NDArray[np.generic]:
    quotient = "float64" if encoding.dtype == "int32" else "float32"
    with np.errstate(over="ignore"):
        steps = np.rint(values.astype(quotient, copy=False) / scale.astype(quotient)).astype("float64")
    steps += offset
    steps = np.clip(steps, encoding.quant_min, encoding.quant_max)  # a scalar, for a constant without dimensions
    return np.asarray(steps, encoding.dtype)


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut an array along its first real axis: one that is mapped from a file never lies in memory as a whole.

    >>> list(_slabs((2, 3))), list(_slabs((1, 3, 1 << 21)))
    ([()], [(slice(None, None, None), slice(0, 2, None)), (slice(None, None, None), slice(2, 3, None))])
    """
    size = math.prod(shape)
    if size <= SLAB:
        yield ()
        return
    axis = next(axis for axis, length in enumerate(shape) if length > 1)
    step = max(1, SLAB * shape[axis] // size)
    for start in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(start, min(start + step, shape[axis])))


@dataclass(frozen=True, slots=True)
class Pair:
    """Names of what one encoding adds to the graph.

    Attributes:
        stem: what the names of all parts but `dequantized` begin with, see `SUFFIXES`.
        dequantized: the float tensor that readers use.
    """

    stem: str
    dequantized: str

    @property
    def quantized(self) -> str:
        """The integer tensor."""
        return f"{self.stem}/quantized"


SUFFIXES = (
    "quantized",
    "dequantized",
    "scale",
    "zero_point",
    "QuantizeLinear",
    "DequantizeLinear",
    "unclipped",
    "Clip",
    "clip_min",
    "clip_max",
    "unfused",
    "Sum",
)
"""What is appended to a stem: the names that must be free in the graph."""


def parameters(encoding: Encoding, pair: Pair) -> list[TensorProto]:
    """Scale and zero point as initializers. A bias has no zero point: runtimes fuse int32 only without."""
    scale = encoding.shaped(encoding.scale, "float32")
    protos = [numpy_helper.from_array(scale, f"{pair.stem}/scale")]
    if encoding.dtype != "int32":
        offset = encoding.shaped(encoding.offset, encoding.dtype)
        protos.append(numpy_helper.from_array(offset, f"{pair.stem}/zero_point"))
    return protos


def unfused_node(source: str, pair: Pair) -> NodeProto:
    """A Sum of one tensor, which changes nothing, between an op and a QuantizeLinear that onnxruntime would merge.

    It makes one integer kernel of DequantizeLinear, Add and QuantizeLinear without looking at the scales, and that
    kernel then refuses one per channel. It also quantizes, per tensor, a weight that was left in float (core/optimizer/
    qdq_transformer/weight_bias_quantization.cc). It knows neither for Sum.
    """
    return helper.make_node("Sum", [source], [f"{pair.stem}/unfused"], name=f"{pair.stem}/Sum")


def keeps_apart(node: NodeProto) -> bool:
    """Whether a node is one that `unfused_node` made: what reads its output reads its input."""
    own = node.op_type == "Sum" and not node.domain and len(node.input) == 1
    return own and node.output[0].endswith("/unfused") and node.name.endswith("/Sum")


def quantize_nodes(source: str, encoding: Encoding, pair: Pair) -> tuple[list[NodeProto], list[TensorProto]]:
    """QuantizeLinear from `source` to ``pair.quantized``, and the Clip behind it where the encoding is narrow.

    Raises:
        ExportError: the encoding has no QuantizeLinear (int32, or a narrow range in 16 bits).
    """
    if encoding.dtype == "int32" or (encoding.is_narrow and encoding.dtype not in ("int8", "uint8")):
        raise ExportError(
            "QDQ ONNX cannot quantize a tensor like this",
            f"{source} to [{encoding.quant_min}, {encoding.quant_max}] in {encoding.dtype}",
            "use at most 8 bits, or all of 16",
        )
    stem = pair.stem
    unclipped = f"{stem}/unclipped" if encoding.is_narrow else pair.quantized
    inputs = [source, f"{stem}/scale", f"{stem}/zero_point"]
    nodes = [_linear("QuantizeLinear", inputs, unclipped, encoding, stem)]
    if not encoding.is_narrow:
        return nodes, []
    bounds = {f"{stem}/clip_min": encoding.quant_min, f"{stem}/clip_max": encoding.quant_max}
    nodes.append(helper.make_node("Clip", [unclipped, *bounds], [pair.quantized], name=f"{stem}/Clip"))
    return nodes, [numpy_helper.from_array(np.array(value, encoding.dtype), name) for name, value in bounds.items()]


def dequantize_node(encoding: Encoding, pair: Pair) -> NodeProto:
    """DequantizeLinear from ``pair.quantized`` to ``pair.dequantized``."""
    zero_point = [] if encoding.dtype == "int32" else [f"{pair.stem}/zero_point"]
    inputs = [pair.quantized, f"{pair.stem}/scale", *zero_point]
    return _linear("DequantizeLinear", inputs, pair.dequantized, encoding, pair.stem)


def _linear(op_type: str, inputs: list[str], output: str, encoding: Encoding, stem: str) -> NodeProto:
    node = helper.make_node(op_type, inputs, [output], name=f"{stem}/{op_type}")
    if encoding.axis is not None:
        node.attribute.append(helper.make_attribute("axis", encoding.axis))
    return node
