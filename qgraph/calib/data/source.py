"""Calibration data of any source, as samples that can be read again and again.

Sources can be read as often as needed. A one-shot iterator is spooled to a temporary file while it is read
the first time, so memory stays bounded by its largest item.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qgraph.calib.data.folder import is_image, list_folder
from qgraph.calib.data.images import ImageFiles, ImageOptions, preparation_for
from qgraph.calib.data.npz import rows_of
from qgraph.calib.data.samples import (
    INPUT_DTYPES,
    Arrays,
    Sample,
    by_input,
    check_counts,
    content_hash,
    digest_of,
    fitted,
    leading_sizes,
    rows_of_item,
)
from qgraph.calib.data.spool import Spool
from qgraph.errors import DataError, UsageError
from qgraph.ir.elements import Tensor

Items = Callable[[], Iterator[tuple[str, Arrays]]]
"""Starts a new pass over the items, each with the words that name it in an error."""


class DataSource:
    """Samples that can be read again and again. Use `open_data` to make one, `close` it when done.

    Args:
        state: tells the state of a source that holds still: while it is equal, so are the samples, and they are looked
            at only once. None for a source that must be watched, and whose arrays may change behind our back.

    Attributes:
        preparation: how the samples are made from files, as text; None where they are fed as they are.
        notes: lines about what was left out, as far as the data was read.
        of_files: the samples come from files, which are told by a sample's `where`.
    """

    def __init__(
        self,
        name: str,
        items: Items,
        inputs: tuple[Tensor, ...],
        close: Callable[[], object] = lambda: None,
        *,
        preparation: str | None = None,
        notes: Callable[[], tuple[str, ...]] = tuple,
        state: Callable[[], object] | None = None,
        of_files: bool = False,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.close = close
        self.preparation = preparation
        self.notes = notes
        self.of_files = of_files
        self._places: dict[str, tuple[int, str]] = {}
        self._items = items
        self._state = state
        self._seen: tuple[object, list[str]] = (None, [])
        self._census: tuple[int | None, Mapping[str, int]] | None = None

    def samples(self, limit: int | None = None) -> Iterator[Sample]:
        """A new pass over the samples, or the first `limit` of them.

        Raises:
            DataError: data that is missing, broken, not finite, or does not fit the model's inputs.
        """
        return islice(self._all_samples(), limit)

    def _all_samples(self) -> Iterator[Sample]:
        hashes = self._known_hashes()
        position = 0
        for where, item in self._items():
            known = hashes is not None and position < len(hashes)
            arrays_of_item = fitted(item, self.inputs, where, known=known)
            for arrays, batchable in rows_of_item(arrays_of_item, self.inputs, where, copied=self._state is None):
                if hashes is None or position >= len(hashes):
                    found = content_hash(arrays)
                    if hashes is not None:
                        hashes.append(found)
                else:
                    found = hashes[position]
                position += 1
                yield Sample(found, arrays, batchable, where)

    def _known_hashes(self) -> list[str] | None:
        """The hashes of the first samples, if the source can tell that it is still in the state in which they were."""
        if self._state is None:
            return None
        state = self._state()
        if self._seen[0] != state:
            self._seen = (state, [])
        return self._seen[1]

    def census(self, limit: int | None = None) -> Mapping[str, int]:
        """How often each sample occurs, by hash; kept, so that asking again does not read the data again.

        Raises:
            DataError: as `samples`; and if there is no sample at all.
        """
        if self._census is None or self._census[0] != limit:
            found: Counter[str] = Counter()
            self._places.clear()
            for index, sample in enumerate(self.samples(limit)):
                found[sample.hash] += 1
                self._places.setdefault(sample.hash, (index, sample.where))
            if not found:
                raise DataError("no samples", self.name, "give at least one")
            self._census = (limit, found)
        return self._census[1]

    def places(self, limit: int | None = None) -> Mapping[str, tuple[int, str]]:
        """Where each sample was found first, by hash: its place among all, from 0, and its `where`."""
        self.census(limit)
        return self._places

    def digest(self, limit: int | None = None) -> str:
        """Digest of the multiset of samples, whatever their order."""
        return digest_of(self.census(limit))

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes; None if any, or if its inputs cannot be batched."""
        sizes = leading_sizes(self.inputs)
        return sizes[0] if len(sizes) == 1 else None


