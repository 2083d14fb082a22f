"""The code of docs/from-ppq.md runs, from its first block to its last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qgraph.passes import seed

DOCUMENT = Path(__file__).parents[2] / "docs" / "from-ppq.md"


def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 8
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.qdq.onnx", "scales.json"]
    assert names["worst"] in names["graph"].operations
    assert names["graph"].calibration == "c1"


@pytest.mark.parametrize("name", seed.__all__)
def test_every_name_is_found_in_all_three_places(name: str) -> None:
    import qgraph
    import qgraph.api
    import qgraph.core

    assert getattr(qgraph, name) is getattr(qgraph.api, name) is getattr(qgraph.core, name) is getattr(seed, name)


def test_other_names_are_not() -> None:
    import qgraph.api

    with pytest.raises(AttributeError, match="quantise"):
        _ = qgraph.api.quantise
