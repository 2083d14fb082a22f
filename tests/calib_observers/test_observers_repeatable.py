"""Scales are the same to the last bit, whatever the number of threads and whatever else is solved with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from qgraph.calib.observers import mse
from qgraph.calib.observers.observe import SHIPPED, ScaleAndOffset, observe, observe_all
from qgraph.calib.rows import rows_of
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


@pytest.mark.parametrize("how", SCHEMES, ids=["symmetric", "asymmetric"])
def test_observers_that_are_asked_together_answer_as_each_alone(how: Scheme) -> None:
    rng = np.random.default_rng(1)
    ranked = [rng.standard_normal((50, 10)) * 2.0**k for k in range(4)]
    statistics = [replace(statistics_of(values), rows=(rows_of(values, axis=-1),)) for values in ranked]
    statistics += [*thousand()[:200], statistics_of([0.0]), statistics_of([np.nan])]
    asked = [*sorted(SHIPPED), *sorted(SHIPPED, reverse=True)]
    together = observe_all([(name, None) for name in asked], statistics, [how] * len(statistics))
    assert together == [observe(name, statistics, [how] * len(statistics)) for name in asked]


def test_what_observers_have_in_common_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return best_scale(*arguments)

    best_scale = mse._best_scale
    monkeypatch.setattr(mse, "_best_scale", counted)
    observe_all([("isotone", None), ("mse", None), ("mse", {"octaves": 3})], thousand()[:10], [SCHEMES[0]] * 10)
    assert len(calls) == 2
