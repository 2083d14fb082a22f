"""Constants are looked at in pieces, and give what they would give whole."""

from __future__ import annotations

import numpy as np
import pytest

from qgraph.calib import constants
from qgraph.calib.constants import constant_statistics
from qgraph.calib.statistics import same_statistics, statistics_of


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 11), (2, 3, 40)])
def test_pieces_of_a_constant_give_the_statistics_of_the_whole(
    shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "PIECE", 10)
    values = np.random.default_rng(0).standard_normal(shape).round(1).astype(dtype)
    found = constant_statistics(values)
    assert same_statistics(found, statistics_of(values))
    assert found.samples == 1
