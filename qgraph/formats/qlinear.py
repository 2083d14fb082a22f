"""ONNX ops that work on integers: which float op each stands for, and where its scales and zero points are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnx import NodeProto

MICROSOFT = "com.microsoft"

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

BOUNDARY_DOMAINS = ("", MICROSOFT)
"""Domains with a QuantizeLinear and a DequantizeLinear; onnxruntime's own had 16 bits first."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Indices of a quantized input and its parameters."""

    value: int
    scale: int
    zero_point: int


@dataclass(frozen=True, slots=True)
class Signature:
    """What an integer op stands for.

    Attributes:
        op_type: the float op.
        inputs: those of the float op, in order: quantized operands, or the index of an input that has no parameters.
        scale: index of the output's scale.
        zero_point: index of the output's zero point.
        bias: index of the int32 bias, whose scale is that of the first operand times that of the second.
    """

    op_type: str
    inputs: tuple[Operand | int, ...]
    scale: int
    zero_point: int
    bias: int | None = None


_FIRST, _SECOND = Operand(0, 1, 2), Operand(3, 4, 5)


def _unary(op_type: str) -> Signature:
    return Signature(op_type, (_FIRST,), 3, 4)


def _binary(op_type: str) -> Signature:
    return Signature(op_type, (_FIRST, _SECOND), 6, 7)


_SIGNATURES: Mapping[tuple[str, str], Signature] = MappingProxyType(
    {
        ("", "QLinearConv"): Signature("Conv", (_FIRST, _SECOND), 6, 7, bias=8),
        ("", "QLinearMatMul"): _binary("MatMul"),
        (MICROSOFT, "QLinearConv"): Signature("Conv", (_FIRST, _SECOND), 6, 7, bias=8),
        (MICROSOFT, "QGemm"): Signature("Gemm", (_FIRST, _SECOND), 7, 8, bias=6),
        (MICROSOFT, "QLinearAdd"): _binary("Add"),
        (MICROSOFT, "QLinearMul"): _binary("Mul"),
        (MICROSOFT, "QLinearAveragePool"): _unary("AveragePool"),
        (MICROSOFT, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
        (MICROSOFT, "QLinearLeakyRelu"): _unary("LeakyRelu"),
        (MICROSOFT, "QLinearReduceMean"): _unary("ReduceMean"),
        (MICROSOFT, "QLinearSigmoid"): _unary("Sigmoid"),
        (MICROSOFT, "QLinearSoftmax"): _unary("Softmax"),
        (MICROSOFT, "QLinearWhere"): Signature("Where", (0, Operand(1, 2, 3), Operand(4, 5, 6)), 7, 8),
    }
)
"""By domain and type, after the operator definitions of ONNX and onnxruntime."""

MOVING = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Max",
        "MaxPool", "Min", "Pad", "ReduceMax", "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split",
        "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Standard ops that also take integers and make the same integers, so that these mean the same behind them."""


def signature_of(node: NodeProto) -> Signature | None:
    """What an integer op stands for; None for all other nodes."""
    if (node.domain, node.op_type) == (MICROSOFT, "QLinearConcat"):
        triples = range(2, len(node.input) - 2, 3)
        return Signature("Concat", tuple(Operand(i, i + 1, i + 2) for i in triples), 0, 1)
    return _SIGNATURES.get((node.domain, node.op_type))


def is_boundary(node: NodeProto, op_type: str) -> bool:
    """Whether a node is a `QUANTIZE` or `DEQUANTIZE`."""
    return node.op_type == op_type and node.domain in BOUNDARY_DOMAINS
