"""What a torch module is exported with: the arguments of one call, and which of their axes may change."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from qgraph.errors import UsageError

BATCH = "batch"
"""As `dynamic_shapes`: the first axis of every input may have any length, the same for all."""

_HOW = (
    "pass what the module is called with, example_inputs=(tensor, …), or input_shapes=[1, 3, 224, 224], "
    "or data that can be read again; to quantize_torch_model, inputs=(tensor, …)"
)

_FITTING = "pass what its forward takes; collate_fn= turns an item of the data into that, without labels"


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def example_call(model: torch.nn.Module, example_inputs: object, input_shapes: object) -> Call:
    """The call that a module is exported with.

    Args:
        example_inputs: a tensor or array; a tuple or list of arguments; or a dict: of arguments by name if the module
            has them all, else the only argument.
        input_shapes: used without an example: one shape, a list of shapes, or shapes by argument; float inputs.

    Raises:
        UsageError: neither is given, or they are of another form.
    """
    if example_inputs is not None and input_shapes is not None:
        raise UsageError("example inputs and input shapes", "both are given", "give one of them")
    if example_inputs is not None:
        place = _place(model)
        return _call(model, pytree.tree_map(lambda value: _tensor(value, place), example_inputs))
    if input_shapes is None:
        raise UsageError("a torch module needs an example of its inputs", type(model).__name__, _HOW)
    return _call(model, _zeros(model, input_shapes))


def _call(model: torch.nn.Module, example: Any) -> Call:
    if isinstance(example, Mapping):
        parameters = inspect.signature(model.forward).parameters
        free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        if example and (free or set(example) <= set(parameters)):
            return Call((), dict(example))
        return Call((dict(example),), {})
    return Call(tuple(example), {}) if isinstance(example, tuple | list) else Call((example,), {})


def _place(model: torch.nn.Module) -> torch.device | None:
    """The device of all parameters and buffers; None if there is none, or several."""
    places = {one.device for one in chain(model.parameters(), model.buffers())}
    return places.pop() if len(places) == 1 else None


def _tensor(value: object, place: torch.device | None) -> object:
    """An array or tensor as a tensor where the module is; anything else as it is."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    return value.to(place) if isinstance(value, torch.Tensor) and place is not None else value


def _zeros(model: torch.nn.Module, shapes: object) -> Any:
    """Zeros of these shapes, in the module's float type and on its device."""
    like = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
    if _is_shape(shapes):
        return torch.zeros(_sizes(shapes), dtype=like.dtype, device=like.device)
    if isinstance(shapes, Mapping) and all(map(_is_shape, shapes.values())):
        return {name: torch.zeros(_sizes(one), dtype=like.dtype, device=like.device) for name, one in shapes.items()}
    listed = list(shapes) if isinstance(shapes, Sequence) and not isinstance(shapes, str) else []
    if listed and all(map(_is_shape, listed)):
        return tuple(torch.zeros(_sizes(one), dtype=like.dtype, device=like.device) for one in listed)
    raise UsageError("not the shapes of inputs", ascii(shapes)[:60], _HOW)


def _is_shape(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in value)


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(shape)


def shapes_for(model: torch.nn.Module, call: Call, dynamic_shapes: Any) -> tuple[Call, Any]:
    """The call to export with, and the dynamic axes as `torch.export.export` wants them.

    For a dynamic batch the example has two samples at least: torch takes an axis of length 1 for a constant one.

    Raises:
        UsageError: a text other than "batch", or the module's forward does not take these arguments.
    """
    if not isinstance(dynamic_shapes, str):
        _bound(model, call)
        return call, dynamic_shapes
    if dynamic_shapes != BATCH:
        cure = f'use "{BATCH}", or what torch.export.export takes'
        raise UsageError("unknown dynamic_shapes", dynamic_shapes, cure)
    size = torch.export.Dim("batch", min=1)
    args, kwargs = pytree.tree_map(_two_samples, (call.args, call.kwargs))
    doubled = Call(args, kwargs)
    bound = _bound(model, doubled)
    return doubled, pytree.tree_map(lambda leaf: {0: size} if _has_batch(leaf) else None, bound)


def _bound(model: torch.nn.Module, call: Call) -> dict[str, Any]:
    """The arguments of a call by the names of the module's parameters."""
    try:
        return inspect.signature(model.forward).bind(*call.args, **call.kwargs).arguments
    except TypeError as error:
        what = "the module does not take these inputs"
        raise UsageError(what, f"{type(model).__name__}: {error}", _FITTING) from None


def _has_batch(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0


def _two_samples(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if _has_batch(leaf) and leaf.shape[0] == 1 else leaf
