"""Bias correction by measurement: what quantization shifts on average is added back, op after op.

The source of the idea is M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(2019), §4.2; here the means are measured. Rounding a weight shifts the mean of each output channel, and so does what
clips or rounds the op's input one-sidedly::

    correction[c] = share · (mean(float output, channel c) − mean(quantized output, channel c))

The ops are taken in the order of the data, and each is measured behind ops that are corrected already: so nothing is
corrected twice. Where a range cuts off rare large values, the shift of the mean says little about all the others: there
less than all of it is better, or only what the rounding of weights shifts, which is measured on a model with rounded
weights and float activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qgraph.formats.encoding import encoding_of, quantize
from qgraph.improve.pieces import Piece, Runner, Values, cut
from qgraph.improve.weighted import Weighted, constants_of, weighted_ops, with_constants
from qgraph.ir.slots import input_slot
from qgraph.solve.run import RunData

Means = Mapping[str, NDArray[np.float64]]
"""The mean of each output channel, by op: float64 [channels]."""

CHANNEL_AXIS = 1

Tick = Callable[[int, int], None]


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
        libraries: with the model's custom ops; see `qgraph.calib.op_libraries`.
    """
    return _measured(model, ops, [dict(one) for one in samples], Runner(folder, libraries), None, 1.0, lambda *_: None)


def bias_corrections(
    quantized: ModelProto,
    ops: Sequence[Weighted],
    expected: Means,
    samples: Sequence[Values],
    folder: Path,
    *,
    share: float = 1.0,
    libraries: Sequence[Path] = (),
    tick: Tick = lambda *_: None,
) -> Means:
    """What to add to the bias of each op so that its channels have the expected means.

    Args:
        quantized: the model that `expected` was measured on, as QDQ or with rounded weights; its ops have its names.
        samples: the inputs, by name; not changed.
        share: how much of what is missing is added.
        libraries: with the model's custom ops.
        tick: called with the number of ops done, and of all.
    """
    runner = Runner(folder, libraries)
    return _measured(quantized, ops, [dict(one) for one in samples], runner, expected, share, tick)


def _measured(
    model: ModelProto,
    ops: Sequence[Weighted],
    samples: list[Values],
    runner: Runner,
    expected: Means | None,
    share: float,
    tick: Tick,
) -> Means:
    """Means of what the ops make, or with `expected` what they lack, which is added before going on."""
    made = {node.name: node.output[0] for node in model.graph.node}
    names = {made[one.op]: one.op for one in ops if one.op in made}
    pieces = cut(model, list(names))
    found: dict[str, NDArray[np.float64]] = {}
    for done, piece in enumerate(pieces, start=1):
        if piece.end is None:
            break
        runner.step(piece, samples)
        op = names[piece.end]
        found[op] = _mean([values[piece.end] for values in samples])
        if expected is not None:
            found[op] = share * (expected[op] - found[op])
            _add(found[op], piece, samples)
        runner.forget(piece, samples)
        tick(done, len(names))
    return found


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The mean of each channel over all samples and places, in float64 and in the order of the samples."""
    axes = tuple(axis for axis in range(arrays[0].ndim) if axis != CHANNEL_AXIS)
    total = sum(array.sum(axis=axes, dtype=np.float64) for array in arrays)
    count = sum(array.size for array in arrays) // arrays[0].shape[CHANNEL_AXIS]
    return np.asarray(total / count)


def _add(correction: NDArray[np.float64], piece: Piece, samples: Sequence[Values]) -> None:
    """Shift the channels of the tensor that a piece ends with, as the corrected bias will."""
    for values in samples:
        array = values[piece.end or ""]
        shape = [-1 if axis == CHANNEL_AXIS else 1 for axis in range(array.ndim)]
        values[piece.end or ""] = array + correction.astype(np.float32).reshape(shape)


def with_rounded_weights(model: ModelProto, ops: Sequence[Weighted], run: RunData, folder: Path) -> ModelProto:
    """The float model with each weight at the values that the run's scales leave of it."""
    encodings = {one.slot: encoding_of(one) for one in run.tqcs if one.role == "weight"}
    values = constants_of(model, {op.weight for op in ops}, folder)
    rounded = {}
    for op in ops:
        code = encodings.get(input_slot(op.op, 1))
        if code is not None:
            scale = np.asarray(code.scale, np.float32)
            offset = np.asarray(code.offset, np.float32)
            shape = op.weight_shape(values[op.weight].ndim) if scale.size > 1 else ()
            integers = quantize(values[op.weight], code, op.weight).astype(np.float32)
            rounded[op.weight] = (integers - offset.reshape(shape)) * scale.reshape(shape)
    return with_constants(model, rounded)


def with_corrections(model: ModelProto, corrections: Means, folder: Path) -> ModelProto:
    """The model with the corrections in its biases.

    Args:
        model: one of `qgraph.improve.weighted.with_biases`.
    """
    own = {op.bias: corrections[op.op] for op in weighted_ops(model.graph) if op.bias and op.op in corrections}
    before = constants_of(model, set(own), folder)
    return with_constants(model, {name: (before[name] + delta).astype(np.float32) for name, delta in own.items()})
