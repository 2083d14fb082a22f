"""A file has its name once it is complete, or not at all, whatever ends its writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgraph.errors import ExportError
from qgraph.formats.whole_file import folder_beside, whole_file


def test_a_file_that_is_there_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "overrides.toml"
    path.write_text("old")
    with whole_file(path, "the overrides") as file:
        file.write_text("new")
        assert path.read_text() == "old"
        assert file.suffix == ".toml"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    writing = whole_file(tmp_path / "plot.svg", "the plot")
    writing.__enter__().write_text("half")
    full = OSError(28, "No space left on device")
    with pytest.raises(ExportError, match="No space left"):
        writing.__exit__(OSError, full, None)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write the plot"), whole_file(tmp_path / "no" / "x.svg", "the plot"):
        pass


def test_a_signal_right_after_the_folder_was_made_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def make_and_end(folder: Path, mode: int = 0o777) -> None:
        make(folder, mode)
        raise SystemExit

    monkeypatch.setattr(Path, "mkdir", make_and_end)
    with pytest.raises(SystemExit), folder_beside(tmp_path / "golden"):
        pass
    assert list(tmp_path.iterdir()) == []
