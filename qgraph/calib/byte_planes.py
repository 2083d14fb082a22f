"""Numbers as bytes: arrays as byte planes that compress well, and a reader that never goes beyond the end.

A byte plane holds one byte of every number: all lowest bytes first, then all second bytes, and so on. Counts and
differences are small, so the higher planes are almost only zeros::

    3, 1, 2 as uint32    03 00 00 00 01 00 00 00 02 00 00 00
    as byte planes       03 01 02    00 00 00 00 00 00 00 00 00
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import StatisticsError


def corrupt(detail: str) -> StatisticsError:
    """The error of a blob that cannot be read."""
    return StatisticsError("a stored statistic is corrupt", detail, "restore the database or calibrate again")


def planes(numbers: NDArray[Any], dtype: str) -> bytes:
    """An array as byte planes of a little endian type."""
    flat = np.ascontiguousarray(numbers, dtype=dtype).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, -1).T.tobytes() if flat.size else b""


class Reader:
    """Reads one payload from its beginning. Everything raises `StatisticsError` where the payload is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self._data) - self._at:
            raise corrupt("its parts do not fill it")
        self._at += size
        return self._data[self._at - size : self._at]

    def numbers(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next numbers of a layout."""
        return layout.unpack(self.take(layout.size))

    def array(self, count: int, dtype: str) -> NDArray[Any]:
        """The next array of so many numbers of a little endian type, from its byte planes."""
        width = np.dtype(dtype).itemsize
        raw = np.frombuffer(self.take(count * width), np.uint8).reshape(width, count)
        return np.ascontiguousarray(raw.T).reshape(-1).view(dtype).astype(dtype[1:], copy=False)

    @property
    def at_end(self) -> bool:
        """Whether all of the payload was read."""
        return self._at == len(self._data)

    def end(self) -> None:
        """Refuse a payload that goes on."""
        if self._at != len(self._data):
            raise corrupt("its parts do not fill it")
