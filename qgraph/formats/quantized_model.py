"""A quantized model as plain data: its structure in float ops, and the parameters that each slot has in the file.

That is what every reader of quantized files returns. No third-party import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.ir.elements import Structure


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a file quantizes a tensor at one place.

    Attributes:
        dtype: the integer type, as ``int8``.
        scale: float32 values, one per channel, or one in all.
        offset: zero points, as many as scales.
        axis: the channel axis; None where one scale serves the whole tensor.
        low: the least integer that can occur: of a constant the least that does.
        high: the greatest one.
    """

    dtype: str
    scale: tuple[float, ...]
    offset: tuple[int, ...]
    axis: int | None
    low: int
    high: int

    def says_the_same(self, other: Quantization) -> bool:
        """Whether an integer means the same number in both."""
        return (self.dtype, self.scale, self.offset) == (other.dtype, other.scale, other.offset)


@dataclass(frozen=True, slots=True)
class Reinterpretation:
    """Integers that are read with other parameters than they were made with, so that all values change.

    Attributes:
        tensor: in the names of the structure.
        op: the node of the file that reads them, as a DequantizeLinear.
        op_type: its type in the file.
    """

    tensor: str
    op: str
    op_type: str
    made: Quantization
    read: Quantization


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A quantized model, whatever format it came in.

    Attributes:
        structure: the ops as float ops, without those that only quantize; tensors under their names in the file.
        quantizations: by slot (see `qgraph.ir.slots`); slots that are not in it are float. Several only where a tensor
            that is made in float is quantized several times, in the order of the file.
        reinterpreted: sorted by op.
        unread: nodes whose parameters the file does not hold or holds per block; what they make is taken as float.
        is_stored: the ops are the kernels that run, as the target's own format has them: what runs as one op is one
            already, and every constant is stored with parameters of its own.
    """

    structure: Structure
    quantizations: Mapping[str, tuple[Quantization, ...]]
    reinterpreted: tuple[Reinterpretation, ...] = ()
    unread: tuple[str, ...] = ()
    is_stored: bool = False
