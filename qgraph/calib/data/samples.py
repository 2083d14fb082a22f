"""Samples: what an item of calibration data falls into, checked against the model's inputs, each with a content hash.

A sample is one row along axis 0 of every input. Where the first axes of an item disagree (a recurrent state, a
scalar), the whole item is one sample::

    {"x": (8, 3, 224, 224)}               8 samples {"x": (1, 3, 224, 224)}
    {"x": (1, 512), "state": (2, 1, 128)} 1 sample, as it is
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import DataError, NotFoundError
from qgraph.ir.elements import Tensor

Arrays = dict[str, NDArray[Any]]

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


def by_input(item: object, names: Sequence[str], where: str) -> Arrays:
    """Arrays of an item by input name, in the order of the inputs.

    An item is a dict by name, a tuple or list in the order of the inputs, or one array. What is nested in it, as
    the arguments of a torch module may be, has the names that torch's exporter gives: ARGUMENT_KEY, ARGUMENT_INDEX.
    """
    if isinstance(item, Mapping):
        flat = _flat(item, names)
        found = flat if flat.keys() & set(names) else _fitting(item, names) or flat
        for name in sorted(found):
            if name not in names:
                unknown = NotFoundError.among("input", name, names, f"the model's inputs are {', '.join(names)}")
                raise DataError("data for an unknown input", f"{where}, {name}", unknown.cure)
        for name in names:
            if name not in found:
                raise DataError("no data for an input of the model", f"{where}, input {name}", f"add {name}")
    else:
        parts = list(item) if isinstance(item, tuple | list) else [item]
        found = _in_order(parts, names)
        if len(found) != len(names):
            raise DataError(
                f"an item of {len(parts)} arrays for {len(names)} inputs",
                f"{where}, inputs {', '.join(names)}",
                "yield a dict by input name, or use collate_fn to drop labels",
            )
    return {name: _array(found[name], f"{where}, input {name}") for name in names}


def _in_order(parts: Sequence[object], names: Sequence[str]) -> dict[str, Any]:
    """Arguments by input name; none if there are more or fewer than the inputs.

    >>> _in_order([1, {"depth": 2, "image": 3}], ["size", "batch_image", "batch_depth"])
    {'size': 1, 'batch_depth': 2, 'batch_image': 3}
    """
    found: dict[str, Any] = {}
    for part in parts:
        rest = names[len(found) :]
        if not rest:
            return {}
        found |= _fitting(part, rest) or {rest[0]: part}
    return found


def _fitting(argument: object, names: Sequence[str]) -> dict[str, Any] | None:
    """What is nested in an argument, by the first of the names; None if these are not names of one argument's parts."""
    parts = _flat({"": argument}, ())
    first = names[: len(parts)]
    if len(first) < len(parts):
        return None
    for ending in parts:
        argument_name = first[0].removesuffix(ending)
        found = {f"{argument_name}{part}": value for part, value in parts.items()}
        if found.keys() == set(first):
            return found
    return None


