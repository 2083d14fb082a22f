"""Ranges become scales and offsets; configs move along the table of transitions."""

import itertools
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.errors import TransitionError, UsageError
from qgraph.tqc import (
    FLOAT32_TINY,
    TRANSITIONS,
    QuantizationState,
    Scheme,
    TensorQuantizationConfig,
    scale_and_offset,
    to_float32,
)

INT8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
UINT8 = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
WEIGHT = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    bits = draw(st.integers(2, 16))
    signed = draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    reduced = draw(st.booleans()) and signed
    return Scheme(
        bits,
        signed=signed,
        symmetric=draw(st.booleans()),
        quant_min=low + reduced,
        quant_max=low + (1 << bits) - 1,
        power_of_two=draw(st.booleans()),
    )


@given(schemes(), finite, finite)
def test_the_quantized_range_covers_the_real_one_to_within_half_a_step(scheme: Scheme, a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, offset = scale_and_offset(min(a, b), max(a, b), scheme)
    assert scheme.quant_min <= offset <= scheme.quant_max
    if FLOAT32_TINY < scale < 2.0**127:
        assert (scheme.quant_min - offset) * scale <= low + scale * 0.500001
        assert (scheme.quant_max - offset) * scale >= high - scale * 0.500001


@given(schemes(), finite, finite)
def test_a_scale_is_a_positive_normal_float32_and_a_power_of_two_where_asked(
    scheme: Scheme, a: float, b: float
) -> None:
    scale, _ = scale_and_offset(min(a, b), max(a, b), scheme)
    assert scale >= FLOAT32_TINY
    assert scale == to_float32(scale)
    if scheme.power_of_two:
        assert math.frexp(scale)[0] == 0.5


def test_a_power_of_two_rounds_up_and_the_offset_follows_the_final_scale() -> None:
    scheme = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255, power_of_two=True)
    assert scale_and_offset(-1.0, 2.0, scheme) == (1 / 64, 64)


def test_the_offset_of_signed_asymmetric_accounts_for_quant_min() -> None:
    scale, offset = scale_and_offset(-1.0, 1.0, INT8)
    assert (127 - offset) * scale > 0.99
    assert scale_and_offset(0.0, 2.55, UINT8) == (to_float32(0.01), 0)


def test_symmetric_uses_the_reduced_half_range_so_that_nothing_clips() -> None:
    scale, offset = scale_and_offset(-1.27, 0.5, WEIGHT)
    assert (scale, offset) == (to_float32(0.01), 0)


def test_symmetric_unsigned_has_its_offset_in_the_middle() -> None:
    scheme = Scheme(8, signed=False, symmetric=True, quant_min=0, quant_max=255)
    scale, offset = scale_and_offset(-1.0, 1.0, scheme)
    assert offset == 128
    assert (255 - offset) * scale == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (0.0, math.inf), (2.0, 1.0)])
def test_a_range_that_is_none_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="not a finite range"):
        scale_and_offset(*bad, INT8)


def test_a_quantized_range_outside_its_type_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit"):
        Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=128)


def test_float32_rounding_is_that_of_ieee() -> None:
    assert to_float32(0.1) == struct.unpack("<f", struct.pack("<f", 0.1))[0] != 0.1


def config(name: str, scheme: Scheme = INT8) -> TensorQuantizationConfig:
    return TensorQuantizationConfig(name, scheme)


def test_a_slave_reads_its_masters_values_through_any_chain() -> None:
    a, b, c = config("a"), config("b"), config("c")
    a.set_master(master=b)
    b.set_master(master=c)
    c.activate((0.5,), (3,))
    assert (a.state, a.scale, a.offset, a.root, a.master) == (QuantizationState.SLAVE, (0.5,), (3,), c, b)


def test_no_cycle_of_masters_can_be_made() -> None:
    a, b, c = config("a"), config("b"), config("c")
    a.set_master(master=b)
    b.set_master(master=c)
    for master in (a, b, c):
        with pytest.raises(TransitionError, match="cycle"):
            c.set_master(master=master)
    assert c.state == QuantizationState.INITIAL


def test_configs_that_cannot_share_are_both_named() -> None:
    with pytest.raises(TransitionError, match=r"a \(int8.*and b \(uint8"):
        config("a").set_master(master=config("b", UINT8))


def test_a_slave_cannot_be_written_but_can_be_released() -> None:
    a, b = config("a"), config("b")
    b.activate((0.5,), (0,))
    a.set_master(master=b)
    with pytest.raises(TransitionError, match="write to its master b"):
        a.activate((1.0,), (0,))
    a.state = QuantizationState.INITIAL
    a.activate((1.0,), (0,))
    assert (a.scale, b.scale) == ((1.0,), (0.5,))


def reach(state: QuantizationState) -> TensorQuantizationConfig:
    reached = config("a")
    if state == QuantizationState.SLAVE:
        reached.set_master(master=config("m"))
    elif state != QuantizationState.INITIAL:
        reached.state = state
    return reached


@pytest.mark.parametrize(("old", "new"), list(itertools.product(QuantizationState, QuantizationState)))
def test_only_the_transitions_of_the_table_are_possible(old: QuantizationState, new: QuantizationState) -> None:
    moving = reach(old)

    def move() -> None:
        if new == QuantizationState.SLAVE:
            moving.set_master(master=config("other"))
        else:
            moving.state = new

    if new in TRANSITIONS[old]:
        move()
        assert moving.state == new
    else:
        with pytest.raises(TransitionError, match=f"{old} to {new}"):
            move()
        assert moving.state == old


def test_a_config_shows_what_it_is() -> None:
    a, b = TensorQuantizationConfig("a", INT8), TensorQuantizationConfig("b", WEIGHT)
    assert repr(a) == "<TensorQuantizationConfig a: INITIAL, int8 [-128, 127] asymmetric per tensor>"
    b.activate((0.25,), (0,))
    assert repr(b).endswith("b: ACTIVATED, int8 [-127, 127] symmetric per tensor, scale 0.25, offset 0>")
    c = TensorQuantizationConfig("c", WEIGHT)
    c.set_master(master=b)
    assert "c: SLAVE of b" in repr(c)
    assert "scale 0.25" in repr(c)
