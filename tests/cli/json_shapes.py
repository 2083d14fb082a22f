"""What a JSON document must look like, exactly: the notation, and what does not fit.

A shape is a type (``str``, ``int``, ``float``, ``bool``, ``None``), a tuple of alternatives, ``[shape]`` for a list of
any length, a dict with exactly these keys, or ``{...: shape}`` for a dict with names of the user's as keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any


def misfits(value: Any, shape: Any, where: str = "$") -> Iterator[str]:
    """A line for each place where a value has another shape."""
    if isinstance(shape, tuple):
        if not any(fits(value, one) for one in shape):
            # Told of the alternative of its own kind, where there is one, to say what is wrong inside.
            own = [one for one in shape if type(one) is type(value) and isinstance(value, dict | list)]
            yield from misfits(value, own[0], where) if own else [f"{where}: {value!r} is none of {shape}"]
    elif isinstance(shape, dict) and isinstance(value, dict):
        if ... in shape:
            yield from itertools.chain(*(misfits(item, shape[...], f"{where}.*") for item in value.values()))
            return
        yield from (f"{where}: {key} is missing" for key in sorted(shape.keys() - value.keys()))
        yield from (f"{where}: {key} is new" for key in sorted(value.keys() - shape.keys()))
        yield from itertools.chain(*(misfits(value[k], shape[k], f"{where}.{k}") for k in shape if k in value))
    elif isinstance(shape, list) and isinstance(value, list):
        yield from itertools.chain(*(misfits(item, shape[0], f"{where}[]") for item in value))
    elif not (value is None if shape is None else isinstance(shape, type) and type(value) is shape):
        yield f"{where}: {value!r} is not {shape}"


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has a shape."""
    return next(misfits(value, shape), None) is None
