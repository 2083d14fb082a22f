"""A folder is listed in one order, whatever the file system says, and holds one kind of data."""

from pathlib import Path

import pytest

from qgraph.calib.data.folder import list_folder
from qgraph.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_found_in_all_folders_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b/2.JPG", "b/1.png", "a/3.webp", "c.tif", "labels.csv")))
    found = list_folder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == [
        "a/3.webp",
        "b/1.png",
        "b/2.JPG",
        "c.tif",
    ]
    assert found.npz == ()
    assert [path.name for path in found.others] == ["labels.csv"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.npz", tmp_path / ".b.npz", tmp_path / ".cache" / "c.npz", tmp_path / "._a.png")
    found = list_folder(tmp_path)
    assert [path.name for path in found.npz] == ["a.npz"]
    assert found.others == ()


def test_linked_files_count_and_linked_folders_lead_nowhere(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.png", tmp_path / "data" / "b.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert [path.name for path in list_folder(tmp_path / "data").images] == ["b.png", "gone.png", "link.png"]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("a.npz", "b.png", "c.png"), "both .npz files and images: .* \\(1 .npz, 2 images\\)"),
        (("notes.txt",), "a folder without data"),
        ((".hidden/a.png",), "a folder without data"),
    ],
)
def test_a_folder_of_both_kinds_or_none_is_one_line(tmp_path: Path, names: tuple[str, ...], line: str) -> None:
    touch(*(tmp_path / name for name in names))
    with pytest.raises(DataError, match=line):
        list_folder(tmp_path)
