"""A batch of statistics with what several observers make of it first: computed once, when one asks for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density, batches, densities
from qgraph.calib.observers.moments import Moments, moments_of
from qgraph.calib.statistics import TensorStatistics


class Prepared(Sequence[TensorStatistics]):
    """Statistics that are worked on together, on one device."""

    def __init__(self, statistics: Sequence[TensorStatistics], device: torch.device) -> None:
        self._statistics = statistics
        self._device = device
        self._answers: dict[Hashable, tuple[Tensor, Tensor]] = {}

    @overload
    def __getitem__(self, index: int) -> TensorStatistics: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TensorStatistics]: ...
    def __getitem__(self, index: int | slice) -> TensorStatistics | Sequence[TensorStatistics]:
        return self._statistics[index]

    def __len__(self) -> int:
        return len(self._statistics)

    @cached_property
    def density(self) -> Density:
        """Their densities."""
        return densities(self._statistics, self._device)

    @cached_property
    def moments(self) -> Moments:
        """The moments of their densities."""
        return moments_of(self.density)

    def once(self, key: Hashable, answer: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What was answered under a key before, or is answered now; not to be changed."""
        if key not in self._answers:
            self._answers[key] = answer()
        return self._answers[key]


def prepared(statistics: Sequence[TensorStatistics], device: torch.device) -> Iterator[tuple[list[int], Prepared]]:
    """Statistics in batches of similar size, each with the indices of its members; one that is prepared stays so."""
    if isinstance(statistics, Prepared):
        yield list(range(len(statistics))), statistics
        return
    for batch in batches(statistics):
        yield batch, Prepared([statistics[index] for index in batch], device)
