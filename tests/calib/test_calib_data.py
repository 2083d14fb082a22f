"""Every kind of data gives the same samples; every kind of broken data gives one line."""

import io
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qgraph.calib.data.samples import Sample
from qgraph.calib.data.source import DataSource, open_data
from qgraph.errors import DataError
from qgraph.ir.elements import Tensor

X = Tensor("x", "float32", ("n", 2, 3))
IDS = Tensor("ids", "int64", ("n", 4))
STATE = Tensor("state", "float32", (2, "n", 5))
RATE = Tensor("rate", "int64", ())
VALUES = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
TOKENS = np.arange(24).reshape(6, 4)


def hashes(source: DataSource) -> list[str]:
    return [sample.hash for sample in source.samples()]


def saved(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(path / "data.npz", allow_pickle=True, **arrays)
    return path / "data.npz"


def open_x(source: object) -> DataSource:
    return open_data(source, [X])


EXPECTED = hashes(open_x([VALUES]))


@pytest.mark.parametrize(
    "source",
    [
        VALUES,
        {"x": VALUES},
        [VALUES[:2], VALUES[2:]],
        ({"x": VALUES[i : i + 1]} for i in range(6)),
        ((VALUES[i : i + 3],) for i in (0, 3)),
        [torch.from_numpy(VALUES).requires_grad_()],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(VALUES)), batch_size=4),
        VALUES.astype(np.float64),
    ],
    ids=["array", "dict", "list", "generator of dicts", "generator of tuples", "torch", "DataLoader", "float64"],
)
def test_all_sources_of_the_same_data_have_the_same_samples(source: object) -> None:
    data = open_x(source)
    assert hashes(data) == EXPECTED
    assert hashes(data) == EXPECTED, "a second pass must be possible"
    data.close()


