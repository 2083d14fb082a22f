"""What the observers' page says: its examples run, and its table is the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qgraph
from qgraph.calib.observers.catalog import OBSERVERS
from qgraph.calib.observers.registry import REGISTRY, own_statistics
from qgraph.tqc import DEGENERATE

PAGE = (Path(__file__).parents[2] / "docs" / "observers.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for one in list(REGISTRY):
        REGISTRY.remove(one.entry.name)


def test_the_examples_run(calibrated: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path) -> None:
    first, second, third = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(first, names)
    with qgraph.open(calibrated) as database:
        names["calibration"] = database.calibration("c1")
        exec(second, names)
        assert names["run"].show()["settings"]["observer_parameters"] == {"sigmas": 4.0}
        assert set(names["mixed"].show()["observers"]) <= {"spread", "mse"}
    exec(third, names)
    assert [own.name for own in own_statistics()] == ["octaves"]
    with qgraph.open(tmp_path / "q.db") as database:
        run = database.calibrate(ppocr4_det, ocr_photos, steps=1).solve(target="tflite", observer="share")
        minmax = database.calibration("c1").solve(target="tflite", observer="minmax")
        scales = [one.scales()["tensors"]["x"]["scale"] for one in (run, minmax)]
        assert 0 < scales[0] <= scales[1]


def test_the_table_lists_every_observer_with_its_parameters() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE, re.MULTILINE))
    assert set(OBSERVERS) <= set(listed)
    for name, entry in OBSERVERS.items():
        assert re.findall(r"`(\w+)` =", listed[name]) == sorted(entry.parameters)


def test_every_degenerate_state_has_a_policy() -> None:
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE)) == {state.value for state in DEGENERATE}
