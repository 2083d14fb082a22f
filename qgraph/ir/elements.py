"""What a model is made of, as plain data: ops, tensors, and the structure that holds them.

No third-party import, so that the store and the queries can use these types at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.objects import record

AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

SMALL_CONSTANT = 64
"""Constants with at most this many elements carry their values: clip bounds, pads, axes, shapes."""

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


@record(frozen=True, slots=True)
class Op:
    """One operation.

    Attributes:
        name: unique in the model; ``TYPE@first_output`` where the model's own name is not.
        type: the ONNX op type.
        domain: ``""`` for the ONNX standard domain.
        inputs: tensor names; None for an optional input that is left out.
        outputs: tensor names; None for an optional output that is left out.
        excluded: why it can never be quantized (control flow, custom domain, ...), or None.
        origins: names of the model's ops that normalising folded into this one, sorted.
    """

    name: str
    type: str
    domain: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=lambda: MappingProxyType({}))
    excluded: str | None = None
    origins: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Tensor:
    """One value that flows through the graph, or a constant.

    Attributes:
        dtype: the ONNX element type in lower case (``float32``, ``int64``, ...); ``""`` if not known.
        shape: int for a known, str for a named, None for an unknown dimension; None if the rank is unknown.
        constant: it comes from the model file, not from the data.
        values: the elements in row-major order, for constants of at most `SMALL_CONSTANT` elements.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    constant: bool = False
    values: tuple[float, ...] | tuple[int, ...] | None = None

    @property
    def is_float(self) -> bool:
        """Whether it has a floating point type, the only kind that can be quantized."""
        return self.dtype in FLOAT_DTYPES


@dataclass(frozen=True, slots=True)
class Structure:
    """A whole model without its weights.

    Attributes:
        fingerprint: digest of the content, weights included, whatever the order of its nodes.
        ops: in topological order, ties broken by name.
        tensors: sorted by name; omitted optional ones do not appear.
    """

    name: str
    fingerprint: str
    opset: int
    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
