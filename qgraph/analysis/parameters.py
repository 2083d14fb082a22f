"""Scale and zero point of a tensor, and when two of them mean the same."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from qgraph.tqc import to_float32


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a tensor is quantized at one place.

    Attributes:
        name: the tensor.
        dtype: the integer type, as ``int8``.
        scale: float32 values, one per channel, or one in all.
        offset: zero points, as many as scales.
    """

    name: str
    dtype: str
    scale: tuple[float, ...]
    offset: tuple[int, ...]

    @property
    def values(self) -> str:
        """Scale and zero point in words; per channel their range."""
        if len(self.scale) == 1:
            return f"scale {self.scale[0]:.9g}, zero point {self.offset[0]}"
        scales = f"scales {min(self.scale):.6g} to {max(self.scale):.6g}"
        low, high = min(self.offset), max(self.offset)
        points = f"zero point {low}" if low == high else f"zero points {low} to {high}"
        return f"{len(self.scale)} {scales}, {points}"

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number that it can represent, with its first scale."""
        low, high = limits(self.dtype)
        return (low - self.offset[0]) * self.scale[0], (high - self.offset[0]) * self.scale[0]


def limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest value of an integer type.

    >>> limits("uint8"), limits("int4")
    ((0, 255), (-8, 7))
    """
    bits = width(dtype)
    return (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def width(dtype: str) -> int:
    """The bits of an integer type; 0 for what is none, as the 8-bit floats."""
    digits = dtype.removeprefix("u").removeprefix("int")
    return int(digits) if digits.isdigit() else 0


def shifted(parameters: Parameters, dtype: str) -> Parameters:
    """The same meaning in the integer type of the other sign; in a type of another width they stay as they are.

    >>> shifted(Parameters("x", "int8", (0.5,), (-128,)), "uint8").offset
    (0,)
    """
    if width(dtype) != width(parameters.dtype) or not width(dtype):
        return parameters
    by = limits(dtype)[0] - limits(parameters.dtype)[0]
    return Parameters(parameters.name, dtype, parameters.scale, tuple(offset + by for offset in parameters.offset))


def same_parameters(a: Parameters, b: Parameters) -> bool:
    """Whether the integers of both mean the same numbers, whatever the sign of their types."""
    other = shifted(b, a.dtype)
    return a.dtype == other.dtype and a.offset == other.offset and same_scales(a.scale, b.scale)


def same_scales(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether scales are equal, one by one, up to one unit in the last place of a float32.

    >>> same_scales((0.1,), (0.10000001,)), same_scales((0.1,), (0.1001,))
    (True, False)
    """
    return len(a) == len(b) and all(abs(_ordinal(x) - _ordinal(y)) <= 1 for x, y in zip(a, b, strict=True))


def _ordinal(value: float) -> int:
    """The place of a float32 among all of them: neighbours differ by one."""
    bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def product(activation: Parameters, weight: Parameters, channels: int) -> tuple[float, ...] | None:
    """The scale of each bias channel: that of the input times that of the weight, in float32.

    Returns:
        As many as there are `channels`; None where they do not go together.
    """
    if len(activation.scale) != 1:
        return None
    scales = tuple(to_float32(activation.scale[0] * scale) for scale in weight.scale)
    if channels % len(scales) == 0:
        return scales * (channels // len(scales))
    return scales[:1] if channels == 1 and len(set(scales)) == 1 else scales