def open_data(
    source: object,
    inputs: Sequence[Tensor],
    collate: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
) -> DataSource:
    """Open calibration data.

    Args:
        source: path of a `.npz` (one array per input, its first axis counts samples), of an image, or of a folder of
            either; or an array or dict of arrays with such an axis; or any iterable of arrays, tuples, lists or
            dicts, without or with `len()`. Arrays are numpy's, torch's, or anything that numpy can convert. Tuples
            follow the model's inputs.
        inputs: the model's inputs.
        collate: turns each item of an iterable into an array, tuple, list or dict.
        images: how image files are made ready; None for the defaults.

    Raises:
        DataError: the source is none of these. What is wrong inside it is raised when it is read.
        UsageError: options that this source has no use for, or that contradict the model's input.
    """
    specs = tuple(inputs)
    for spec in specs:
        if spec.dtype not in INPUT_DTYPES:
            raise DataError("an input of a type that cannot be fed", f"{spec.name} ({spec.dtype})", "change the model")
    if isinstance(source, str | os.PathLike):
        if collate is not None:
            raise UsageError("collate_fn for files", str(source), "use it with an iterable")
        return _open_path(Path(source), specs, images)
    if images is not None:
        raise UsageError("image options for data that is not files", type(source).__name__, "leave them out")
    return _open_iterable(source, specs, collate)


def _open_iterable(source: object, inputs: tuple[Tensor, ...], collate: Callable[[Any], object] | None) -> DataSource:
    if isinstance(source, Mapping):
        check_counts(by_input(source, [spec.name for spec in inputs], "the dict"), inputs)
    held = isinstance(source, Mapping) or hasattr(source, "__array__")
    if held:
        source = [source]
    if not isinstance(source, Iterable):
        raise DataError("not calibration data", type(source).__name__, "pass a path or an iterable of arrays")

    names = [spec.name for spec in inputs]

    def convert(items: Iterable[object]) -> Iterator[tuple[str, Arrays]]:
        for index, item in enumerate(items):
            yield f"item {index}", by_input(item if collate is None else collate(item), names, f"item {index}")

    if iter(source) is source:
        spool = Spool(convert(source), names)
        return DataSource("an iterator", spool.items, inputs, spool.close, state=lambda: "spooled")
    state = (lambda: "held") if held else None
    return DataSource(f"a {type(source).__name__}", lambda: convert(source), inputs, state=state)


def _open_path(path: Path, inputs: tuple[Tensor, ...], images: ImageOptions | None) -> DataSource:
    """A file, or a folder of files of one kind."""
    ignored: tuple[str, ...] = ()
    if path.is_dir():
        listed = list_folder(path)
        files, pictures = listed.npz or listed.images, bool(listed.images)
        if listed.others:
            example = listed.others[0].relative_to(path)
            ignored = (f"files in {path} that are no data are ignored: {len(listed.others)}, such as {example}",)
    else:
        files, pictures = (path,), is_image(path) and path.exists()
    if pictures:
        options = images or ImageOptions()
        preparation = preparation_for(options, inputs)
        root = path if path.is_dir() else path.parent
        reader = ImageFiles(files, root, inputs[0].name, preparation, skip_broken=options.broken == "skip")
        return DataSource(
            str(path),
            reader.items,
            inputs,
            preparation=str(preparation),
            notes=lambda: (*ignored, *reader.notes()),
            state=lambda: _file_states(files),
            of_files=True,
        )
    if images is not None:
        raise UsageError("image options for data without images", str(path), "leave them out")
    return DataSource(
        str(path),
        lambda: (item for file in files for item in _npz_items(file, inputs)),
        inputs,
        notes=lambda: ignored,
        state=lambda: _file_states(files),
        of_files=True,
    )


def _file_states(files: Sequence[Path]) -> object:
    """What changes when one of the files does; an object that equals no other where that cannot be told."""
    try:
        found = [path.stat() for path in files]
    except OSError:
        return object()
    return tuple((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns) for info in found)


def _npz_items(path: Path, inputs: Sequence[Tensor]) -> Iterator[tuple[str, Arrays]]:
    """Rows become items of the model's rank: the sample axis stays, as 1, unless the array has one axis more."""
    ranks = {spec.name: len(spec.shape) if spec.shape is not None else None for spec in inputs}
    for index, row in enumerate(rows_of(path, [spec.name for spec in inputs])):
        yield (
            f"{path}, sample {index}",
            {name: array if array.ndim == ranks[name] else array[np.newaxis] for name, array in row.items()},
        )