def members(path: Path, *names: str) -> Path:
    """An archive with the same array under each of the names."""
    member = io.BytesIO()
    np.save(member, VALUES)
    with zipfile.ZipFile(path / "members.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a second member of one name
        for name in names:
            archive.writestr(name, member.getvalue())
    return path / "members.npz"


def test_a_member_without_the_suffix_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    assert hashes(open_x(members(tmp_path, "x"))) == EXPECTED


@pytest.mark.parametrize("names", [("x.npy", "x.npy"), ("x", "x.npy")])
def test_two_members_for_one_input_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="two arrays for one input"):
        list(open_x(members(tmp_path, *names)).samples())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members_are_streamed_row_by_row(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "data.npz", ids=TOKENS.astype(">i4"), x=VALUES)
    samples = list(open_data(tmp_path / "data.npz", [X, IDS]).samples())
    assert len(samples) == 6
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.arrays["x"], VALUES[index : index + 1])
        np.testing.assert_array_equal(sample.arrays["ids"], TOKENS[index : index + 1])
        assert sample.arrays["ids"].dtype == np.dtype(np.int64)
        assert sample.batchable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "big.npz", x=np.zeros((200_000, 2, 3, 8), np.float32))
    wide = Tensor("x", "float32", ("n", 2, 3, 8))
    tracemalloc.start()
    for _ in open_data(tmp_path / "big.npz", [wide]).samples(1000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_one_shot_iterator_is_read_once_and_only_as_far_as_needed() -> None:
    pulled = 0

    def endless() -> Iterator[NDArray[np.float32]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield VALUES[pulled % 6][None]

    source = open_x(endless())
    first = [sample.hash for sample in source.samples(3)]
    assert [sample.hash for sample in source.samples(3)] == first
    assert pulled == 3
    assert [sample.hash for sample in source.samples(4)][:3] == first
    assert pulled == 4
    source.close()


def test_passes_over_a_spooled_iterator_can_be_interleaved() -> None:
    source = open_x(row[None] for row in VALUES)
    a, b = source.samples(), source.samples()
    assert next(a).hash == EXPECTED[0]
    assert [sample.hash for sample in b] == EXPECTED
    assert [sample.hash for sample in a] == EXPECTED[1:]
    source.close()


class OneBuffer:
    """A source that fills one buffer again and again."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        buffer = np.empty((1, 2, 3), np.float32)
        for row in VALUES:
            buffer[0] = row
            yield buffer


def test_samples_do_not_change_when_the_source_goes_on() -> None:
    for index, sample in enumerate(list(open_x(OneBuffer()).samples())):
        np.testing.assert_array_equal(sample.arrays["x"][0], VALUES[index])


def test_a_closed_spool_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_x(row[None] for row in VALUES)
    source.census()
    assert len(list(tmp_path.iterdir())) == 1
    source.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_spooling_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_x(row[None] for row in VALUES)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qgraph.calib.data.spool.npy.write_array", full)
    with pytest.raises(DataError, match=r"cannot be spooled.*No space left"):
        source.census()
    source.close()


def test_an_item_whose_first_axes_disagree_is_one_sample(tmp_path: Path) -> None:
    item = {"x": VALUES[:1], "state": np.zeros((2, 1, 5), np.float32), "rate": np.int64(16000)}
    inputs = [X, STATE, RATE]
    (sample,) = open_data([item], inputs).samples()
    assert not sample.batchable
    assert sample.arrays["state"].shape == (2, 1, 5)
    rows = {"x": VALUES[:1], "state": np.zeros((1, 2, 1, 5), np.float32), "rate": np.array([16000])}
    (from_file,) = open_data(saved(tmp_path, **rows), inputs).samples()
    assert from_file.hash == sample.hash


def test_the_digest_knows_the_samples_but_not_their_order() -> None:
    shuffled = open_x([VALUES[::-1]])
    assert shuffled.digest() == open_x(VALUES).digest()
    assert open_x(VALUES[:5]).digest() != open_x(VALUES).digest()
    assert open_x(np.concatenate([VALUES, VALUES[:1]])).digest() != open_x(VALUES).digest()
    assert open_x(VALUES).digest(5) == open_x(VALUES[:5]).digest()


def test_a_hash_knows_names_dtypes_shapes_and_elements() -> None:
    def hash_of(name: str, dtype: str, array: NDArray[Any]) -> str:
        return hashes(open_data([array], [Tensor(name, dtype, None)]))[0]

    zeros = np.zeros((1, 2, 3), np.float32)
    found = {
        hash_of("x", "float32", zeros),
        hash_of("z", "float32", zeros),
        hash_of("x", "float16", zeros),
        hash_of("x", "float32", zeros.reshape(1, 3, 2)),
        hash_of("x", "float32", zeros + 1),
        hash_of("x", "float32", -zeros),
    }
    assert len(found) == 6


def test_the_fixed_batch_is_that_of_the_inputs() -> None:
    assert open_data([], [Tensor("x", "float32", (4, 3))]).fixed_batch == 4
    assert open_x([]).fixed_batch is None
    assert open_data([], [Tensor("x", "float32", (4, 3)), Tensor("h", "float32", (2, 4))]).fixed_batch is None


def truncated(path: Path) -> Path:
    """A zip whose member is shorter than its header says."""
    buffer = io.BytesIO()
    np.save(buffer, VALUES)
    with zipfile.ZipFile(path / "data.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue()[:-8])
    return path / "data.npz"


def damaged(path: Path) -> Path:
    """A zip with flipped bytes inside the compressed elements."""
    np.savez_compressed(path / "data.npz", x=VALUES)
    data = bytearray((path / "data.npz").read_bytes())
    data[150:160] = bytes(10)
    (path / "data.npz").write_bytes(data)
    return path / "data.npz"


def cut(path: Path) -> Path:
    whole = saved(path, x=VALUES)
    whole.write_bytes(whole.read_bytes()[:-40])
    return whole


def text(path: Path) -> Path:
    (path / "data.npz").write_text("not a zip")
    return path / "data.npz"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path / "missing.npz", "does not exist"),
        (lambda path: path, "folder"),
        (text, "not a readable .npz"),
        (cut, "not a readable .npz"),
        (truncated, "truncated"),
        (damaged, "data.npz"),
        (lambda path: saved(path, x=VALUES, ids=TOKENS[:5]), "x has 6, ids has 5"),
        (lambda path: saved(path, x=VALUES, id=TOKENS), "array id; did you mean ids"),
        (lambda path: saved(path, x=VALUES), "input ids"),
        (lambda path: saved(path, x=VALUES, ids=TOKENS.astype(object)), "not of numbers"),
        (lambda path: saved(path, x=np.asfortranarray(VALUES), ids=TOKENS), "column by column"),
        (lambda path: saved(path, x=np.array(3, np.float32), ids=TOKENS), "no sample axis"),
        (lambda path: saved(path, x=VALUES[:0], ids=TOKENS[:0]), "no samples"),
        (lambda path: saved(path, x=VALUES, ids=TOKENS.astype(float)), "float64, the model takes int64"),
        (lambda path: saved(path, x=VALUES[:, :1], ids=TOKENS), "axis 1 2 long"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, make: Any, line: str) -> None:
    inputs = [X] if make in (text, cut, truncated, damaged) else [X, IDS]
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        open_data(path, inputs).census()
    assert line in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (VALUES[0], "rank: item 0, input x has shape [2, 3], the model takes [n, 2, 3]"),
        (VALUES[:, :, :2], "axis 2 3 long"),
        (VALUES.astype(np.uint8), "uint8, the model takes float32; preprocess"),
        (VALUES * np.nan, "NaN or Inf: item 0, input x"),
        (VALUES.astype(np.float64) * 1e300, "NaN or Inf"),
        (np.where(VALUES > 0, 0, -np.inf), "NaN or Inf: item 0, input x; let the model take a mask of booleans"),
        ({"x": {"a": VALUES}}, "unknown input: item 0, x_a; the model's inputs are x"),
        ((VALUES, np.zeros(6)), "2 arrays for 1 inputs"),
        ({"y": VALUES}, "unknown input: item 0, y"),
        ({}, "no data for an input"),
        ([["a"]], "not an array of numbers"),
        ([object()], "not an array of numbers"),
        ([[[1.0], [1.0, 2.0]]], "not an array"),
    ],
)
def test_a_broken_item_is_one_line_that_names_it(item: object, line: str) -> None:
    with pytest.raises(DataError) as caught:
        open_x([item]).census()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_integers_must_fit_the_type_that_the_model_takes() -> None:
    small = Tensor("ids", "int8", ("n", 4))
    assert len(list(open_data([TOKENS], [small]).samples())) == 6
    with pytest.raises(DataError, match="does not fit its integer type"):
        open_data([TOKENS + 120], [small]).census()


@pytest.mark.parametrize("source", [None, 3, object()])
def test_what_is_no_data_is_refused(source: object) -> None:
    with pytest.raises(DataError, match="not calibration data"):
        open_x(source)


def test_an_input_of_text_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be fed"):
        open_data([], [Tensor("words", "string", ("n",))])


def test_collate_prepares_each_item() -> None:
    labelled = [(row[None], 7) for row in VALUES]
    data = open_data(labelled, [X], collate=lambda item: item[0])
    assert hashes(data) == EXPECTED


def test_samples_are_values() -> None:
    sample = next(open_x(VALUES).samples())
    assert isinstance(sample, Sample)
    assert len(sample.hash) == 32


@pytest.mark.parametrize("leading", [(None, None), ("n", "m"), ("n", "n")])
def test_a_dict_whose_arrays_count_differently_is_refused(leading: tuple[str | None, str | None]) -> None:
    inputs = [Tensor(name, "float32", (first, 4)) for name, first in zip("ab", leading, strict=True)]
    arrays = {"a": np.zeros((8, 4), np.float32), "b": np.zeros((6, 4), np.float32)}
    with pytest.raises(DataError, match="inputs with different numbers of samples: a has 8, b has 6"):
        list(open_data(arrays, inputs).samples())


def test_a_dict_with_a_state_as_the_model_fixes_it_is_one_sample() -> None:
    inputs = [Tensor("x", "float32", ("n", 4)), Tensor("state", "float32", (2, 1, 4))]
    arrays = {"x": np.zeros((3, 4), np.float32), "state": np.zeros((2, 1, 4), np.float32)}
    (sample,) = open_data(arrays, inputs).samples()
    assert {name: array.shape for name, array in sample.arrays.items()} == {"x": (3, 4), "state": (2, 1, 4)}
