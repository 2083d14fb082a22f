"""Operations and variables of a graph that passes work on, with the live configs of each operation's slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.ir.elements import AttributeValue
from qgraph.tqc import TensorQuantizationConfig


@dataclass(frozen=True, slots=True)
class OperationQuantizationConfig:
    """The live configs of an operation, one per input and per output, in their order; what is no value is FP32.

    Both lists are empty where the platform quantizes nothing at the operation.
    """

    input_quantization_config: list[TensorQuantizationConfig] = field(default_factory=list)
    output_quantization_config: list[TensorQuantizationConfig] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        type: the ONNX op type.
        inputs, outputs: names of variables; None for an optional one that is left out.
    """

    name: str
    type: str
    config: OperationQuantizationConfig
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Variable:
    """One tensor of the model.

    Attributes:
        shape: int for a known, str for a named, None for an unknown dimension; None if the rank is unknown.
        is_parameter: it comes from the model file, not from the data.
        source_op: name of the operation that makes it; None for graph inputs and parameters.
        dest_ops: names of the operations that read it, sorted.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    is_parameter: bool
    source_op: str | None
    dest_ops: tuple[str, ...]
