"""An encoding says what a slot's config says, and constants become the integers that it means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulation import BIAS, INT8, UINT8, weight

from qgraph.errors import ExportError
from qgraph.formats import encoding as encodings
from qgraph.formats.encoding import Encoding, encoding_of, quantize
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

S = QuantizationState


def encoding(scheme: Scheme, scale: tuple[float, ...], offset: int = 0) -> Encoding:
    record = TqcRecord("Op:in:0", "t", "activation", S.ACTIVATED, scheme, scale, (offset,) * len(scale))
    found = encoding_of(record)
    assert found is not None
    return found


@pytest.mark.parametrize("state", [S.ACTIVATED, S.SLAVE, S.FIXED, S.PASSIVE, S.CONSTANT, S.ALL_ZERO, S.NONFINITE])
def test_every_state_with_a_scale_has_an_encoding(state: QuantizationState) -> None:
    record = TqcRecord("Op:in:0", "t", "activation", state, UINT8, (0.5,), (3,))
    assert encoding_of(record) == Encoding("uint8", 0, 255, None, (0.5,), (3,))


@pytest.mark.parametrize(
    "record",
    [
        TqcRecord("Op:in:0", "t", "activation", S.FP32, UINT8, (0.5,), (3,)),
        TqcRecord("Op:in:0", "t", "activation", S.NEVER_RUN, UINT8),
        TqcRecord("Op:in:0", "t", "activation", S.INITIAL, UINT8),
    ],
    ids=["float", "never run", "not solved"],
)
def test_what_is_float_or_has_no_scale_has_none(record: TqcRecord) -> None:
    assert encoding_of(record) is None


def test_several_scales_without_an_axis_are_refused() -> None:
    with pytest.raises(ExportError, match="Op:in:0 with 2 scales"):
        encoding(UINT8, (0.5, 0.25))


def test_constants_round_half_to_even_and_saturate() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, 300, -300, math.inf, -math.inf], "f")
    assert quantize(values, encoding(INT8, (1.0,)), "k").tolist() == [0, 2, 2, 0, 127, -128, 127, -128]
    assert quantize(values, encoding(UINT8, (1.0,), 7), "k").tolist() == [7, 9, 9, 7, 255, 0, 255, 0]


def test_constants_stay_inside_the_range_of_the_scheme_not_only_of_its_type() -> None:
    assert quantize(np.array([-9.0, 9.0], "f"), encoding(weight(None), (0.01,)), "w").tolist() == [-127, 127]


def test_a_constant_that_is_too_large_for_the_quotient_saturates() -> None:
    assert quantize(np.array([3e38], "f"), encoding(INT8, (1e-10,)), "k").tolist() == [127]


def test_channels_have_their_own_scales_also_on_an_axis_counted_from_the_end() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]], "f")
    assert quantize(values, encoding(weight(0), (1.0, 0.5)), "w").tolist() == [[1, 2], [6, 8]]
    assert quantize(values, encoding(weight(-1), (1.0, 0.5)), "w").tolist() == [[1, 4], [3, 8]]


def test_bias_integers_beyond_float32_are_exact() -> None:
    assert quantize(np.array([1e8], "f"), encoding(BIAS, (3.0,)), "b").tolist() == [33333333]


def test_weights_are_the_integers_that_a_float32_runtime_makes() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 100_000).astype("f")
    scale = np.float32(1 / 127)
    expected = np.clip(np.rint(values / scale), -127, 127)
    np.testing.assert_array_equal(quantize(values, encoding(weight(None), (float(scale),)), "w"), expected)


def test_nan_in_a_constant_is_refused() -> None:
    with pytest.raises(ExportError, match="a constant holds NaN: k"):
        quantize(np.array([math.nan], "f"), encoding(INT8, (1.0,)), "k")


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_the_constant_does_not_have_is_refused(axis: int) -> None:
    with pytest.raises(ExportError, match="do not fit the channels"):
        quantize(np.ones((2, 2), "f"), encoding(weight(axis), (1.0, 1.0)), "w")


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 4, 3), (1, 1, 3), (7, 1, 1), (0, 4, 3)])
def test_a_large_constant_is_quantized_in_slabs_as_in_one(
    shape: tuple[int, ...], axis: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    scheme = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=axis)
    scale = tuple(0.01 * (k + 1) for k in range(1 if axis is None else shape[axis]))
    record = TqcRecord("Op:in:1", "w", "weight", S.ACTIVATED, scheme, scale, (0,) * len(scale))
    code = encoding_of(record)
    assert code is not None
    whole = quantize(values, code, "w")
    monkeypatch.setattr(encodings, "SLAB", 4)
    np.testing.assert_array_equal(quantize(values, code, "w"), whole)
    steps = np.array(scale).reshape([-1 if one == axis else 1 for one in range(3)])
    np.testing.assert_allclose(
        whole * steps, np.clip(values, -127 * steps, 127 * steps), atol=0.51 * steps.max(initial=1)
    )
