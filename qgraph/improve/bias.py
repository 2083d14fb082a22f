"""Bias correction: what quantization shifts on average is added back, from statistics and then by measurement.

The source of the idea is M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(2019), §4.2. Rounding a weight shifts each output channel by what the mean inputs make of the rounding errors::

    analytic[o] = Σ over inputs i, places k of (w − ŵ)[o, i, k] · mean x[i]

What clips or rounds the op's input one-sidedly shifts it, too. That is measured::

    measured[c] = share · median over samples of (mean of the float output's channel c − that of the quantized one)

The ops are taken in the order of the data, and each is measured behind ops that are corrected already: so nothing is
corrected twice. It is the median, as one sample that a range cuts off, unlike all others, would drag a mean along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qgraph.formats.encoding import Encoding, encoding_of, quantize
from qgraph.improve.pieces import Piece, Runner, Values, cut
from qgraph.improve.weighted import Weighted, constants_of, weighted_ops, with_constants
from qgraph.ir.slots import input_slot
from qgraph.solve.run import RunData

Means = Mapping[str, NDArray[np.float64]]
"""The mean of each output channel for each sample, by op: float64 [samples, channels]."""

Corrections = Mapping[str, NDArray[np.float64]]
"""What is added to the bias of each channel, by op: float64 [channels]."""

CHANNEL_AXIS = 1


def analytic_corrections(
    model: ModelProto, ops: Sequence[Weighted], run: RunData, means: Corrections, folder: Path
) -> Corrections:
    """What the rounding of weights shifts, from the means of what the ops read.

    Args:
        model: the float model.
        run: its scales of weights count.
        means: the mean of each channel of tensors that ops read, by tensor: float64 [channels].
    """
    values = constants_of(model, {op.weight for op in ops}, folder)
    encodings = {one.slot: encoding_of(one) for one in run.tqcs if one.role == "weight"}
    found = {}
    for op in ops:
        code, mean, weight = encodings.get(input_slot(op.op, 1)), means.get(op.data), values[op.weight]
        if code is None or mean is None or mean.size != op.groups * weight.shape[op.input_axis]:
            continue
        error = weight.astype(np.float64) - _rounded(weight, code, op)
        lost = np.moveaxis(error, (op.output_axis, op.input_axis), (0, 1))
        lost = lost.reshape(*lost.shape[:2], -1).sum(axis=2)  # [outputs, inputs of one group]
        per_group = lost.reshape(op.groups, -1, lost.shape[1])
        found[op.op] = np.einsum("goi,gi->go", per_group, mean.reshape(op.groups, -1)).reshape(-1)
    return found


def _rounded(weight: NDArray[np.float32], code: Encoding, op: Weighted) -> NDArray[np.float64]:
    """What the encoding leaves of a weight."""
    scale, offset = np.asarray(code.scale, np.float64), np.asarray(code.offset, np.float64)
    shape = op.weight_shape(weight.ndim) if scale.size > 1 else ()
    integers = quantize(weight, code, op.weight).astype(np.float64)
    return np.asarray((integers - offset.reshape(shape)) * scale.reshape(shape))


def channel_means(
    model: ModelProto,
    ops: Sequence[Weighted],
    samples: Sequence[Values],
    folder: Path,
    *,
    libraries: Sequence[Path] = (),
) -> Means:
    """What the ops of a model make on average.

    Args:
        model: nodes in topological order; its ops have these names.
        samples: the inputs, by name; not changed.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.
    """
    return _measured(model, ops, [dict(one) for one in samples], Runner(folder, libraries), None, 1.0)


def bias_corrections(
    quantized: ModelProto,
    ops: Sequence[Weighted],
    expected: Means,
    samples: Sequence[Values],
    folder: Path,
    *,
    share: float = 1.0,
    libraries: Sequence[Path] = (),
) -> Corrections:
    """What to add to the bias of each op so that its channels have the expected means.

    Args:
        quantized: the model that `expected` was measured on, as QDQ; its ops have its names.
        samples: the inputs, by name; not changed.
        share: how much of what is missing is added.
        libraries: with the model's custom ops.
    """
    return _measured(quantized, ops, [dict(one) for one in samples], Runner(folder, libraries), expected, share)


def _measured(
    model: ModelProto,
    ops: Sequence[Weighted],
    samples: list[Values],
    runner: Runner,
    expected: Means | None,
    share: float,
) -> dict[str, NDArray[np.float64]]:
    """Means of what the ops make, or with `expected` what they lack, which is added before going on."""
    made = {node.name: node.output[0] for node in model.graph.node}
    names = {made[one.op]: one.op for one in ops if one.op in made}
    pieces = cut(model, list(names))
    found: dict[str, NDArray[np.float64]] = {}
    for piece in pieces:
        if piece.end is None:
            break
        runner.step(piece, samples)
        op = names[piece.end]
        found[op] = _means([values[piece.end] for values in samples])
        if expected is not None:
            found[op] = share * np.median(expected[op] - found[op], axis=0)
            _add(found[op], piece, samples)
        runner.forget(piece, samples)
    return found


def _means(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The mean of each channel over all places: float64 [samples, channels]."""
    axes = tuple(axis for axis in range(arrays[0].ndim) if axis != CHANNEL_AXIS)
    return np.stack([array.mean(axis=axes, dtype=np.float64) for array in arrays])


def _add(correction: NDArray[np.float64], piece: Piece, samples: Sequence[Values]) -> None:
    """Shift the channels of the tensor that a piece ends with, as the corrected bias will."""
    for values in samples:
        array = values[piece.end or ""]
        shape = [-1 if axis == CHANNEL_AXIS else 1 for axis in range(array.ndim)]
        values[piece.end or ""] = array + correction.astype(np.float32).reshape(shape)


def with_corrections(model: ModelProto, corrections: Corrections, folder: Path) -> ModelProto:
    """The model with the corrections in its biases.

    Args:
        model: one of `qgraph.improve.weighted.with_biases`.
    """
    own = {op.bias: corrections[op.op] for op in weighted_ops(model.graph) if op.bias and op.op in corrections}
    before = constants_of(model, set(own), folder)
    return with_constants(model, {name: (before[name] + delta).astype(np.float32) for name, delta in own.items()})
