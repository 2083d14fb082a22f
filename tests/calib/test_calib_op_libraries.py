"""Libraries of custom ops: what they are known by, and what onnxruntime's refusals become."""

from pathlib import Path

import onnxruntime
import pytest

from qgraph.calib.runners.op_libraries import content_digest, register, unregistered
from qgraph.errors import UsageError


def test_the_digest_is_of_the_contents_only(tmp_path: Path) -> None:
    a, b, again = (tmp_path / name for name in ("a.so", "b.so", "again.so"))
    for path, content in ((a, b"1"), (b, b"2"), (again, b"1")):
        path.write_bytes(content)
    assert content_digest([a]) == content_digest([again]) == content_digest([a, again])
    assert content_digest([a, b]) == content_digest([b, a])
    assert len({content_digest([a]), content_digest([b]), content_digest([a, b])}) == 3


def test_a_missing_library_and_a_folder_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "none.so", tmp_path):
        with pytest.raises(UsageError, match="no such op library"):
            register(onnxruntime.SessionOptions(), [place])
        with pytest.raises(UsageError, match="cannot be read"):
            content_digest([place])


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(UsageError, match="cannot be loaded"):
        register(onnxruntime.SessionOptions(), [tmp_path / "text.so"])


def test_an_unknown_op_is_told_from_other_errors() -> None:
    found = unregistered(RuntimeError("Fatal error: own.ops:Magic(-1) is not a registered function/op"))
    assert found is not None
    assert found.which == "own.ops:Magic"
    assert "--op-library" in found.cure
    assert unregistered(RuntimeError("the model is broken")) is None