def _flat(item: Mapping[Any, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dict without dicts and lists of arrays in it, as the arguments of a torch module are called.

    >>> _flat({"batch": {"image": 1, "depth": ({"left": 2}, {"left": 3})}, "size": 4}, ())
    {'batch_image': 1, 'batch_depth_0_left': 2, 'batch_depth_1_left': 3, 'size': 4}

    Args:
        names: what has one of these names is an array, though it be written as lists.
    """
    flat: dict[str, Any] = {}
    waiting = [(str(key), value) for key, value in reversed(list(item.items()))]
    while waiting:
        name, value = waiting.pop()
        parts = None if name in names and not isinstance(value, Mapping) else _parts(value)
        if parts is None:
            flat[name] = value
        else:
            waiting.extend((f"{name}_{key}", one) for key, one in reversed(parts))
    return flat


def _parts(value: object) -> list[tuple[object, object]] | None:
    """Keys and values of a dict, places and values of a tuple or list of arrays; None for what is an array itself.

    >>> _parts(([[1.0, 2.0]], [[3.0, 4.0]])), _parts(({"left": 1.0}, {"left": 2.0}))
    (None, [(0, {'left': 1.0}), (1, {'left': 2.0})])
    """
    if isinstance(value, Mapping):
        return list(value.items())
    if not isinstance(value, tuple | list):
        return None
    holds_arrays = all(hasattr(one, "shape") or _parts(one) is not None for one in value)
    return list(enumerate(value)) if holds_arrays else None


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


def check_counts(arrays: Arrays, inputs: Sequence[Tensor]) -> None:
    """Arrays that are given once, together, count samples along their first axes, unless one is as the model fixes it.

    Such a one (a recurrent state, a scalar) makes all of them one sample.
    """
    sizes = [arrays[spec.name].shape[:1] for spec in inputs]
    fixed = any(size == spec.shape[:1] for spec, size in zip(inputs, sizes, strict=True) if spec.shape is not None)
    if len(set(sizes)) > 1 and not fixed:
        numbers = ", ".join(f"{spec.name} has {size[0]}" for spec, size in zip(inputs, sizes, strict=True) if size)
        cure = "give each as many, or pass a list with one dict for each sample"
        raise DataError("inputs with different numbers of samples", numbers, cure)


def fitted(item: Arrays, inputs: Sequence[Tensor], where: str, *, known: bool) -> Arrays:
    """The arrays of an item in the model's dtypes.

    Args:
        known: they were looked at before, so only their type and rank are.

    Raises:
        DataError: of another kind or rank, not finite, or integers that do not fit.
    """
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
        is_mask = np.isin(cast, (0, -np.inf)).all()
        cure = "let the model take a mask of booleans" if is_mask else "remove the sample or repair the preprocessing"
        raise DataError("data has NaN or Inf", where, cure)
    if wanted != array.dtype and wanted.kind in "iu" and not np.array_equal(cast, array):
        raise DataError("data does not fit its integer type", f"{where} ({wanted})", "check the values")
    return cast


def rows_of_item(item: Arrays, inputs: Sequence[Tensor], where: str, *, copied: bool) -> Iterator[tuple[Arrays, bool]]:
    """The samples of an item, and whether they can be joined: its rows, or itself where the first axes do not agree.

    Args:
        copied: a source may fill one buffer again and again while earlier samples are still being run.
    """
    lengths = {array.shape[0] if array.ndim else None for array in item.values()}
    if len(lengths) > 1 and _share_first_dimension(inputs):
        numbers = ", ".join(f"{spec.name} has {len(item[spec.name])}" for spec in inputs)
        raise DataError("inputs with different numbers of samples", f"{where}: {numbers}", "give each as many")
    rows = lengths.pop() if len(lengths) == 1 and len(leading_sizes(inputs)) <= 1 else None
    for spec in inputs:
        _check_shape(item[spec.name], spec, f"{where}, input {spec.name}", skip=0 if rows is None else 1)
    if rows is None:
        yield {name: array.copy() if copied else array for name, array in item.items()}, False
        return
    for row in range(rows):
        slices = {name: array[row : row + 1] for name, array in item.items()}
        yield {name: array.copy() if copied else array for name, array in slices.items()}, True


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


def leading_sizes(inputs: Sequence[Tensor]) -> list[int]:
    """The different fixed sizes of the inputs' first axes, sorted."""
    return sorted({spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)})


def content_hash(arrays: Arrays) -> str:
    """Digest of what is fed: names, dtypes and shapes, then the elements, by sorted name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def digest_of(census: Mapping[str, int]) -> str:
    """Digest of a multiset of samples, given as content hash → multiplicity, whatever its order."""
    return hashlib.blake2b(repr(sorted(census.items())).encode(), digest_size=16).hexdigest()
