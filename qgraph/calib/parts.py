"""What is recorded of a tensor beside its histogram: channels and rows, and from which activation they are read.

- *Channels with sums* of what the weighted ops (Conv, ConvTranspose, Gemm, MatMul) read: the mean of each input
  channel is what an analytic bias correction needs, its range what equalization does. What they make would cost as
  much again; its mean follows, since a weighted op is linear.
- *Channels with histograms* where a target quantizes an activation per channel.
- *Rows* of graph outputs, of inputs and outputs of Softmax and LogSoftmax, of what ArgMax and TopK rank: along the
  last axis and along the op's own.

None of it follows from the histograms of other tensors, so a tensor that follows is read itself; but what a Relu or
a Clip makes is read from that op's input, which is at hand, and cut off on the way::

    Conv ── a ── Relu ── b ── Conv        channels of b: those of max(a, 0)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qgraph.calib.followers import Follower
from qgraph.ir.elements import Op, Structure, Tensor

RANKING = ("ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "Softmax", "TopK")
"""Ops that compare the elements along an axis."""

LAST_AXIS_SINCE = 13
"""Opset from which Softmax and its like act along the last axis unless they say otherwise; before, along axis 1."""

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, order=True, slots=True)
class ChannelPlan:
    """Channels along one axis, with a histogram each (`binned`) or without."""

    axis: int
    binned: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What is recorded of one tensor beside its histogram.

    Attributes:
        source: the tensor that it is read from: itself, or the input of the Relu or Clip that makes it.
        bounds: values of the source beyond them are cut off; infinite where there is none.
        channels: sorted, at most one per axis.
        rows: axes, sorted.
        atoms: values whose exact multiplicity is counted in each channel that has a histogram.
    """

    source: str
    bounds: tuple[float, float]
    channels: tuple[ChannelPlan, ...]
    rows: tuple[int, ...]
    atoms: tuple[float, ...] = ()


def plan_parts(
    structure: Structure,
    atoms: Mapping[str, tuple[float, ...]],
    followers: Mapping[str, Follower],
    channel_axes: Mapping[str, Iterable[int]] = MappingProxyType({}),
    *,
    lean: bool = False,
) -> dict[str, Parts]:
    """Decide what is recorded beside the histograms: by tensor, sorted by name.

    Args:
        atoms: of each tensor that is collected or follows; no other gets any.
        channel_axes: per tensor the axes along which some served target quantizes it per channel.
        lean: without channels that have sums only.
    """
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    channels: dict[str, dict[int, bool]] = {}
    for name, axis in () if lean else _summed(structure, tensors):
        channels.setdefault(name, {})[axis] = False
    for name, axes in channel_axes.items():
        channels.setdefault(name, {}).update({_from_front(tensors.get(name), axis): True for axis in axes})
    rows: dict[str, set[int]] = {}
    for name, axis in _ranked(structure):
        rows.setdefault(name, set()).add(_from_front(tensors.get(name), axis))
    return {
        name: _parts(name, channels.get(name, {}), rows.get(name, set()), atoms, followers)
        for name in sorted({*channels, *rows})
        if name in atoms
    }


def _parts(
    name: str,
    channels: Mapping[int, bool],
    rows: Iterable[int],
    atoms: Mapping[str, tuple[float, ...]],
    followers: Mapping[str, Follower],
) -> Parts:
    follower = followers.get(name)
    planned = tuple(ChannelPlan(axis, binned) for axis, binned in sorted(channels.items()))
    source, bounds = name, (-math.inf, math.inf)
    if follower is not None and follower.rule in ("relu", "clip") and follower.sources[0] not in followers:
        source, bounds = follower.sources[0], (0.0, math.inf) if follower.rule == "relu" else follower.bounds
    return Parts(source, bounds, planned, tuple(sorted(rows)), atoms[name])


def _summed(structure: Structure, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Tensors that weighted ops read, each with the axis of its channels."""
    for op in structure.ops:
        if op.domain or len(op.inputs) < 2:
            continue
        for name, axis in _channel_axes(op, tensors):
            if name is not None:
                yield name, _from_front(tensors.get(name), axis)


def _channel_axes(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str | None, int]]:
    constant = [name is not None and name in tensors and tensors[name].constant for name in op.inputs[:2]]
    if op.type in CONVOLUTIONS and constant == [False, True]:
        yield op.inputs[0], 1
    elif op.type == "Gemm" and constant == [False, True]:
        yield op.inputs[0], 0 if op.attributes.get("transA") else 1
    elif op.type == "MatMul" and constant == [False, True]:
        yield op.inputs[0], -1
    elif op.type == "MatMul" and constant == [True, False]:
        yield op.inputs[1], -2


def _ranked(structure: Structure) -> Iterator[tuple[str, int]]:
    """Tensors whose elements are compared, each with the axis along which they are."""
    for name in structure.outputs:
        yield name, -1
    for op in structure.ops:
        if op.domain or op.type not in RANKING or not op.inputs:
            continue
        axis = op.attributes.get("axis", _default_axis(op, structure.opset))
        for ranked in (op.inputs[0], *op.outputs[:1]):
            if ranked is not None and isinstance(axis, int):
                yield ranked, -1
                yield ranked, axis


def _default_axis(op: Op, opset: int) -> int:
    if op.type in ("ArgMax", "ArgMin"):
        return 0
    return -1 if op.type == "TopK" or opset >= LAST_AXIS_SINCE else 1


def _from_front(tensor: Tensor | None, axis: int) -> int:
    """The axis counted from the front where the rank is known, so that one axis has one name."""
    if tensor is None or tensor.shape is None or not axis < 0 <= axis + len(tensor.shape):
        return axis
    return axis + len(tensor.shape)
