"""Ops of TensorFlow Lite in the terms that rule packs speak: ONNX ops, with their operands in ONNX's order.

An op that ONNX does not have, or whose weight has another layout there (DEPTHWISE_CONV_2D), keeps its own name, and
packs speak of it by that name. Only what a rule can ask about is carried over: no strides, no paddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.ir.elements import AttributeValue

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
"""Ops that only change how a value is represented: their two sides may have any parameters."""

READ, ASSIGN = "READ_VARIABLE", "ASSIGN_VARIABLE"
"""Their input 0 is the variable, a handle; ASSIGN's input 1 is the value."""

VARIABLE = "variable"
"""The attribute of both that names the variable, by which rules tie them."""

CONTROL_FLOW = ("CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an op is called in packs.

    Attributes:
        op_type: the ONNX op type.
        inputs: for each input of that op the index of the op's own input, None for one that is left out; None in all
            where they are the same. Further inputs follow.
    """

    op_type: str
    inputs: tuple[int | None, ...] | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=lambda: MappingProxyType({}))


def _with(op_type: str, /, inputs: tuple[int | None, ...] | None = None, **attributes: AttributeValue) -> Meaning:
    return Meaning(op_type, inputs, MappingProxyType(attributes))


_SAME_ORDER = {
    "ABS": "Abs", "ADD": "Add", "ADD_N": "Sum", "ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin",
    "AVERAGE_POOL_2D": "AveragePool", "BATCH_MATMUL": "MatMul", "BROADCAST_TO": "Expand", "CAST": "Cast",
    "CEIL": "Ceil", "CONCATENATION": "Concat", "CONV_2D": "Conv", "COS": "Cos", "CUMSUM": "CumSum",
    "DEPTH_TO_SPACE": "DepthToSpace", "DIV": "Div", "ELU": "Elu", "EQUAL": "Equal", "EXP": "Exp",
    "EXPAND_DIMS": "Unsqueeze", "FLOOR": "Floor", "GATHER": "Gather", "GATHER_ND": "GatherND", "GELU": "Gelu",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "HARD_SWISH": "HardSwish", "LEAKY_RELU": "LeakyRelu",
    "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "LOG": "Log", "LOGICAL_AND": "And", "LOGICAL_NOT": "Not",
    "LOGICAL_OR": "Or", "LOGISTIC": "Sigmoid", "LOG_SOFTMAX": "LogSoftmax", "MAXIMUM": "Max", "MAX_POOL_2D": "MaxPool",
    "MEAN": "ReduceMean", "MINIMUM": "Min", "MUL": "Mul", "NEG": "Neg", "PACK": "Concat",
    "POW": "Pow", "PRELU": "PRelu", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin", "REDUCE_PROD": "ReduceProd",
    "RELU": "Relu", "RESHAPE": "Reshape", "REVERSE_SEQUENCE": "ReverseSequence", "ROUND": "Round", "SELECT": "Where",
    "SELECT_V2": "Where", "SHAPE": "Shape", "SIN": "Sin", "SLICE": "Slice", "SOFTMAX": "Softmax",
    "SPACE_TO_DEPTH": "SpaceToDepth", "SQRT": "Sqrt", "SQUEEZE": "Squeeze", "STRIDED_SLICE": "Slice", "SUB": "Sub",
    "SUM": "ReduceSum", "TANH": "Tanh", "TILE": "Tile", "TOPK_V2": "TopK", "TRANSPOSE": "Transpose",
    "UNPACK": "Split", "SPLIT_V": "Split",
}  # fmt: skip

MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        **{name: Meaning(op_type) for name, op_type in _SAME_ORDER.items() if name != op_type},
        "FULLY_CONNECTED": _with("Gemm", transB=1),
        "L2_NORMALIZATION": _with("LpNormalization", p=2),
        "MIRROR_PAD": _with("Pad", mode="reflect"),  # whichever of its two modes: both repeat values
        "PAD": _with("Pad"),
        "PADV2": _with("Pad"),
        "RELU6": _with("Clip", min=0.0, max=6.0),
        "RELU_0_TO_1": _with("RELU_0_TO_1"),  # a kernel of its own; a Clip to [0, 1] would be two others
        "RELU_N1_TO_1": _with("Clip", min=-1.0, max=1.0),
        "RESIZE_BILINEAR": _with("Resize", (0, None, None, 1), mode="linear"),
        "RESIZE_NEAREST_NEIGHBOR": _with("Resize", (0, None, None, 1), mode="nearest"),
        "SPLIT": _with("Split", (1, 0)),
        "TRANSPOSE_CONV": _with("TRANSPOSE_CONV", (2, 1, 3, 0)),  # input 0 is the shape of the output
    }
)
"""By builtin operator, after schema.fbs and the operator definitions of ONNX."""


def meaning_of(builtin: str) -> Meaning:
    """What an op is called in packs: by its own name where it is not in the table."""
    return MEANINGS.get(builtin) or Meaning(builtin)
