"""Scales are the same to the last bit, whatever the number of threads and whatever else is solved with them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Barrier, Thread, current_thread
from typing import Any

import numpy as np
import pytest
import torch

from qgraph.calib import side_by_side as side_by_side_module
from qgraph.calib.observers import mse
from qgraph.calib.observers import observe as observe_module
from qgraph.calib.observers.minmax import minmax
from qgraph.calib.observers.observe import SHIPPED, ScaleAndOffset, observe, observe_all
from qgraph.calib.rows import rows_of
from qgraph.calib.side_by_side import side_by_side
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


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_batches_side_by_side_give_the_scales_of_one_after_the_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe_module, "HALF_BATCH_EDGES", 1 << 10)
    rng = np.random.default_rng(2)
    ranked = [rng.standard_normal((50, 10)) * 2.0**k for k in range(4)]
    statistics = [replace(statistics_of(values), rows=(rows_of(values, axis=-1),)) for values in ranked]
    statistics += thousand()[:200]
    schemes = [SCHEMES[index % 2] for index in range(len(statistics))]
    apart = observe(name, statistics, schemes)
    alone = partial(observe, name, statistics, schemes)
    assert side_by_side(lambda ask: ask(), [alone, alone]) == [apart, apart]  # each has but its own thread there
    monkeypatch.setattr(side_by_side_module, "AT_A_TIME", 5)
    assert observe(name, statistics, schemes) == apart


def test_shipped_observers_take_batches_side_by_side_with_one_thread_of_torch_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe_module, "HALF_BATCH_EDGES", 1 << 10)
    both = Barrier(2, timeout=60)
    seen: list[tuple[Thread, int]] = []

    def met(*arguments: Any) -> Any:
        if len(seen) < 2:
            seen.append((current_thread(), torch.get_num_threads()))
            both.wait()  # which nobody passes who is alone
        return minmax(*arguments)

    monkeypatch.setattr(observe_module, "SHIPPED", {"minmax": met})
    before = torch.get_num_threads()
    observe("minmax", thousand()[:50], [SCHEMES[0]] * 50)
    assert len({thread for thread, _ in seen}) == 2
    assert [threads for _, threads in seen] == [1, 1]
    assert torch.get_num_threads() == before


def test_a_users_own_observer_is_called_in_the_callers_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_module, "BATCH_EDGES", 1 << 10)
    callers = []

    def own(*arguments: Any) -> Any:
        callers.append(current_thread())
        return minmax(*arguments)

    observe_all([("mse", None), (own, None)], thousand()[:50], [SCHEMES[0]] * 50)
    assert len(callers) > 1
    assert set(callers) == {current_thread()}


def test_what_an_observer_raises_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_module, "HALF_BATCH_EDGES", 1 << 10)

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(observe_module, "SHIPPED", {"minmax": broken})
    with pytest.raises(KeyboardInterrupt):
        observe("minmax", thousand()[:50], [SCHEMES[0]] * 50)
