"""Calibration data: samples of any source, checked against the model's inputs, each with a content hash.

A sample is one row along axis 0 of every input. Where the first axes of an item disagree (a recurrent state, a
scalar), the whole item is one sample::

    {"x": (8, 3, 224, 224)}               8 samples {"x": (1, 3, 224, 224)}
    {"x": (1, 512), "state": (2, 1, 128)} 1 sample, as it is

Sources can be read as often as needed. A one-shot iterator is spooled to a temporary file while it is read
the first time, so memory stays bounded by its largest item.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.folder import is_image, list_folder
from qgraph.calib.images import ImageFiles, ImageOptions, preparation_for
from qgraph.calib.npz import rows_of
from qgraph.calib.spool import Spool
from qgraph.errors import DataError, NotFoundError, UsageError
from qgraph.ir.elements import Tensor

Arrays = dict[str, NDArray[Any]]
Items = Callable[[], Iterator[tuple[str, Arrays]]]
"""Starts a new pass over the items, each with the words that name it in an error."""

INPUT_DTYPES = ("bool", "float16", "float32", "float64", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        hash: BLAKE2b-128 of names, dtypes, shapes and elements, in hexadecimal: the sample's identity.
        arrays: per input the array to feed, in the model's dtype.
        batchable: every array has a leading axis of 1 along which samples can be joined.
        where: the words that name the item that it comes from; an image's path.
    """

    hash: str
    arrays: Mapping[str, NDArray[Any]]
    batchable: bool
    where: str = ""


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
            fitted = _fitted(item, self.inputs, where, known=known)
            for arrays, batchable in _split(fitted, self.inputs, where, copied=self._state is None):
                if hashes is None or position >= len(hashes):
                    found = _hash(arrays)
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
        sizes = _leading_sizes(self.inputs)
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
        _check_counts(_named(source, [spec.name for spec in inputs], "the dict"), inputs)
    held = isinstance(source, Mapping) or hasattr(source, "__array__")
    if held:
        source = [source]
    if not isinstance(source, Iterable):
        raise DataError("not calibration data", type(source).__name__, "pass a path or an iterable of arrays")

    names = [spec.name for spec in inputs]

    def convert(items: Iterable[object]) -> Iterator[tuple[str, Arrays]]:
        for index, item in enumerate(items):
            yield f"item {index}", _named(item if collate is None else collate(item), names, f"item {index}")

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


def _named(item: object, names: Sequence[str], where: str) -> Arrays:
    """Arrays of an item by input name, in the order of the inputs."""
    if isinstance(item, Mapping):
        for name in sorted(map(str, item)):
            if name not in names:
                unknown = NotFoundError.among("input", name, names, f"the model's inputs are {', '.join(names)}")
                raise DataError("data for an unknown input", f"{where}, {name}", unknown.cure)
        for name in names:
            if name not in item:
                raise DataError("no data for an input of the model", f"{where}, input {name}", f"add {name}")
        return {name: _array(item[name], f"{where}, input {name}") for name in names}
    parts = list(item) if isinstance(item, tuple | list) else [item]
    if len(parts) != len(names):
        raise DataError(
            f"an item of {len(parts)} arrays for {len(names)} inputs",
            f"{where}, inputs {', '.join(names)}",
            "yield a dict by input name, or use collate to drop labels",
        )
    return {name: _array(part, f"{where}, input {name}") for name, part in zip(names, parts, strict=True)}


def _array(value: object, where: str) -> NDArray[Any]:
    """Anything array-like as a numpy array of numbers; torch tensors leave their device and their history."""
    detach = getattr(value, "detach", None)
    try:
        array = np.asarray(detach().cpu() if callable(detach) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "not an array", f"{where} ({type(value).__name__}: {error})", "pass arrays of numbers"
        ) from None
    if array.dtype.kind not in "biuf":
        raise DataError("not an array of numbers", f"{where} ({array.dtype})", "pass integers, floats or booleans")
    return array


def _fitted(item: Arrays, inputs: Sequence[Tensor], where: str, *, known: bool) -> Arrays:
    return {spec.name: _cast(item[spec.name], spec, f"{where}, input {spec.name}", known=known) for spec in inputs}


