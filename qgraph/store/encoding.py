"""Values as JSON text and back, exactly: tuples, mappings and special floats included.

JSON knows no NaN, no infinity and no tuple. A special float is written ``{"float": "nan"}``, a mapping
``{"mapping": {...}}``, so that neither can be taken for the other; a tuple is a list. Everything read is immutable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, cast

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

Encodable = int | float | str | bool | None | tuple["Encodable", ...] | Mapping[str, "Encodable"]


def encode(value: Encodable) -> str:
    """Write a value as one line of strict JSON.

    >>> encode((1, 2.5, float("inf"), "x"))
    '[1,2.5,{"float":"inf"},"x"]'
    """
    return _ENCODER.encode(_plain(value))


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


def moment(stored: datetime) -> str:
    """A stored time, which is UTC, in ISO format to the second.

    >>> moment(datetime(2030, 1, 2, 3, 4, 5, 678901))
    '2030-01-02 03:04:05'
    """
    return stored.isoformat(" ", "seconds")


def _plain(value: Encodable) -> object:
    if value is None or isinstance(value, (str, int)):
        return value
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
