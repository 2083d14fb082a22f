"""Other ranges for the few groups that cost the outputs most, by measured output error.

On many models nearly all of the noise comes from a handful of groups, and what is best for their own values is not
best for the outputs: a value that fills the background of every picture, and is rounded the same way everywhere, counts
more than its size. So these groups are found by halving, and of each several ranges are tried, all else being
quantized::

    noise of groups alone:     [ a b c d e f g h ]  −7 dB
                            [ a b c d ] −7     [ e f g h ] −19
                          [ a b ] −20  [ c d ] −7.2                 only the worst is split further
                                      [ c ] −31  [ d ] −7.2         d is looked at first
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from qgraph.solve.parameters import GroupParameters
from qgraph.tqc import to_float32

Parameters = Mapping[str, GroupParameters]
"""By the id of a group."""

Noise = Callable[[Parameters], float]
"""Error power over signal power at the outputs with these groups quantized, and no others."""

STRETCHES = (0.7, 0.85, 1.2, 1.4)
"""By what the range that a group has is stretched."""

LEAST_GAIN = 0.01
"""The share of the noise that a range must save; less is luck."""


def costly_groups(
    groups: Sequence[str], parameters: Parameters, noise: Noise, most: int, measurements: int
) -> list[str]:
    """The groups that cost most when they are quantized alone, the most costly first.

    Args:
        groups: in the order of the model, so that halves are neighbours.
        most: how many are wanted.
        measurements: how many there may be.

    >>> cost = {"a": 1.0, "b": 0.0, "c": 9.0, "d": 0.5}
    >>> costly_groups("abcd", dict.fromkeys("abcd"), lambda some: sum(cost[one] for one in some), 2, 99)
    ['c', 'a']
    """

    def cost(some: Sequence[str]) -> float:
        return noise({group: parameters[group] for group in some})

    found: list[str] = []
    pending: list[tuple[float, int, Sequence[str]]] = [(0.0, 0, groups)] if groups else []
    count = 0
    while pending and len(found) < most:
        _, _, some = heapq.heappop(pending)
        if len(some) == 1:
            found.append(some[0])
            continue
        if count + 2 > measurements:
            break
        half = len(some) // 2
        for part in (some[:half], some[half:]):
            count += 1
            heapq.heappush(pending, (-cost(part), count, part))
    return found


def better_ranges(
    groups: Iterable[str],
    parameters: Parameters,
    proposals: Mapping[str, Sequence[GroupParameters]],
    noises: Sequence[Noise],
) -> dict[str, GroupParameters]:
    """Give some groups, in turn, the parameters with which the outputs have the least noise.

    Args:
        groups: to look at.
        parameters: of all groups.
        proposals: other parameters of a group.
        noises: measured on different samples. What is better on only some of them is luck; what is not better on the
            first is not measured on the others.

    Returns:
        The new parameters of the groups that have other ones now.
    """
    current, changed = dict(parameters), dict[str, GroupParameters]()
    least = [noise(current) for noise in noises]
    for group in groups:
        own = current[group]
        for other in dict.fromkeys((*proposals.get(group, ()), *(stretched(own, one) for one in STRETCHES))):
            if other == own:
                continue
            tried = {**current, group: other}
            found = []
            for noise, bound in zip(noises, least, strict=True):
                found.append(noise(tried))
                if found[-1] >= bound * (1 - LEAST_GAIN):
                    break
            else:
                least, changed[group] = found, other
        current |= {group: changed[group]} if group in changed else {}
    return changed


def stretched(parameters: GroupParameters, factor: float) -> GroupParameters:
    """Parameters with a range so many times as wide, around the same offset.

    >>> from qgraph.tqc import QuantizationState
    >>> stretched(GroupParameters(QuantizationState.ACTIVATED, (0.5,), (3,)), 1.5).scale
    (0.75,)
    """
    scale = tuple(to_float32(one * factor) for one in parameters.scale or ())
    return replace(parameters, scale=scale, reason=f"its range stretched by {factor:g}, as measured at the outputs")
