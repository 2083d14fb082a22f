"""How to repair a violation, in words that name tensors and numbers.

The direction of a repair is that of the op: what only passes a value on (a pooling, a reshape) takes the parameters of
its input; what merges values (a concat) gives its inputs those of its output.
"""

from __future__ import annotations

from collections.abc import Sequence

from qgraph.analysis.parameters import Parameters, same_scales, shifted
from qgraph.tqc import Scheme, scale_and_offset


def _in_type_of(parameters: Parameters, other: Parameters) -> str:
    return shifted(parameters, other.dtype).values


def pass_through(source: Parameters, result: Parameters, op: str, *, can_requantize: bool) -> str:
    """Make the output with the parameters of the input."""
    text = f"quantize {result.name} with the parameters of {source.name}: {_in_type_of(source, result)}"
    if can_requantize:
        text += f"; where a reader needs {result.values}, requantize behind {op}"
    return text


def merging(
    source: Parameters, result: Parameters, inputs: Sequence[Parameters], scheme: Scheme, op: str, reason: str | None
) -> str:
    """Give an input the parameters of the output.

    Args:
        inputs: all inputs that the op merges, as they are read now.
        scheme: of activations, for a common scale where the output's would clip an input.
        reason: why the input has to be requantized for this op rather than made otherwise; None if it need not.
    """
    wanted = _in_type_of(result, source)
    if reason is not None:
        text = f"requantize {source.name} in front of {op} to the output's {wanted} ({reason})"
    else:
        text = f"quantize {source.name} with the output's parameters: {wanted}"
    if not _reaches_beyond(source, result):
        return text
    low = min(entry.range[0] for entry in inputs)
    high = max(entry.range[1] for entry in inputs)
    scale, offset = scale_and_offset(low, high, scheme)
    common = Parameters("", scheme.dtype, (scale,), (offset,))
    return (
        f"{text}; that clips {source.name}, which reaches from {source.range[0]:.6g} to {source.range[1]:.6g}: "
        f"{common.values} ({common.dtype}) for all of {op} clip nothing"
    )


def _reaches_beyond(source: Parameters, result: Parameters) -> bool:
    """Whether the output's range cuts off more than one step of the input's."""
    if len(source.scale) != 1 or len(result.scale) != 1:
        return False
    step = result.scale[0]
    return source.range[0] < result.range[0] - step or source.range[1] > result.range[1] + step


def inputs_only(a: Parameters, b: Parameters, op: str) -> str:
    """Give both inputs one scale: the larger one clips neither."""
    larger, other = (a, b) if a.scale[0] >= b.scale[0] else (b, a)
    which = "zero point" if same_scales(a.scale, b.scale) else "scale"
    return f"quantize {other.name} for {op} with the {which} of {larger.name}: {_in_type_of(larger, other)}"


def fixed(found: Parameters, wanted: Parameters, op: str, *, can_requantize: bool) -> str:
    """Make the output with what the target prescribes."""
    text = f"quantize {found.name} with {_in_type_of(wanted, found)}"
    if can_requantize:
        text += f"; where a reader needs {found.values}, requantize behind {op}"
    return text


def derived(bias: Parameters, wanted: tuple[float, ...] | None, dtype: str) -> str:
    """Store the bias again."""
    if wanted is None:
        return f"store {bias.name} as {dtype} with the scale of the input times that of the weight, zero point 0"
    scales = Parameters(bias.name, dtype, wanted, (0,) * len(wanted))
    return f"store {bias.name} as {dtype} with {scales.values}: round(bias / scale)"
