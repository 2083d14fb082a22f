"""ONNX ops in torch: those that torch's exporter writes for a larger op of a program.

Each takes its inputs in ONNX's order, None where one is omitted, and the attributes. They are those of opset 18 and
newer; shapes and indices are int64 on the CPU, so that computing with them never waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Inputs = Sequence[Any]
Attributes = Mapping[str, Any]
TorchOp = Callable[[Inputs, Attributes], Any]


def _integers(value: Tensor | None) -> list[int] | None:
    return None if value is None else [int(one) for one in value.reshape(-1).tolist()]


def _reshape(x: Inputs, a: Attributes) -> Tensor:
    sizes = _integers(x[1]) or []
    kept = sizes if a.get("allowzero") else [x[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    result: Tensor = x[0].reshape(kept)
    return result


def _slice(x: Inputs, _: Attributes) -> Tensor:
    starts, ends = _integers(x[1]) or [], _integers(x[2]) or []
    axes = _integers(x[3]) if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = _integers(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    result: Tensor = x[0]
    for axis, start, end, step in zip(axes or [], starts, ends, steps or [], strict=True):
        size = result.shape[axis]
        indices = range(*slice(start, end if step > 0 or end >= -size else None, step).indices(size))
        if step > 0:
            result = result.narrow(axis, indices.start, len(indices)) if step == 1 else _picked(result, axis, indices)
        else:
            result = _picked(result, axis, indices)
    return result


def _picked(value: Tensor, axis: int, indices: range) -> Tensor:
    return value.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=value.device))


def _unsqueeze(x: Inputs, _: Attributes) -> Tensor:
    axes = _integers(x[1]) or []
    rank = x[0].ndim + len(axes)
    result: Tensor = x[0]
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _squeeze(x: Inputs, _: Attributes) -> Tensor:
    axes = _integers(x[1]) if len(x) > 1 else None
    return torch.squeeze(x[0]) if axes is None else torch.squeeze(x[0], tuple(axes))


def _expand(x: Inputs, _: Attributes) -> Tensor:
    return x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(_integers(x[1]) or [])))  # type: ignore[no-any-return, no-untyped-call]


def _gather(x: Inputs, a: Attributes) -> Tensor:
    data, indices, axis = x[0], x[1].to(x[0].device), int(a.get("axis", 0)) % max(x[0].ndim, 1)
    flat = data.index_select(axis, (indices.reshape(-1) % data.shape[axis]).to(torch.int64))
    return flat.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])  # type: ignore[no-any-return]


def _shape(x: Inputs, a: Attributes) -> Tensor:
    return torch.tensor(tuple(x[0].shape)[int(a.get("start", 0)) : a.get("end")], dtype=torch.int64, device="cpu")


def _gemm(x: Inputs, a: Attributes) -> Tensor:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    product: Tensor = a.get("alpha", 1.0) * (left @ right)
    return product if len(x) < 3 or x[2] is None else product + a.get("beta", 1.0) * x[2]


def _reduced(function: Callable[..., Tensor]) -> TorchOp:
    def reduce(x: Inputs, a: Attributes) -> Tensor:
        axes = _integers(x[1]) if len(x) > 1 else None
        if axes is None and a.get("noop_with_empty_axes"):
            whole: Tensor = x[0]
            return whole
        return function(x[0], tuple(axes or range(x[0].ndim)), keepdim=bool(a.get("keepdims", 1)))

    return reduce


def _normalised(x: Inputs, a: Attributes) -> Tensor:
    shape = x[0].shape[int(a.get("axis", -1)) :]
    bias = x[2] if len(x) > 2 else None
    return functional.layer_norm(x[0], shape, x[1].expand(shape), bias, float(a.get("epsilon", 1e-5)))


def _clip(x: Inputs, _: Attributes) -> Tensor:
    low, high = (*x[1:3], None, None)[:2]
    return x[0] if low is None and high is None else torch.clamp(x[0], low, high)


def _split(x: Inputs, a: Attributes) -> Any:
    axis = int(a.get("axis", 0))
    sizes = _integers(x[1]) if len(x) > 1 else None
    if sizes is not None:
        return tuple(torch.split(x[0], sizes, axis))
    number = int(a["num_outputs"])
    return tuple(torch.split(x[0], -(-x[0].shape[axis] // number), axis))


def _in_one_place(values: Inputs) -> list[Any]:
    """The values where the first is that is not on the CPU: a mask or index may be a constant, which is on the CPU."""
    place = next((one.device for one in values if one is not None and one.device.type != "cpu"), None)
    return [one if one is None or place is None else one.to(place) for one in values]


def _of(function: Callable[..., Any]) -> TorchOp:
    """An op that is a function of its inputs alone."""
    return lambda x, _: function(*_in_one_place(x))


OPS: Mapping[str, TorchOp] = MappingProxyType(
    {
        "Abs": _of(torch.abs),
        "Add": _of(torch.add),
        "Clip": _clip,
        "Concat": lambda x, a: torch.cat(_in_one_place(x), int(a["axis"])),
        "Cos": _of(torch.cos),
        "Div": _of(lambda x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")),
        "Erf": _of(torch.erf),
        "Exp": _of(torch.exp),
        "Expand": _expand,
        "Gather": _gather,
        "Gelu": lambda x, a: functional.gelu(x[0], approximate=a.get("approximate", "none")),
        "Gemm": _gemm,
        "HardSigmoid": lambda x, a: torch.clamp(a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5), 0, 1),
        "HardSwish": _of(functional.hardswish),
        "Identity": _of(lambda x: x),
        "LayerNormalization": _normalised,
        "Log": _of(torch.log),
        "MatMul": _of(torch.matmul),
        "Mul": _of(torch.mul),
        "Neg": _of(torch.neg),
        "Pow": _of(torch.pow),
        "Reciprocal": _of(torch.reciprocal),
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceMin": _reduced(torch.amin),
        "ReduceSum": _reduced(torch.sum),
        "Relu": _of(torch.relu),
        "Reshape": _reshape,
        "Shape": _shape,
        "Sigmoid": _of(torch.sigmoid),
        "Sin": _of(torch.sin),
        "Slice": _slice,
        "Softmax": lambda x, a: torch.softmax(x[0], int(a.get("axis", -1))),
        "Softplus": _of(functional.softplus),
        "Split": _split,
        "Sqrt": _of(torch.sqrt),
        "Squeeze": _squeeze,
        "Sub": _of(torch.sub),
        "Tanh": _of(torch.tanh),
        "Transpose": lambda x, a: x[0].permute(a.get("perm") or tuple(reversed(range(x[0].ndim)))),
        "Unsqueeze": _unsqueeze,
        "Where": _of(torch.where),
    }
)
"""By op type. Attributes are plain values; an op that is not here is onnxruntime's to run."""
