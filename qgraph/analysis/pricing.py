"""What a change to a tensor's parameters costs, from the statistics of a calibration of the same network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from qgraph.analysis.parameters import Parameters, limits, width
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme

if TYPE_CHECKING:
    from qgraph.solve.noise import Quantizer


class Prices(Protocol):
    """Prices in dB: by how much the noise of a tensor grows; None where it is not known."""

    def parameters(self, changes: Sequence[tuple[Parameters, Parameters]]) -> list[float | None]:
        """Of making a tensor with the second parameters instead of the first, for each of several."""
        ...

    def requantize(self, made: Parameters, read: Parameters) -> float | None:
        """Of reading a tensor with other parameters than it is made with."""
        ...


class _NoPrices:
    def parameters(self, changes: Sequence[tuple[Parameters, Parameters]]) -> list[float | None]:
        return [None] * len(changes)

    def requantize(self, made: Parameters, read: Parameters) -> float | None:  # noqa: ARG002
        return None


NO_PRICES: Prices = _NoPrices()
"""Where there are no statistics."""


class StoredPrices:
    """Prices from statistics by tensor name; each is computed once."""

    def __init__(self, statistics: Mapping[str, TensorStatistics]) -> None:
        self._statistics = statistics
        self._noise: dict[Parameters, float | None] = {}
        self._second: dict[tuple[Parameters, Parameters], float | None] = {}

    @property
    def tensors(self) -> frozenset[str]:
        """The tensors that can be priced."""
        return frozenset(self._statistics)

    def parameters(self, changes: Sequence[tuple[Parameters, Parameters]]) -> list[float | None]:
        """See `Prices`."""
        from qgraph.solve.noise import noise_db  # loads torch, which a check without statistics can do without

        wanted = dict.fromkeys(entry for pair in changes for entry in pair if entry not in self._noise)
        known = [entry for entry in wanted if self._can_price(entry)]
        self._noise |= dict.fromkeys(wanted)
        noises = noise_db([self._statistics[entry.name] for entry in known], [_quantizer(entry) for entry in known])
        self._noise |= dict(zip(known, noises, strict=True))
        return [_difference(self._noise[to], self._noise[was]) for was, to in changes]

    def requantize(self, made: Parameters, read: Parameters) -> float | None:
        """See `Prices`."""
        from qgraph.solve.noise import requantize_price_db  # loads torch

        if not (self._can_price(made) and self._can_price(read)):
            return None
        if (made, read) not in self._second:
            statistics = [self._statistics[made.name]]
            (price,) = requantize_price_db(statistics, [_quantizer(made)], [_quantizer(read)])
            self._second[made, read] = price
        return self._second[made, read]

    def _can_price(self, entry: Parameters) -> bool:
        return entry.name in self._statistics and len(entry.scale) == 1 and 2 <= width(entry.dtype) <= 16


def _quantizer(entry: Parameters) -> Quantizer:
    from qgraph.solve.noise import Quantizer  # loads torch

    low, high = limits(entry.dtype)
    scheme = Scheme(width(entry.dtype), low < 0, symmetric=False, quant_min=low, quant_max=high)
    return Quantizer(entry.scale[0], entry.offset[0], scheme)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