def _cast(array: NDArray[Any], spec: Tensor, where: str, *, known: bool) -> NDArray[Any]:
    """The array in the model's dtype: floats to floats, integers to integers that hold them, all else refused."""
    wanted = np.dtype(spec.dtype)
    kinds = {array.dtype.kind.replace("u", "i"), wanted.kind.replace("u", "i")}
    if len(kinds) > 1:
        cure = "preprocess it into that type" if wanted.kind == "f" else f"convert it with astype('{wanted}')"
        raise DataError("data of the wrong type", f"{where} is {array.dtype}, the model takes {wanted}", cure)
    if spec.shape is not None and array.ndim != len(spec.shape):
        raise DataError(
            "data of the wrong rank",
            f"{where} has shape {list(array.shape)}, the model takes {_shown(spec)}",
            "add the batch axis, or remove an axis",
        )
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)
    if known:
        return cast
    if wanted.kind == "f" and not np.isfinite(cast).all():
        raise DataError("data has NaN or Inf", where, "remove the sample or repair the preprocessing")
    if wanted != array.dtype and wanted.kind in "iu" and not np.array_equal(cast, array):
        raise DataError("data does not fit its integer type", f"{where} ({wanted})", "check the values")
    return cast


def _split(item: Arrays, inputs: Sequence[Tensor], where: str, *, copied: bool) -> Iterator[tuple[Arrays, bool]]:
    """The samples of an item, and whether they can be joined: its rows, or itself where the first axes do not agree.

    Args:
        copied: a source may fill one buffer again and again while earlier samples are still being run.
    """
    lengths = {array.shape[0] if array.ndim else None for array in item.values()}
    if len(lengths) > 1 and _share_first_dimension(inputs):
        numbers = ", ".join(f"{spec.name} has {len(item[spec.name])}" for spec in inputs)
        raise DataError("inputs with different numbers of samples", f"{where}: {numbers}", "give each as many")
    rows = lengths.pop() if len(lengths) == 1 and len(_leading_sizes(inputs)) <= 1 else None
    for spec in inputs:
        _check_shape(item[spec.name], spec, f"{where}, input {spec.name}", skip=0 if rows is None else 1)
    if rows is None:
        yield {name: array.copy() if copied else array for name, array in item.items()}, False
        return
    for row in range(rows):
        slices = {name: array[row : row + 1] for name, array in item.items()}
        yield {name: array.copy() if copied else array for name, array in slices.items()}, True


def _check_counts(arrays: Arrays, inputs: Sequence[Tensor]) -> None:
    """Arrays that are given once, together, count samples along their first axes, unless one is as the model fixes it.

    Such a one (a recurrent state, a scalar) makes all of them one sample.
    """
    sizes = [arrays[spec.name].shape[:1] for spec in inputs]
    fixed = any(size == spec.shape[:1] for spec, size in zip(inputs, sizes, strict=True) if spec.shape is not None)
    if len(set(sizes)) > 1 and not fixed:
        numbers = ", ".join(f"{spec.name} has {size[0]}" for spec, size in zip(inputs, sizes, strict=True) if size)
        cure = "give each as many, or pass a list with one dict for each sample"
        raise DataError("inputs with different numbers of samples", numbers, cure)


def _check_shape(array: NDArray[Any], spec: Tensor, where: str, skip: int) -> None:
    """Known dimensions must agree, but for the first `skip`."""
    for axis, size in enumerate(spec.shape or ()):
        if axis >= skip and isinstance(size, int) and array.shape[axis] != size:
            raise DataError(
                "data of the wrong shape",
                f"{where} has shape {list(array.shape)}, the model takes {_shown(spec)}",
                f"make axis {axis} {size} long",
            )


def _shown(spec: Tensor) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in spec.shape or ())}]"


def _share_first_dimension(inputs: Sequence[Tensor]) -> bool:
    """Whether all inputs say by one name that their first axes are equally long; a mere ``?`` says nothing."""
    names = {spec.shape[0] if spec.shape else None for spec in inputs}
    (name, *others) = names
    return not others and isinstance(name, str) and any(character.isalnum() for character in name)


def _leading_sizes(inputs: Sequence[Tensor]) -> list[int]:
    """The different fixed sizes of the inputs' first axes, sorted."""
    return sorted({spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)})


def digest_of(census: Mapping[str, int]) -> str:
    """Digest of a multiset of samples, given as content hash → multiplicity, whatever its order."""
    return hashlib.blake2b(repr(sorted(census.items())).encode(), digest_size=16).hexdigest()


def _hash(arrays: Arrays) -> str:
    """Digest of what is fed: names, dtypes and shapes, then the elements, by sorted name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()
