"""Noise: what quantization does to a tensor, defined once for every price and damage that is named.

The noise of a quantizer Q on a tensor is Σ count · E[(x − Q(x))²] / Σ count · x² over its stored distribution, in dB
within ±140. It is lower where it is better: −40 dB is a signal-to-noise ratio of 40 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qgraph.calib.decibels import decibels
from qgraph.calib.observers.density import BATCH_EDGES, HALF_BATCH_EDGES, Density, batches, densities
from qgraph.calib.observers.error import error_energy, row_sums, signal_energy
from qgraph.calib.observers.moments import moments_of
from qgraph.calib.observers.threads import batches_beside, one_thread
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


Quantizers = tuple[Quantizer, ...]
"""Those of the channels of a tensor, or the one of the whole tensor."""

Channels = Sequence[TensorStatistics]
"""Statistics of what has a quantizer of its own: of each channel, or of the whole tensor alone."""


def noise_db(
    statistics: Sequence[TensorStatistics], quantizers: Sequence[Quantizer], *, device: str = "cpu"
) -> list[float | None]:
    """Noise of each tensor under its one quantizer, in dB; None where the tensor has no finite value."""
    return channel_noise_db([(one,) for one in statistics], [(one,) for one in quantizers], device=device)


@one_thread()
def channel_noise_db(
    tensors: Sequence[Channels], quantizers: Sequence[Quantizers], *, device: str = "cpu"
) -> list[float | None]:
    """Noise of each tensor under the quantizers of its channels, in dB; None where it has no finite value.

    Noise and signal are summed over the channels, in their order.
    """
    owners = [index for index, channels in enumerate(tensors) for _ in channels]
    statistics = [one for channels in tensors for one in channels]
    flat = [
        one for own, channels in zip(quantizers, tensors, strict=True) for one, _ in zip(own, channels, strict=True)
    ]
    place = torch.device(device)

    def measured(indices: list[int]) -> list[tuple[float, float]]:
        density = densities([statistics[index] for index in indices], place)
        noise = _noise(density, [flat[index] for index in indices])
        return list(zip(noise.tolist(), signal_energy(density).tolist(), strict=True))

    beside = place.type == "cpu"
    taken = list(_batches(statistics, HALF_BATCH_EDGES if beside else BATCH_EDGES))
    measures = batches_beside(measured, taken) if beside else [measured(indices) for indices in taken]
    energies: list[tuple[float, float] | None] = [None] * len(statistics)
    for indices, several in zip(taken, measures, strict=True):
        for index, energy in zip(indices, several, strict=True):
            energies[index] = energy
    totals: list[tuple[float, float] | None] = [None] * len(tensors)
    for owner, measure in zip(owners, energies, strict=True):
        if measure is not None:
            so_far = totals[owner] or (0.0, 0.0)
            totals[owner] = so_far[0] + measure[0], so_far[1] + measure[1]
    return [None if total is None else decibels(*total) for total in totals]


def requantize_price_db(
    statistics: Sequence[TensorStatistics],
    producers: Sequence[Quantizer],
    readers: Sequence[Quantizer],
    *,
    device: str = "cpu",
) -> list[float | None]:
    """What quantizing a second time adds to the noise of each tensor, in dB; None where it has no finite value."""
    return channel_requantize_price_db(
        [(one,) for one in statistics], [(one,) for one in producers], [(one,) for one in readers], device=device
    )


@one_thread()
def channel_requantize_price_db(
    tensors: Sequence[Channels], producers: Sequence[Quantizers], readers: Sequence[Quantizers], *, device: str = "cpu"
) -> list[float | None]:
    """What quantizing a second time adds to the noise of each tensor, in dB; None where it has no finite value.

    The noise of x → reader(producer(x)) minus that of the producer alone, both against x. Each level x_k of the
    producer holds the values between two of its rounding borders and becomes the level y_k of the reader, so with
    d_k = x_k − y_k the error energy grows by Σ_k (2 d_k · Σ(x − x_k) + d_k² · count) over the values of level k::

        producer  ──┼────x_k────┼──          all x between the borders …
                          ╲ d_k
        reader    ─┼──────┼─y_k──┼─          … end here

    A second quantization may also undo some of the first one's error; the price is then negative.

    Args:
        tensors: of each tensor the channels, or the whole.
        producers, readers: of each tensor as many quantizers; or one, which serves all channels.
    """
    answers: list[float | None] = []
    for channels, producer, reader in zip(tensors, producers, readers, strict=True):
        first, added, signal, known = 0.0, 0.0, 0.0, False
        both = list(zip(*(own * len(channels) if len(own) == 1 else own for own in (producer, reader)), strict=True))
        # The order of a sum decides on its last bits, and this one is taken batch by batch.
        for indices in _batches(channels, BATCH_EDGES):
            density = densities([channels[index] for index in indices], torch.device(device))
            first += sum(_noise(density, [both[index][0] for index in indices]).tolist())
            signal += sum(signal_energy(density).tolist())
            added += sum(_added_energy(density.rows([row]), *both[index]) for row, index in enumerate(indices))
            known = True
        answers.append(decibels(max(first + added, 0.0), signal) - decibels(first, signal) if known else None)
    return answers


def _batches(statistics: Sequence[TensorStatistics], most_edges: int) -> Iterator[list[int]]:
    """The positions of the tensors with a finite value, in batches."""
    known = [index for index, one in enumerate(statistics) if one.minimum is not None]
    for batch in batches([statistics[index] for index in known], most_edges):
        yield [known[position] for position in batch]


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
