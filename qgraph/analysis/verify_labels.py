"""The classes that samples truly have, and how often a model finds them.

Labels are integers, from 0 on, as the model's output counts its classes::

    labels.npy          one integer per sample, in the order of the data
    labels.csv          a line per sample: LABEL, in the order of the data; or FILE,LABEL for a folder of images
    folders             (the word) the folder that an image lies in names its class: a number is the class itself, other
                        names count in their sorted order: cat/1.jpg, cat/2.jpg, dog/1.jpg ─▶ 0, 0, 1
"""

from __future__ import annotations

import csv
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

LabelOf = Callable[[int, str], int]
"""The class of a sample, by its position in the data and the words that name it (an image's path)."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often one output's largest value is at the true class.

    Attributes:
        samples: how many had a label.
        float_top1, quantized_top1: shares of them, of the float and of the quantized model.
        float_top5, quantized_top5: the true class is among the five largest; None with five classes or fewer.
    """

    samples: int
    float_top1: float
    quantized_top1: float
    float_top5: float | None
    quantized_top5: float | None


def read_labels(labels: str | Path, data: object) -> LabelOf:
    """Open labels.

    Args:
        labels: a `.npy` or `.csv` file, or `FOLDERS`.
        data: what the samples are read from; a folder, for `FOLDERS`.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    if str(labels) == FOLDERS:
        return _by_folder(data)
    path = Path(labels)
    if path.suffix.lower() == ".npy":
        return _in_order(_array(path), str(path))
    if path.suffix.lower() == ".csv":
        return _table(path)
    raise DataError("labels of an unknown kind", str(labels), f"give a .npy or .csv file, or the word {FOLDERS}")


def _array(path: Path) -> list[int]:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError("cannot read the labels", f"{path} ({error.strerror or error})", "check the path") from error
    except (ValueError, EOFError) as error:
        raise DataError("cannot read the labels", f"{path}: {error}", "save them with numpy.save") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError("labels must be one integer per sample", str(path), "save an array of one axis, of integers")
    if found.size and found.min() < 0:
        raise DataError("a label below 0", f"{path}: {found.min()}", "count the classes from 0")
    return [int(one) for one in found]


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


def _in_order(labels: Sequence[int], name: str) -> LabelOf:
    def label_of(position: int, _where: str) -> int:
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
    """How often one output of two models was right; sums over samples."""

    samples: int = 0
    classes: int = 0
    found: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic], labels: Sequence[int]) -> None:
        """Count the rows of one feed.

        Args:
            expected, actual: the float and the quantized model's output, of shape (rows, classes).
            labels: one per row.

        Raises:
            DataError: the output has no such class.
        """
        self.classes = expected.shape[-1]
        if labels and max(labels) >= self.classes:
            which = f"{max(labels)} of {self.classes}"
            raise DataError("a label that is no class of the output", which, "count the classes from 0")
        self.samples += len(labels)
        for index, scores in enumerate((expected, actual)):
            order = np.argsort(-scores.astype("float64"), axis=-1, kind="stable")
            right = order == np.asarray(labels)[:, None]
            self.found[2 * index] += int(right[:, :1].sum())
            self.found[2 * index + 1] += int(right[:, :BEST].sum())

    def accuracy(self) -> Accuracy:
        """The shares that the sums give."""
        one, five, quantized_one, quantized_five = (count / max(1, self.samples) for count in self.found)
        if self.classes <= BEST:
            return Accuracy(self.samples, one, quantized_one, None, None)
        return Accuracy(self.samples, one, quantized_one, five, quantized_five)


def rows_of_classes(output: NDArray[np.generic], labels: int) -> NDArray[np.generic] | None:
    """An output as one row of classes per label; None where it is nothing of that kind."""
    sizes = [size for size in output.shape[1:] if size != 1]
    if output.ndim < 2 or output.shape[0] != labels or len(sizes) != 1 or output.dtype.kind not in "f":
        return None
    return output.reshape(labels, sizes[0])
