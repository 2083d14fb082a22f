"""Whatever holds the data, `calibrate` counts the same samples; what cannot be fed is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import parser
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import qgraph
from qgraph.calib.codec import encode
from qgraph.errors import DataError, QgraphError, UsageError

Float = NDArray[np.float32]

RANDOM = np.random.default_rng(0)
X: Float = RANDOM.normal(size=(7, 3, 4)).astype(np.float32)
IDS = RANDOM.integers(0, 9, (7, 2))


def write_model(folder: Path, batch: str = "n") -> Path:
    """Two inputs: x of floats, ids of integers."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        two (float[{batch}, 3, w] x, int64[{batch}, 2] ids) => (float[{batch}, 3, w] y, float[{batch}, 2] z) {{
            y = Sigmoid (x)
            f = Cast <to: int = 1> (ids)
            z = Relu (f)
        }}
    """
    path = folder / f"two_{batch}.onnx"
    onnx.save(parser.parse_model(text), path)
    return path


def statistics(folder: Path, data: object, batch: str = "n", **options: Any) -> tuple[int, dict[str, bytes]]:
    """Samples counted, and every statistic as bytes. Each call has a database of its own."""
    with TemporaryDirectory(dir=folder) as fresh, qgraph.open(f"{fresh}/qgraph.db") as database:
        done = database.calibrate(write_model(folder, batch), data, **options)
        assert done.inferences == done.samples
        return done.samples, {name: encode(found) for name, found in done.statistics().items()}


def tensors() -> TensorDataset:
    return TensorDataset(torch.from_numpy(X), torch.from_numpy(IDS))


def dictionaries() -> Iterator[dict[str, Any]]:
    for start in range(0, 7, 3):
        yield {"ids": IDS[start : start + 3], "x": X[start : start + 3]}


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """A dataset without a length."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from zip(torch.from_numpy(X), torch.from_numpy(IDS), strict=True)


class Again:
    """An iterable that is neither a sequence nor an iterator."""

    def __iter__(self) -> Iterator[tuple[Float, list[list[int]]]]:
        for x, ids in zip(X, IDS, strict=True):
            yield x[None], [ids.tolist()]


def named(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    x, ids = zip(*rows, strict=True)
    return {"x": torch.stack(x), "ids": torch.stack(ids)}


SOURCES: dict[str, Callable[[], object]] = {
    "dict of arrays": lambda: {"x": X, "ids": IDS},
    "generator of dicts, a short last batch": dictionaries,
    "list of tuples": lambda: [(X[:4], IDS[:4]), (X[4:], IDS[4:])],
    "list of lists of torch tensors": lambda: [[torch.from_numpy(X), torch.from_numpy(IDS)]],
    "tensors that require gradients": lambda: [(torch.from_numpy(X).requires_grad_(), IDS.astype(np.int32))],
    "iterable of nested lists": Again,
    "DataLoader, default collation, a short last batch": lambda: DataLoader(tensors(), batch_size=3),
    "DataLoader with its own collate_fn": lambda: DataLoader(tensors(), batch_size=4, collate_fn=named),
    "DataLoader that shuffles": lambda: DataLoader(tensors(), batch_size=2, shuffle=True),
    "DataLoader without a length": lambda: DataLoader(Stream(), batch_size=3),
    "DataLoader of one sample at a time": lambda: DataLoader(tensors()),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_of_the_same_data_gives_the_same_statistics(tmp_path: Path, source: Callable[[], object]) -> None:
    samples, found = statistics(tmp_path, source())
    assert samples == 7
    assert found == statistics(tmp_path, {"x": X, "ids": IDS})[1]


def test_files_give_them_too_alone_or_split_over_a_folder(tmp_path: Path) -> None:
    expected = statistics(tmp_path, {"x": X, "ids": IDS})
    np.savez(tmp_path / "all.npz", x=X, ids=IDS)
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, rows in enumerate((slice(0, 1), slice(1, 5), slice(5, 7))):
        np.savez(folder / f"{index}.npz", x=X[rows], ids=IDS[rows])
    assert statistics(tmp_path, tmp_path / "all.npz") == expected
    assert statistics(tmp_path, str(folder)) == expected


def test_collate_fn_drops_what_the_model_does_not_take(tmp_path: Path) -> None:
    labelled = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(IDS), torch.arange(7)), batch_size=3)
    found = statistics(tmp_path, labelled, collate_fn=lambda batch: {"x": batch[0], "ids": batch[1]})
    assert found == statistics(tmp_path, {"x": X, "ids": IDS})


def test_shapes_may_vary_between_batches_and_between_files(tmp_path: Path) -> None:
    parts = [(X[:2], IDS[:2]), (X[2:, :, :1], IDS[2:]), (X[:1, :, 1:], IDS[:1])]
    samples, found = statistics(tmp_path, parts)
    assert samples == 8
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, (x, ids) in enumerate(parts):
        np.savez(folder / f"{index}.npz", x=x, ids=ids)
    assert statistics(tmp_path, folder) == (samples, found)


@pytest.mark.parametrize(("batch", "samples"), [("1", 7), ("2", 6), ("3", 6)])
def test_a_fixed_batch_is_filled_from_any_source(tmp_path: Path, batch: str, samples: int) -> None:
    data = [(X[:samples], IDS[:samples])]
    expected = statistics(tmp_path, data)
    assert statistics(tmp_path, data, batch) == expected
    singles = ((X[i : i + 1], IDS[i : i + 1]) for i in range(samples))
    assert statistics(tmp_path, singles, batch) == expected


def test_a_fixed_batch_that_cannot_be_filled_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"batches of 3 only: .* 7 samples .*; use --steps 2"):
        statistics(tmp_path, {"x": X, "ids": IDS}, "3")
    assert statistics(tmp_path, {"x": X, "ids": IDS}, "3", steps=2)[0] == 6


def test_data_that_changes_between_passes_is_refused(tmp_path: Path) -> None:
    class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.rand(3, 4), torch.zeros(2, dtype=torch.int64)

    with pytest.raises(DataError, match="differs between two passes"):
        statistics(tmp_path, DataLoader(Augmented(), batch_size=2))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (X, "an item of 1 arrays for 2 inputs"),
        ([(X, IDS, IDS)], "3 arrays for 2 inputs"),
        ([(X, IDS[:3])], "x has 7, ids has 3"),
        ([{"x": X}], "no data for an input of the model: item 0, input ids"),
        ([{"x": X, "idx": IDS}], "did you mean ids"),
        ([(X[0], IDS[0])], "wrong rank"),
        ([(X[:, :2], IDS)], "wrong shape"),
        ([(IDS, X)], "wrong type"),
        ([("text", IDS)], "not an array of numbers"),
        ([({"x": X}, IDS)], "not an array"),
        ([], "no samples"),
        (iter(()), "no samples"),
        (7, "not calibration data"),
        (None, "not calibration data"),
        (DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=2), "1 arrays for 2 inputs"),
    ],
)
def test_what_cannot_be_fed_is_one_line(tmp_path: Path, data: object, line: str) -> None:
    with pytest.raises(QgraphError, match=line) as found:
        statistics(tmp_path, data)
    assert "\n" not in str(found.value)


def test_collate_fn_for_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="collate_fn for files"):
        statistics(tmp_path, "data.npz", collate_fn=lambda batch: batch)
