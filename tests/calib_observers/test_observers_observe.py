"""Observers by name: the catalog, degenerate tensors, and minmax against the one definition of a range's scale."""

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qgraph.calib.observers.catalog import OBSERVERS, entry_of, resolve_parameters
from qgraph.calib.observers.observe import SHIPPED, observe
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, statistics_of
from qgraph.errors import NotFoundError, UsageError
from qgraph.tqc import FLOAT32_TINY, Scheme, scale_and_offset

INT8 = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
SCHEMES = [
    INT8,
    Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127),
    Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
    Scheme(8, signed=False, symmetric=True, quant_min=0, quant_max=255),
    Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, power_of_two=True),
    Scheme(4, signed=True, symmetric=False, quant_min=-8, quant_max=7, power_of_two=True),
    Scheme(2, signed=False, symmetric=False, quant_min=0, quant_max=3),
    Scheme(16, signed=True, symmetric=True, quant_min=-32768, quant_max=32767),
    Scheme(16, signed=False, symmetric=False, quant_min=0, quant_max=65535),
]
FINITE = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)


def test_the_catalog_lists_what_can_be_run_and_auto_which_picks_from_it() -> None:
    assert sorted(OBSERVERS) == sorted([*SHIPPED, "auto"])


def test_auto_picks_only_from_observers_that_exist() -> None:
    auto = entry_of("AUTO")
    assert resolve_parameters(auto)["candidates"] == "minmax,percentile,kl,mse"
    assert resolve_parameters(auto, {"candidates": "KL, precentile,kl"})["candidates"] == "kl,percentile"
    for wrong in ("", " , ", "auto", "mse,auto"):
        with pytest.raises(UsageError, match="not what auto can pick from"):
            resolve_parameters(auto, {"candidates": wrong})
    with pytest.raises(NotFoundError, match="did you mean minmax"):
        resolve_parameters(auto, {"candidates": "minmx"})


def test_the_catalog_loads_no_third_party() -> None:
    program = (
        "import sys; import qgraph.calib.observers.catalog;assert not {'torch', 'numpy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_observer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(NotFoundError, match="did you mean minmax"):
        observe("min_max", [], [])


@pytest.mark.parametrize(("given", "error"), [({"octave": 3}, NotFoundError), ({"octaves": "3"}, UsageError)])
def test_a_parameter_that_cannot_work_is_refused(given: dict[str, str | int], error: type[Exception]) -> None:
    with pytest.raises(error, match="octave"):
        resolve_parameters(entry_of("mse"), given)


def test_parameters_come_back_with_their_defaults() -> None:
    assert dict(resolve_parameters(entry_of("MSE"))) == {"octaves": 24}


@settings(deadline=None, max_examples=200)
@given(st.lists(FINITE, min_size=1, max_size=4), st.sampled_from(SCHEMES))
def test_minmax_is_the_scale_of_the_range_bit_for_bit(values: list[float], scheme: Scheme) -> None:
    if not any(values):
        return
    assert observe("minmax", [statistics_of(values)], [scheme]) == [scale_and_offset(min(values), max(values), scheme)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize(
    "values",
    [
        [np.nan, np.inf, 1.0, -2.0],
        [3e-39, 1.5e-38],
        [np.finfo(np.float32).max / 4, -1.0],
        [1e-45, 5.0],
        [FLOAT32_TINY],
        [0.1] * 7,
        [-1e9, 1e-9],
    ],
    ids=str,
)
def test_scales_are_always_usable(values: list[float], name: str, scheme: Scheme) -> None:
    (found,) = observe(name, [statistics_of(values)], [scheme])
    assert found is not None
    scale, offset = found
    assert FLOAT32_TINY <= scale < math.inf
    assert float(np.float32(scale)) == scale
    assert scheme.quant_min <= offset <= scheme.quant_max


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("values", [[0.0, -0.0], [1e-45, -1e-40, 0.0], [0.0, np.nan]], ids=str)
def test_a_tensor_of_zeros_and_denormals_gets_scale_one(values: list[float], name: str) -> None:
    answers = observe(name, [statistics_of(values)] * 2, SCHEMES[1:3])
    assert answers == [(1.0, -128), (1.0, 0)]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_tensor_without_finite_values_has_no_parameters(name: str) -> None:
    statistics = [EMPTY_STATISTICS, statistics_of([]), statistics_of([np.nan, -np.inf])]
    assert observe(name, statistics, [INT8] * 3) == [None] * 3


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if not scheme.power_of_two], ids=str)
@pytest.mark.parametrize("value", [0.1, -0.7, 3e37, -2e-30])
def test_mse_represents_a_constant_exactly(value: float, scheme: Scheme) -> None:
    exact = float(np.float32(value))
    (found,) = observe("mse", [statistics_of([value] * 5)], [scheme])
    assert found is not None
    steps = min(max(round(exact / found[0]), scheme.quant_min - found[1]), scheme.quant_max - found[1])
    assert steps * found[0] == exact


def test_nonfinite_values_do_not_change_the_scale_of_the_finite_ones() -> None:
    values = np.random.default_rng(0).standard_normal(500)
    dirty = np.concatenate([values, [np.nan, np.inf, -np.inf]])
    for name in sorted(SHIPPED):
        assert observe(name, [statistics_of(dirty)], [INT8]) == observe(name, [statistics_of(values)], [INT8])


def test_a_function_of_the_protocol_can_stand_in_for_a_name() -> None:
    def halves(statistics: object, scheme: Scheme, parameters: object, device: torch.device) -> tuple[Tensor, Tensor]:
        assert isinstance(statistics, Sequence)
        return torch.full((len(statistics),), 0.5), torch.zeros(len(statistics), dtype=torch.int64)

    statistics: list[TensorStatistics] = [statistics_of([1.0]), EMPTY_STATISTICS]
    assert observe(halves, statistics, [INT8, INT8]) == [(0.5, 0), None]


def test_the_callers_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    observe("mse", [statistics_of([1.0, 2.0])], [INT8])
    assert torch.get_num_threads() == before
