"""Uniting ranges widens nothing that needs no widening."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.solve.unite import rendering_scheme, unite
from qgraph.tqc import Scheme, to_float32

FULL = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
POWER = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127, power_of_two=True)
UNSIGNED = Scheme(8, signed=False, symmetric=True, quant_min=0, quant_max=255)
ASYMMETRIC = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
ASYMMETRIC_POWER = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127, power_of_two=True)
WIDE = Scheme(16, signed=False, symmetric=False, quant_min=0, quant_max=65535)

scales = st.floats(2.0**-100, 2.0**100, width=32)


@pytest.mark.parametrize("scheme", [FULL, POWER, UNSIGNED])
def test_the_larger_symmetric_scale_holds_both(scheme: Scheme) -> None:
    offset = scheme.symmetric_offset
    assert unite([(0.0625, offset), (0.25, offset), (0.125, offset)], scheme) == (0.25, offset)


@pytest.mark.parametrize("scheme", [FULL, POWER])
def test_equal_symmetric_scales_stay_however_often_they_are_united(scheme: Scheme) -> None:
    united = (0.0625, 0)
    for _ in range(5):
        united = unite([united, (0.0625, 0), united], scheme)
    assert united == (0.0625, 0)


@given(scales, st.integers(-128, 127), st.integers(1, 4))
def test_an_asymmetric_range_united_with_itself_stays(scale: float, offset: int, times: int) -> None:
    assert unite([(scale, offset)] * times, ASYMMETRIC) == (scale, offset)


@given(scales, st.integers(0, 65535))
def test_a_wide_range_united_with_itself_stays(scale: float, offset: int) -> None:
    assert unite([(scale, offset)] * 2, WIDE) == (scale, offset)


@given(st.lists(st.tuples(scales, st.integers(-128, 127)), min_size=1, max_size=4))
def test_a_union_holds_every_range_in_any_order(quantizers: list[tuple[float, int]]) -> None:
    answers = {unite(list(order), ASYMMETRIC) for order in permutations(quantizers)}
    ((scale, offset),) = answers
    for own, zero in quantizers:
        assert scale * (-128 - offset) <= own * (-128 - zero) + scale
        assert scale * (127 - offset) >= own * (127 - zero) - scale


def test_an_asymmetric_union_is_rounded_to_a_power_of_two_once() -> None:
    assert rendering_scheme(ASYMMETRIC_POWER) == ASYMMETRIC
    assert rendering_scheme(POWER) == POWER
    alone = [(to_float32(0.51 / 255), 127), (to_float32(0.45 / 255), -128)]
    # [-0.51, 0] and [0, 0.45] make 0.96, which fits 255 / 256; each rounded up by itself they would make 2 * 255 / 256.
    assert unite(alone, ASYMMETRIC_POWER) == (1 / 256, 3)
    assert unite([(1 / 256, 127), (1 / 512, -128)], ASYMMETRIC_POWER)[0] == 1 / 128
