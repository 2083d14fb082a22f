"""Items of a one-shot iterator, kept on disk, so that they can be read again and memory stays bounded."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qgraph.errors import DataError

Arrays = dict[str, NDArray[Any]]


class Spool:
    """Items of a one-shot iterator, written to a temporary file as they come and read back in later passes."""

    def __init__(self, items: Iterator[tuple[str, Arrays]], names: Sequence[str]) -> None:
        handle, name = tempfile.mkstemp(prefix="qgraph-", suffix=".spool")
        os.close(handle)
        self._path = Path(name)
        self.close = weakref.finalize(self, self._path.unlink, missing_ok=True)
        self._items = items
        self._names = names
        self._labels: list[str] = []

    def items(self) -> Iterator[tuple[str, Arrays]]:
        """A new pass: first what was spooled, then what the iterator still has."""
        with self._path.open("rb") as spooled:
            index = 0
            while True:
                if index == len(self._labels) and not self._pull():
                    return
                arrays = {name: npy.read_array(spooled, allow_pickle=False) for name in self._names}
                yield self._labels[index], arrays
                index += 1

    def _pull(self) -> bool:
        """Spool one more item; False if the iterator has no more."""
        for label, arrays in self._items:
            try:
                with self._path.open("ab") as file:
                    for name in self._names:
                        npy.write_array(file, np.asarray(arrays[name]), allow_pickle=False)
            except OSError as error:
                cure = "make room there, set TMPDIR, or pass data that can be read twice"
                raise DataError("an iterator cannot be spooled", f"{self._path} ({error})", cure) from error
            self._labels.append(label)
            return True
        return False
