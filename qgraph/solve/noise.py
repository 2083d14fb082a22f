"""Noise: what quantization does to a tensor, defined once for every price and damage that is named.

The noise of a quantizer Q on a tensor is Σ count · E[(x − Q(x))²] / Σ count · x² over its stored distribution, in dB
within ±140. It is lower where it is better: −40 dB is a signal-to-noise ratio of 40 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density, batches, densities
from qgraph.calib.observers.error import decibels, error_energy, row_sums, signal_energy
from qgraph.calib.observers.moments import moments_of
from qgraph.calib.observers.threads import one_thread
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A scheme with its scale and offset; the offset is inside the quantized range, so that zero is exact."""

    scale: float
    offset: int
    scheme: Scheme

    @property
    def low(self) -> int:
        """The smallest value that it represents, in steps."""
        return self.scheme.quant_min - self.offset

    @property
    def high(self) -> int:
        """The largest value that it represents, in steps."""
        return self.scheme.quant_max - self.offset


@one_thread()
def noise_db(
    statistics: Sequence[TensorStatistics], quantizers: Sequence[Quantizer], *, device: str = "cpu"
) -> list[float | None]:
    """Noise of each tensor under its quantizer, in dB; None where the tensor has no finite value."""
    answers: list[float | None] = [None] * len(statistics)
    for indices, density in _density_batches(statistics, torch.device(device)):
        noise = _noise(density, [quantizers[index] for index in indices])
        for index, n, s in zip(indices, noise.tolist(), signal_energy(density).tolist(), strict=True):
            answers[index] = decibels(n, s)
    return answers


@one_thread()
def requantize_price_db(
    statistics: Sequence[TensorStatistics],
    producers: Sequence[Quantizer],
    readers: Sequence[Quantizer],
    *,
    device: str = "cpu",
) -> list[float | None]:
    """What quantizing a second time adds to the noise of each tensor, in dB; None where it has no finite value.

    The noise of x → reader(producer(x)) minus that of the producer alone, both against x. Each level x_k of the
    producer holds the values between two of its rounding borders and becomes the level y_k of the reader, so with
    d_k = x_k − y_k the error energy grows by Σ_k (2 d_k · Σ(x − x_k) + d_k² · count) over the values of level k::

        producer  ──┼────x_k────┼──          all x between the borders …
                          ╲ d_k
        reader    ─┼──────┼─y_k──┼─          … end here

    A second quantization may also undo some of the first one's error; the price is then negative.
    """
    answers: list[float | None] = [None] * len(statistics)
    for indices, density in _density_batches(statistics, torch.device(device)):
        first = _noise(density, [producers[index] for index in indices]).tolist()
        signal = signal_energy(density).tolist()
        for row, index in enumerate(indices):
            added = _added_energy(density.rows([row]), producers[index], readers[index])
            twice = max(first[row] + added, 0.0)
            answers[index] = decibels(twice, signal[row]) - decibels(first[row], signal[row])
    return answers


def _density_batches(
    statistics: Sequence[TensorStatistics], device: torch.device
) -> Iterator[tuple[list[int], Density]]:
    """Densities of the tensors with a finite value, in batches, each with the tensors' positions."""
    known = [index for index, one in enumerate(statistics) if one.minimum is not None]
    for batch in batches([statistics[index] for index in known]):
        indices = [known[position] for position in batch]
        yield indices, densities([statistics[index] for index in indices], device)


def _noise(density: Density, quantizers: Sequence[Quantizer]) -> Tensor:
    """Error energy of each density under its quantizer: float64 [n]."""
    table = [(one.scale, one.low, one.high) for one in quantizers]
    scale, low, high = torch.tensor(table, dtype=torch.float64, device=density.edges.device).T[..., None]
    return error_energy(density, scale, low, high)[:, 0]


def _added_energy(density: Density, producer: Quantizer, reader: Quantizer) -> float:
    """What the reader's rounding of the producer's levels adds to the error energy of one density."""
    minimum, maximum = float(density.minimum), float(density.maximum)
    first = max(producer.low, min(producer.high, round(minimum / producer.scale)))
    last = max(producer.low, min(producer.high, round(maximum / producer.scale)))
    steps = torch.arange(first, last + 1, dtype=torch.float64, device=density.edges.device)
    # The outermost levels hold all that lies beyond them.
    ends = steps.new_tensor([2 * min(minimum, 0.0) - 1, 2 * max(maximum, 0.0) + 1])
    borders = torch.cat([ends[:1], (steps[:-1] + 0.5) * producer.scale, ends[1:]])
    count, total, _ = moments_of(density).below(borders[None, :])[0].diff(dim=-1)
    level = steps * producer.scale
    again = (level / reader.scale).round().clamp(reader.low, reader.high) * reader.scale
    shift = level - again
    return float(row_sums(2 * shift * (total - level * count) + shift.square() * count))
