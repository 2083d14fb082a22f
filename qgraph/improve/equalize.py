"""Equalization: give the channels of an activation ranges of one size, and take that back in the next weights.

The idea is that of M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
§4.1. An op that is positively homogeneous, channel by channel, passes a positive factor on: Relu(s·x) = s·Relu(x). So
between weighted ops each channel can be measured with another unit, and the model computes the same::

    Conv(w·s, b·s) ─▶ Relu ─▶ x·s ─▶ Conv(w/s)

Tensors that such ops tie together are a *region* and have the same factors: the residual stream of a network is one,
with every Add in it. A region can be equalized only if all that makes or reads it are weighted ops.

Clip(0, b), as Relu6, is homogeneous where it does not cut. A channel that is never cut in the calibration data may be
raised as long as it stays below b; one that is cut keeps its unit, so what the data shows is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qgraph.constraints.union_find import UnionFind
from qgraph.improve.pieces import reads
from qgraph.improve.weighted import Weighted, constants_of, weighted_ops, with_biases, with_constants
from qgraph.ir.elements import Op, Structure, Tensor

Wide = NDArray[np.float64]

HOMOGENEOUS = frozenset(
    {
        *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
        *("Identity", "Dropout", "Add", "Sub", "Sum", "Max"),
    }
)
"""Ops that pass a positive factor of a channel on, if all their inputs are activations with channels on axis 1."""

FLATTENING = frozenset(("Flatten", "Reshape", "Squeeze"))
"""Ops that do if they drop axes of size 1 behind the channels."""

MARGIN = 1.1
"""How far below the bound of a Clip the largest value of a raised channel stays, as a factor."""

LARGEST = 16.0
"""No channel is raised or lowered by more."""

ROUNDS = 3
"""Regions that follow each other share a weight, so they are equalized in turn, several times."""


@dataclass
class Region:
    """Tensors that must have the same factors, with all that makes and reads them.

    Attributes:
        bound: the smallest upper bound of a Clip inside; None where there is none.
        spoiled: it cannot be equalized.
    """

    tensors: tuple[str, ...]
    makers: list[Weighted] = field(default_factory=list)
    readers: list[Weighted] = field(default_factory=list)
    bound: float | None = None
    spoiled: bool = False


def regions(structure: Structure, ops: Iterable[Weighted], captured: Iterable[str] = ()) -> list[Region]:
    """The regions of a model that can be equalized, in the order of their first tensor.

    Args:
        captured: tensors that the bodies of control flow read.
    """
    weighted = {op.op: op for op in ops}
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    names = [tensor.name for tensor in structure.tensors if not tensor.constant]
    numbers = {name: number for number, name in enumerate(names)}
    tied = UnionFind(len(names))
    passing: list[tuple[Op, float | None]] = []
    for op in structure.ops:
        bound = _clip_bound(op, tensors)
        if op.name not in weighted and (bound is not None or _passes(op, tensors)):
            for name in op.inputs:
                if name in numbers:
                    tied.union(numbers[name], numbers[op.outputs[0] or ""])
            passing.append((op, bound))
    found: dict[int, Region] = {}
    for name, root in zip(names, tied.roots(), strict=True):
        one = found.setdefault(root, Region(()))
        one.tensors = (*one.tensors, name)
    home: dict[str | None, Region] = {name: one for one in found.values() for name in one.tensors}
    _note_ends(structure, weighted, home, {op.name for op, _ in passing})
    for name in captured:
        if name in home:
            home[name].spoiled = True
    for op, bound in passing:
        if bound is not None:
            one = home[op.outputs[0] or ""]
            one.bound = bound if one.bound is None else min(one.bound, bound)
            one.spoiled |= not all(reader.data == op.outputs[0] for reader in one.readers)
    return [one for one in found.values() if not one.spoiled and _fits(one, structure)]


def _note_ends(
    structure: Structure, weighted: Mapping[str, Weighted], home: Mapping[str | None, Region], passing: set[str]
) -> None:
    """Note what makes and what reads each region; all but weighted ops spoil it."""
    for op in structure.ops:
        if op.name in weighted:
            home[weighted[op.name].output].makers.append(weighted[op.name])
            home[weighted[op.name].data].readers.append(weighted[op.name])
        elif op.name not in passing:
            for name in (*op.inputs, *op.outputs):
                if name in home:
                    home[name].spoiled = True
    for name in (*structure.inputs, *structure.outputs):
        if name in home:
            home[name].spoiled = True


def _passes(op: Op, tensors: Mapping[str, Tensor]) -> bool:
    """Whether an op passes the factors of channels on, whatever the data is."""
    inputs = [tensors[name] for name in op.inputs if name is not None]
    if op.domain or len([name for name in op.outputs if name]) != 1 or not inputs:
        return False
    shapes, after = [one.shape for one in inputs], tensors[op.outputs[0] or ""].shape
    if after is None or len(after) < 2 or not isinstance(after[1], int):
        return False
    if op.type in HOMOGENEOUS:
        alike = all(shape is not None and len(shape) == len(after) and shape[1] == after[1] for shape in shapes)
        return alike and not any(one.constant for one in inputs)
    before = shapes[0]
    if before is None or len(before) < 2 or before[1] != after[1]:
        return False
    if op.type == "ReduceMean":
        return len(before) == len(after)
    return op.type in FLATTENING and len(after) == 2 and all(size == 1 for size in before[2:])


def _clip_bound(op: Op, tensors: Mapping[str, Tensor]) -> float | None:
    """The upper bound of a Clip whose lower one is 0."""
    if op.type != "Clip" or op.domain or len(op.inputs) < 3:
        return None
    low, high = (tensors[name].values if name is not None else None for name in op.inputs[1:3])
    if low is None or high is None or len(low) != 1 or len(high) != 1 or low[0] != 0 or high[0] <= 0:
        return None
    return float(high[0])


def _fits(one: Region, structure: Structure) -> bool:
    """Whether makers and readers agree on the number of channels, and every reader has an axis for them."""
    if (
        not one.makers
        or not one.readers
        or any(reader.groups != 1 and not reader.is_depthwise for reader in one.readers)
    ):
        return False
    dims = {tensor.name: tensor.shape for tensor in structure.tensors}
    counts = {maker.channels for maker in one.makers}
    for reader in one.readers:
        shape = dims[reader.weight] or ()
        counts.add(reader.channels if reader.is_depthwise else int(shape[reader.input_axis] or 0))
    return len(counts) == 1


def equalize(
    model: ModelProto,
    structure: Structure,
    magnitudes: Mapping[str, Wide],
    folder: Path,
    *,
    strength: float = 1.0,
) -> tuple[ModelProto, Mapping[str, Wide]]:
    """Equalize the channels of every region that allows it.

    Args:
        model: normalised; its ops and tensors are those of `structure`. Not changed.
        magnitudes: the largest absolute value of each channel, by tensor read by a weighted op: float64 [C].
        folder: where external data of the model lies.
        strength: exponent of the factors: 1 for equal ranges, 0 for none.

    Returns:
        The new model, and the factors of the channels of each tensor that is equalized.
    """
    model = with_biases(model)
    ops = weighted_ops(model.graph)
    known = {name for op in ops for name in (op.weight, op.bias) if name}
    values = {name: array.astype(np.float64) for name, array in constants_of(model, known, folder).items()}
    captured = {name for node in model.graph.node for name in list(reads(node))[sum(map(bool, node.input)) :]}
    found = [one for one in regions(structure, ops, captured) if _largest(one, magnitudes) is not None]
    units = {one.tensors: np.ones(one.makers[0].channels) for one in found}
    for _ in range(ROUNDS):
        for one in found:
            size = _largest(one, magnitudes)
            assert size is not None
            wanted = _factors(one, size, values, units[one.tensors], strength)
            step = wanted / units[one.tensors]
            units[one.tensors] = wanted
            _apply(one, step, values)
    changed = {name for one in found for op in (*one.makers, *one.readers) for name in (op.weight, op.bias or "")}
    result = with_constants(
        model, {name: array.astype(np.float32) for name, array in values.items() if name in changed}
    )
    return result, {name: units[one.tensors] for one in found for name in one.tensors}


def _largest(one: Region, magnitudes: Mapping[str, Wide]) -> Wide | None:
    """The largest absolute value of each channel, over the tensors that are known; None if none is."""
    known = [magnitudes[name] for name in one.tensors if name in magnitudes]
    known = [size for size in known if size.size == one.makers[0].channels]
    return np.max(known, axis=0) if known else None


def _factors(one: Region, size: Wide, values: Mapping[str, Wide], units: Wide, strength: float) -> Wide:
    """The factor of each channel, as seen from the model before anything was equalized.

    Where every reader is depthwise the weights do not mind, so that ranges become equal. Elsewhere a raised channel
    costs its column of the weight precision, and the two ranges are balanced.
    """
    live = size > 0
    if not live.any():
        return np.ones(size.size)
    wanted = np.ones(size.size)
    mixing = [reader for reader in one.readers if not reader.is_depthwise]
    top = float(size.max()) if one.bound is None else one.bound / MARGIN
    wanted[live] = top / size[live]
    if mixing:
        columns = np.max([_columns(reader, values) for reader in mixing], axis=0) * units
        columns = np.maximum(columns, columns.max() * 1e-6)
        balanced = np.sqrt(columns[live] / columns[live].max() * wanted[live])
        wanted[live] = balanced * (top / (balanced * size[live]).max())
    wanted = wanted**strength
    wanted = np.clip(wanted, 1 / LARGEST, LARGEST)
    if one.bound is not None:
        cut = size >= one.bound
        wanted = np.where(cut, 1.0, np.minimum(wanted, np.where(live, top / np.where(live, size, 1.0), 1.0)))
        wanted = np.maximum(wanted, np.where(size >= top, 1.0, 0.0)) if cut.any() else wanted
    return wanted


def _columns(reader: Weighted, values: Mapping[str, Wide]) -> Wide:
    """The largest weight that reads each input channel."""
    weight = values[reader.weight]
    axes = tuple(axis for axis in range(weight.ndim) if axis != reader.input_axis)
    return np.asarray(np.abs(weight).max(axis=axes))


def _apply(one: Region, step: Wide, values: dict[str, Wide]) -> None:
    """Multiply what makes the channels, divide what reads them."""
    for maker in one.makers:
        values[maker.weight] = values[maker.weight] * step.reshape(maker.weight_shape(values[maker.weight].ndim))
        if maker.bias is not None:
            values[maker.bias] = values[maker.bias] * step
    for reader in one.readers:
        axis = reader.output_axis if reader.is_depthwise else reader.input_axis
        weight = values[reader.weight]
        shape = [-1 if one_axis == axis else 1 for one_axis in range(weight.ndim)]
        values[reader.weight] = weight / step.reshape(shape)
