"""The classes that samples truly have, and how often a model finds them.

Labels are integers, from 0 on, as the model's output counts its classes::

    labels.npy          one integer per sample, in the order of the data; or a mask per sample: one for each pixel (or
                        place of a sequence) of the output; an array in memory is the same
    labels.csv          a line per sample: LABEL, in the order of the data; or FILE,LABEL for a folder of images
    folders             (the word) the folder that an image lies in names its class: a number is the class itself, other
                        names count in their sorted order: cat/1.jpg, cat/2.jpg, dog/1.jpg ─▶ 0, 0, 1
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import DataError

FOLDERS = "folders"
"""Stands for labels that are the names of the images' folders."""

BEST = 5
"""How many classes are looked at for the accuracy that is known as top-5."""

VOID = 255
"""In a mask, a pixel that counts nowhere, as it is written by Pascal VOC and Cityscapes; but a class of an output with
so many."""

Label = int | NDArray[np.integer]
"""The class of a sample, or a mask: that of each of its pixels."""

LabelOf = Callable[[int, str], Label]
"""The label of a sample, by its position in the data and the words that name it (an image's path)."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often one output's largest value is at the true class.

    Attributes:
        samples: how many had a label; with masks, how many pixels.
        float_top1, quantized_top1: shares of them, of the float and of the quantized model.
        float_top5, quantized_top5: the true class is among the five largest; None with five classes or fewer.
        float_iou, quantized_iou: mean intersection over union, of all pixels together, over the classes that the masks
            hold; None without masks.
    """

    samples: int
    float_top1: float
    quantized_top1: float
    float_top5: float | None
    quantized_top5: float | None
    float_iou: float | None = None
    quantized_iou: float | None = None


