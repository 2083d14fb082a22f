"""Scales are the same to the last bit, whatever the number of threads and whatever else is solved with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qgraph.calib.observers.observe import SHIPPED, ScaleAndOffset, observe
from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.tqc import Scheme

SCHEMES = [
    Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127),
    Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
]


def thousand() -> list[TensorStatistics]:
    """Small tensors of many shapes and sizes."""
    rng = np.random.default_rng(5)
    found = []
    for index in range(1000):
        size = 3 + index % 90
        values = rng.standard_normal(size) if index % 2 else rng.standard_exponential(size) ** 3
        found.append(statistics_of(values * 2.0 ** (index % 40 - 20)))
    return found


@pytest.mark.parametrize("how", SCHEMES, ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_group_among_a_thousand_has_the_scale_that_it_has_alone(name: str, how: Scheme) -> None:
    statistics = thousand()
    together = observe(name, statistics, [how] * 1000)
    backwards = observe(name, statistics[::-1], [how] * 1000)[::-1]
    assert together == backwards
    for index in range(0, 1000, 111):
        assert observe(name, [statistics[index]], [how]) == [together[index]]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_one_thread_and_two_give_the_same_scales(name: str) -> None:
    statistics = thousand()[:200]
    before = torch.get_num_threads()
    answers: list[list[ScaleAndOffset | None]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append(observe(name, statistics, [SCHEMES[index % 2] for index in range(200)]))
    finally:
        torch.set_num_threads(before)
    assert answers[0] == answers[1]
