"""Values as JSON text and back, exactly: tuples, mappings and special floats included.

JSON knows no NaN, no infinity and no tuple. A special float is written ``{"float": "nan"}``, a mapping
``{"mapping": {...}}``, so that neither can be taken for the other; a tuple is a list. Everything read is immutable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

Encodable = int | float | str | bool | None | tuple["Encodable", ...] | Mapping[str, "Encodable"]


def encode(value: Encodable) -> str:
    """Write a value as one line of strict JSON.

    >>> encode((1, 2.5, float("inf"), "x"))
    '[1,2.5,{"float":"inf"},"x"]'
    """
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def decode(text: str) -> Any:
    """Read what `encode` wrote.

    >>> decode(encode((1, 1.0, -0.0, float("-inf"), None, ("x",))))
    (1, 1.0, -0.0, -inf, None, ('x',))
    """
    return _exact(json.loads(text))


def encode_optional(value: Encodable) -> str | None:
    """`encode`, but None stays SQL's NULL."""
    return None if value is None else encode(value)


def decode_optional(text: str | None) -> Any:
    """Read what `encode_optional` wrote."""
    return None if text is None else decode(text)


def _plain(value: Encodable) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    if isinstance(value, Mapping):
        return {"mapping": {key: _plain(element) for key, element in value.items()}}
    return value


def _exact(value: object) -> object:
    if isinstance(value, list):
        return tuple(_exact(element) for element in value)
    if isinstance(value, dict):
        if "float" in value:
            return float(value["float"])
        mapping = cast("dict[str, object]", value["mapping"])
        return MappingProxyType({key: _exact(element) for key, element in mapping.items()})
    return value
