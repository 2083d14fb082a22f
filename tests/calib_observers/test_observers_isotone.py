"""Rows that isotone says are in order are in order, and no other scale keeps more; checked on raw rows."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph.calib.observers.observe import observe
from qgraph.calib.observers.order import kept_of
from qgraph.calib.rows import rows_of
from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.tqc import Scheme

Rows = NDArray[np.float32]


def schemes() -> Iterator[Scheme]:
    for bits in (4, 8):
        for signed in (True, False):
            low = -(1 << (bits - 1)) if signed else 0
            for symmetric in (True, False):
                for power in (True, False):
                    yield Scheme(bits, signed, symmetric, low, low + (1 << bits) - 1, power_of_two=power)


def logits(kind: str, rows: int = 50) -> Rows:
    draw = np.random.default_rng(5)
    found = {
        "normal": draw.normal(size=(rows, 10)) * 3,
        "skewed": np.exp(2 * draw.normal(size=(rows, 12))),
        "negative": -np.abs(draw.normal(size=(rows, 5))) - 2,
        "close": draw.normal(size=(rows, 60)),
    }[kind]
    return found.astype(np.float32)


def ranked(values: Rows) -> TensorStatistics:
    return replace(statistics_of(values), rows=(rows_of(values, -1),))


def two_largest(values: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    second, largest = np.sort(values, axis=1)[:, -2:].T.astype(np.float64)
    return second, largest


def in_order(values: Rows, scale: float, offset: int, scheme: Scheme) -> int:
    """Rows whose largest element is strictly the largest once they are quantized in float32."""
    quantized = np.round(values / np.float32(scale)) + np.float32(offset)
    second, largest = np.sort(quantized.clip(scheme.quant_min, scheme.quant_max), axis=1)[:, -2:].T
    return int((largest > second).sum())


def most_guaranteed(values: Rows, scheme: Scheme) -> int:
    """By brute force: the most rows that satisfy the guarantee at one scale and offset."""
    second, largest = two_largest(values)
    gap = largest - second
    scales = np.concatenate([gap[gap > 0] * (1 - 1e-9), np.abs(values).max() / np.geomspace(2, 600, 60)])
    scales = 2.0 ** np.unique(np.floor(np.log2(scales))) if scheme.power_of_two else scales
    offsets = [scheme.symmetric_offset] if scheme.symmetric else range(scheme.quant_min, scheme.quant_max + 1, 3)
    return max(
        int(
            (
                (scale < gap)
                & (np.round(second / scale) + offset < scheme.quant_max)
                & (np.round(largest / scale) + offset > scheme.quant_min)
            ).sum()
        )
        for scale in scales
        for offset in offsets
    )


@pytest.mark.parametrize("kind", ["normal", "skewed", "negative", "close"])
@pytest.mark.parametrize("scheme", list(schemes()), ids=str)
def test_isotone_keeps_the_most_rows_and_what_it_promises(kind: str, scheme: Scheme) -> None:
    values = logits(kind)
    (answer,) = observe("isotone", [ranked(values)], [scheme])
    assert answer is not None
    kept, total = kept_of(ranked(values).rows, *answer, scheme)
    assert total == len(values)
    assert in_order(values, *answer, scheme) >= kept
    # A gap within 1.6 % of the best scale may lie in the bin that the scale is in.
    assert kept >= most_guaranteed(values, scheme) - 2


def test_where_every_row_is_kept_the_squared_error_decides() -> None:
    values = logits("normal")
    values[np.arange(len(values)), values.argmax(axis=1)] += 5
    scheme = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
    assert observe("isotone", [ranked(values)], [scheme]) == observe("mse", [ranked(values)], [scheme])


def test_where_nothing_is_ranked_isotone_is_mse() -> None:
    scheme = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    statistics = statistics_of(logits("skewed"))
    assert observe("isotone", [statistics], [scheme]) == observe("mse", [statistics], [scheme])


def test_an_answer_does_not_depend_on_the_batch() -> None:
    scheme = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    batch = [ranked(logits(kind)) for kind in ("normal", "close", "skewed")]
    alone = [observe("isotone", [one], [scheme])[0] for one in batch]
    assert observe("isotone", batch, [scheme] * 3) == alone
