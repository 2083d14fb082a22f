"""From statistics to scales and offsets, by the name of an observer.

What can be told without an optimisation is told here, for every observer alike: a tensor without a finite value
has no parameters; one with nothing but zeros and denormals gets scale 1, which a bias scale can be derived from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from qgraph.calib.grid import FIRST_NORMAL, SIGN_BIN
from qgraph.calib.observers.catalog import entry_of, resolve_parameters
from qgraph.calib.observers.density import BATCH_EDGES, HALF_BATCH_EDGES, batches
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.isotone import isotone
from qgraph.calib.observers.kl import kl
from qgraph.calib.observers.minmax import minmax, range_offset, range_scale
from qgraph.calib.observers.mse import mse
from qgraph.calib.observers.percentile import percentile
from qgraph.calib.observers.prepared import Prepared
from qgraph.calib.observers.registry import Registered, range_of, registered
from qgraph.calib.observers.threads import batches_beside, one_thread
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import UsageError
from qgraph.tqc import Scheme, offset_for


class Observer(Protocol):
    """A pure function from merged statistics to scales and offsets.

    It is called with many tensors or groups that have one scheme. Each has a finite value that is neither zero
    nor denormal. What it answers for one must not depend on the others.
    """

    def __call__(
        self,
        statistics: Sequence[TensorStatistics],
        scheme: Scheme,
        parameters: Mapping[str, Parameter],
        device: torch.device,
        /,
    ) -> tuple[Tensor, Tensor]:
        """Scales (float64 [n], each a positive normal float32) and offsets (int64 [n]) for n statistics."""
        ...


SHIPPED: Mapping[str, Observer] = MappingProxyType(
    {"isotone": isotone, "kl": kl, "minmax": minmax, "mse": mse, "percentile": percentile}
)
"""The function of each entry of `qgraph.calib.observers.catalog.OBSERVERS`."""

ScaleAndOffset = tuple[float, int]


def function_of(name: str) -> Observer:
    """The observer of a name that `entry_of` gave.

    Raises:
        UsageError: it is ``auto``, which picks from others, or one that was registered and is gone.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    own = registered(name)
    if own is None:
        raise UsageError("not an observer by itself", name, "name one of qgraph observers")
    return _ranged(own)


def _ranged(own: Registered) -> Observer:
    """A user's observer, which answers one range at a time, as one that answers all scales and offsets."""

    def observer(
        statistics: Sequence[TensorStatistics],
        scheme: Scheme,
        parameters: Mapping[str, Parameter],
        device: torch.device,
        /,
    ) -> tuple[Tensor, Tensor]:
        ranges = [range_of(own, one, scheme, parameters) for one in statistics]
        low, high = torch.tensor(ranges, dtype=torch.float64, device=device).T
        scale = range_scale(low, high, scheme)
        return scale, range_offset(low, scale, scheme)

    return observer


def observe(
    observer: str | Observer,
    statistics: Sequence[TensorStatistics],
    schemes: Sequence[Scheme],
    *,
    device: str = "cpu",
    parameters: Mapping[str, Parameter] | None = None,
) -> list[ScaleAndOffset | None]:
    """Scale and offset for each of many statistics.

    Args:
        observer: the name of a shipped observer in any case, or a function of the protocol.
        schemes: one for each of the statistics.
        device: where torch computes, ``cpu`` or ``cuda``.
        parameters: of the observer; those not given have their defaults.

    Returns:
        A float32 scale and an offset, or None where there is no finite value; in the order of the statistics.

    Raises:
        NotFoundError: no such observer or parameter.
        UsageError: a parameter of the wrong type.
    """
    (answers,) = observe_all([(observer, parameters)], statistics, schemes, device=device)
    return answers


@one_thread()
def observe_all(
    observers: Sequence[tuple[str | Observer, Mapping[str, Parameter] | None]],
    statistics: Sequence[TensorStatistics],
    schemes: Sequence[Scheme],
    *,
    device: str = "cpu",
) -> list[list[ScaleAndOffset | None]]:
    """What each of several observers answers, bit for bit as `observe`: what they have in common is computed once.

    Args:
        observers: each with its parameters.

    Returns:
        As of `observe`, for each observer.

    Raises:
        NotFoundError, UsageError: as `observe`.
    """
    functions = [_resolved(observer, parameters) for observer, parameters in observers]
    place = torch.device(device)
    known: list[ScaleAndOffset | None] = [None] * len(statistics)
    waiting: dict[Scheme, list[int]] = {}
    for index, (one, scheme) in enumerate(zip(statistics, schemes, strict=True)):
        if has_signal(one):
            waiting.setdefault(scheme, []).append(index)
        elif one.minimum is not None:
            known[index] = (1.0, offset_for(0.0, 1.0, scheme))
    # A user's own observer need not bear several threads.
    beside = place.type == "cpu" and all(function in SHIPPED.values() for function, _ in functions)
    most_edges = HALF_BATCH_EDGES if beside else BATCH_EDGES
    tasks = [
        (scheme, [indices[position] for position in batch])
        for scheme, indices in waiting.items()
        for batch in batches([statistics[index] for index in indices], most_edges)
    ]

    def answer(task: tuple[Scheme, list[int]]) -> list[list[ScaleAndOffset]]:
        scheme, batch = task
        members = Prepared([statistics[index] for index in batch], place)
        found = (function(members, scheme, parameters, place) for function, parameters in functions)
        return [list(zip(scale.tolist(), offset.tolist(), strict=True)) for scale, offset in found]

    answered = batches_beside(answer, tasks) if beside else [answer(task) for task in tasks]
    answers = [list(known) for _ in functions]
    for (_, batch), several in zip(tasks, answered, strict=True):
        for found, own in zip(answers, several, strict=True):
            for index, scale_and_offset in zip(batch, own, strict=True):
                found[index] = scale_and_offset
    return answers


def _resolved(
    observer: str | Observer, parameters: Mapping[str, Parameter] | None
) -> tuple[Observer, Mapping[str, Parameter]]:
    """An observer as a function, with all of its parameters."""
    if not isinstance(observer, str):
        return observer, parameters or {}
    entry = entry_of(observer)
    return function_of(entry.name), resolve_parameters(entry, parameters)


def has_signal(statistics: TensorStatistics) -> bool:
    """Whether there is a finite value that is neither zero nor denormal."""
    return bool((statistics.bins % SIGN_BIN >= FIRST_NORMAL).any())