def read_labels(labels: object, data: object) -> LabelOf:
    """Open labels.

    Args:
        labels: a `.npy` or `.csv` file, or `FOLDERS`; or an array of integers, as such a `.npy` holds.
        data: what the samples are read from; a folder, for `FOLDERS`.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    if not isinstance(labels, str | Path):
        return _in_order(_checked(_as_array(labels), "labels"), "labels")
    if str(labels) == FOLDERS:
        return _by_folder(data)
    path = Path(labels)
    if path.suffix.lower() == ".npy":
        return _in_order(_array(path), str(path))
    if path.suffix.lower() == ".csv":
        return _table(path)
    raise DataError("labels of an unknown kind", str(labels), f"give a .npy or .csv file, or the word {FOLDERS}")


def _as_array(labels: object) -> NDArray[np.generic]:
    try:
        return np.asarray(labels)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths; tensors on a device
        raise DataError("labels that numpy makes no array of", str(error), "give an array of integers") from error


def _array(path: Path) -> Sequence[Label]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError("cannot read the labels", f"{path} ({error.strerror or error})", "check the path") from error
    except (ValueError, EOFError) as error:
        raise DataError("cannot read the labels", f"{path}: {error}", "save them with numpy.save") from error
    return _checked(found, str(path))


def _checked(found: object, name: str) -> Sequence[Label]:
    """The labels in an array, or masks where it has more than one axis; what they are read from is called `name`."""
    if not isinstance(found, np.ndarray) or not found.ndim or found.dtype.kind not in "iu":
        raise DataError("labels must be one integer, or a mask of them, per sample", name, "give an array of integers")
    if found.size and found.min() < 0:
        cure = "count the classes from 0" if found.ndim == 1 else f"count the classes from 0; {VOID} is no class"
        raise DataError("a label below 0", f"{name}: {found.min()}", cure)
    return [int(one) for one in found] if found.ndim == 1 else list(found)


def _table(path: Path) -> LabelOf:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            "cannot read the labels", f"{path} ({reason})", "give a file of comma-separated text"
        ) from error
    if rows and not _is_class(rows[0][-1]):
        rows = rows[1:]  # names of the columns
    for row in rows:
        if len(row) > 2 or len(row) != len(rows[0]) or not _is_class(row[-1]):
            raise DataError("a line that is no label", f"{path}: {','.join(row)}", "write LABEL or FILE,LABEL")
    if rows and len(rows[0]) == 1:
        return _in_order([int(row[0]) for row in rows], str(path))
    return _by_file({PurePath(file).parts: int(label) for file, label in rows}, str(path))


def _is_class(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _in_order(labels: Sequence[Label], name: str) -> LabelOf:
    def label_of(position: int, _where: str) -> Label:
        if position >= len(labels):
            raise DataError("fewer labels than samples", f"{name}: {len(labels)}", "give one for each sample")
        return labels[position]

    return label_of


def refuse_left_over(label_of: LabelOf, samples: int) -> None:
    """Refuse labels in order that go on behind the last sample: some may belong to others than they were taken for.

    Raises:
        DataError: there are more labels than samples.
    """
    try:
        label_of(samples, "")
    except DataError:
        return
    which = f"{samples} samples were used; an image that was left out has none"
    raise DataError("more labels than samples", which, "give one for each sample, or FILE,LABEL in a .csv")


def _by_file(labels: Mapping[tuple[str, ...], int], name: str) -> LabelOf:
    def label_of(_position: int, where: str) -> int:
        parts = PurePath(where).parts
        for start in range(len(parts)):
            if parts[start:] in labels:
                return labels[parts[start:]]
        raise DataError("a sample without a label", where, f"add its file to {name}")

    return label_of


def _by_folder(data: object) -> LabelOf:
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        raise DataError("no folders that name classes", str(data), "give a folder with a folder of images per class")
    names = sorted(entry.name for entry in Path(data).iterdir() if entry.is_dir() and not entry.name.startswith("."))
    are_numbers = all(_is_class(name) for name in names)
    classes = {name: int(name) if are_numbers else index for index, name in enumerate(names)}

    def label_of(_position: int, where: str) -> int:
        try:
            inside = PurePath(where).relative_to(data).parts
        except ValueError:
            inside = ()
        if len(inside) < 2:
            raise DataError("an image that lies in no class's folder", where, "move it, or give a file of labels")
        return classes[inside[0]]

    return label_of


@dataclass
class Hits:
    """How often one output of two models was right; sums over labels.

    Attributes:
        crossed: by model, how many labels of each class (row) were found to be of each class (column); None without
            masks.
    """

    samples: int = 0
    classes: int = 0
    found: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    crossed: NDArray[np.int64] | None = None

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic], labels: NDArray[np.integer]) -> None:
        """Count one feed.

        Args:
            expected, actual: the float and the quantized model's output, of shape (labels, classes).
            labels: of shape (samples,), or masks of shape (samples, places...).

        Raises:
            DataError: the output has no such class.
        """
        self.classes = expected.shape[-1]
        masks, true = labels.ndim > 1, labels.reshape(-1).astype("int64")
        if masks and self.classes <= VOID:
            counted = true != VOID
            expected, actual, true = expected[counted], actual[counted], true[counted]
        if true.size and true.max() >= self.classes:
            which = f"{true.max()} of {self.classes}"
            raise DataError("a label that is no class of the output", which, "count the classes from 0")
        self.samples += true.size
        for index, scores in enumerate((expected, actual)):
            places = _places(scores, true)
            self.found[2 * index] += int((places == 0).sum())
            self.found[2 * index + 1] += int((places < BEST).sum())
        if masks:
            pairs = [true * self.classes + _scores(one).argmax(axis=-1) for one in (expected, actual)]
            counts = np.stack([np.bincount(one, minlength=self.classes**2) for one in pairs])
            self.crossed = counts if self.crossed is None else self.crossed + counts

    def accuracy(self) -> Accuracy:
        """The shares that the sums give."""
        one, five, quantized_one, quantized_five = (count / max(1, self.samples) for count in self.found)
        iou = (None, None) if self.crossed is None else tuple(_mean_iou(counts) for counts in self.crossed)
        if self.classes <= BEST:
            return Accuracy(self.samples, one, quantized_one, None, None, *iou)
        return Accuracy(self.samples, one, quantized_one, five, quantized_five, *iou)


def _scores(scores: NDArray[np.generic]) -> NDArray[np.float64]:
    """Scores in which NaN is the least."""
    wide = scores.astype("float64")
    return np.where(np.isnan(wide), -np.inf, wide)


def _places(scores: NDArray[np.generic], true: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which place each row's true class takes, 0 for the largest; the first of equal ones is before the others.

    >>> _places(np.array([[1.0, 3.0, 3.0], [5.0, 0.0, 2.0]]), np.array([2, 0]))
    array([1, 0])
    """
    wide = _scores(scores)
    own = np.take_along_axis(wide, true[:, None], axis=-1)
    before = (wide > own) | ((wide == own) & (np.arange(wide.shape[-1]) < true[:, None]))
    places: NDArray[np.int64] = before.sum(axis=-1)
    return places


def _mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean intersection over union over the classes that are truly there.

    >>> _mean_iou(np.array([3, 1, 0, 0, 2, 0, 0, 0, 0]))  # 3 / 4 and 2 / 3
    0.7083333333333333
    """
    classes = math.isqrt(counts.size)
    crossed = counts.reshape(classes, classes)
    true, both = crossed.sum(axis=1), crossed.diagonal()
    there = true > 0
    return float((both[there] / (true + crossed.sum(axis=0) - both)[there]).mean()) if there.any() else 0.0


def rows_of_classes(output: NDArray[np.generic], labels: tuple[int, ...]) -> NDArray[np.generic] | None:
    """An output as one row of classes per label; None where it is nothing of that kind.

    Args:
        output: of shape (samples, classes), among axes of 1; with masks (samples, classes, places...), as torch has it,
            or (samples, places..., classes).
        labels: their shape.
    """
    if output.ndim < 2 or output.shape[0] != labels[0] or output.dtype.kind not in "f":
        return None
    if len(labels) > 1:
        fitting = [axis for axis in (1, -1) if np.moveaxis(output, axis, -1).shape[:-1] == labels]
        rows = np.moveaxis(output, fitting[0], -1) if fitting else None
        return rows.reshape(-1, rows.shape[-1]) if rows is not None and rows.shape[-1] > 1 else None
    sizes = [size for size in output.shape[1:] if size != 1]
    return output.reshape(labels[0], sizes[0]) if len(sizes) == 1 else None
