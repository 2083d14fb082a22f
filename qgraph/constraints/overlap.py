"""``force_overlap="auto"``: share through a fan-out exactly where that is predicted to lower the noise.

::

    Conv1 ──▶ Add1           False leaves a requantize at Add1:in:1. Joining the two groups saves its rounding, and
    Conv2 ─┬▶ Add1           costs what the common scale costs Conv1, Add1 and Conv2: auto joins where the sum of
           └▶ Conv3          noise becomes less, the largest gain first, until nothing gains.

Noise adds up as power over signal power (not in dB): of every tensor where it is made, and of every requantize what
its second rounding adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import fsum
from typing import Protocol

from qgraph.constraints.grouping import group_id, solve_groups
from qgraph.constraints.model import Constraints, Group, Grouping, Requantize
from qgraph.ir.slots import makes_its_tensor

LEAST_GAIN = 2.0**-40
"""As a part of the noise that is touched: a loss of less is taken for a rounding error of these sums."""

Pair = tuple[str, str]
"""The ids of two groups, sorted."""


class Costs(Protocol):
    """What groups and requantizes cost, as noise power over signal power. Each is asked for many at once.

    A group is known by its id, which is that of its members, so that what was computed once can be kept.
    """

    def noise(self, groups: Sequence[Group], /) -> list[float]:
        """For each group the sum over the tensors that are made in it."""
        ...

    def requantizing(self, tasks: Sequence[tuple[Requantize, Group, Group]], /) -> list[float]:
        """For each reader what quantizing again adds, from the group that made its tensor to its own."""
        ...


@dataclass(frozen=True, slots=True)
class Overlap:
    """What was joined.

    Attributes:
        joined: the requantizes that became joins, by slot.
        gain: the noise that this saves.
    """

    grouping: Grouping
    joined: tuple[Requantize, ...]
    gain: float


def join_what_gains(constraints: Constraints, apart: Grouping, costs: Costs) -> Overlap:
    """From the groups of False, repeatedly join the two whose requantizes promise the largest gain.

    What costs nothing is joined too, after all that gains: where both groups have the same scale, or one of them has
    no values, the requantize would be for nothing. After each join only the groups that it touches are priced again:
    the new one, and those with a requantize between them and it. Ties go to the smaller ids. Since no join raises the
    sum, the result is never noisier than `apart` by the same prediction. False refines it, and it refines True.

    Args:
        apart: the groups of `constraints` with ``force_overlap=False``.
    """
    state = _state(constraints, apart)
    gains: dict[Pair, float] = {}
    waiting: list[tuple[float, Pair]] = []
    _price(state, state.open_pairs(sorted(state.groups)), costs, gains, waiting)
    chosen: list[Requantize] = []
    saved = []
    while waiting:
        negative, pair = heappop(waiting)
        if gains.get(pair) != -negative:
            continue  # gone, or priced again since
        saved.append(-negative)
        union, joined = state.join(pair)
        chosen += joined
        near = [union, *state.neighbours(union)]
        for old in [one for one in gains if not {*pair, *near}.isdisjoint(one)]:
            del gains[old]
        _price(state, state.open_pairs(near), costs, gains, waiting)
    joins = [(one.producer, one.slot) for one in chosen]
    grouping = solve_groups(constraints, force_overlap=False, joins=joins)
    return Overlap(grouping, tuple(sorted(chosen, key=lambda one: one.slot)), fsum(saved))


@dataclass(frozen=True, slots=True)
class _State:
    """The groups as they are now, and the requantizes between them.

    Attributes:
        groups: those at a requantize, by id.
        links: by id, the numbers of the requantizes that touch the group.
        cuts: the requantizes; `ends` are the ids of the groups that make and read the tensor.
        open: whether the two sides of each could share at all.
    """

    groups: dict[str, Group]
    links: dict[str, set[int]]
    cuts: tuple[Requantize, ...]
    ends: list[Pair]
    open: list[bool]

    def open_pairs(self, groups: Iterable[str]) -> list[Pair]:
        """The pairs that could be joined and have one of these groups in them, sorted."""
        found = {_pair(*self.ends[cut]) for group in groups for cut in self.links[group] if self.open[cut]}
        return sorted(found)

    def neighbours(self, group: str) -> list[str]:
        """The other groups at the requantizes of a group, sorted."""
        return sorted({end for cut in self.links[group] for end in self.ends[cut]} - {group})

    def touched(self, pair: Pair) -> list[int]:
        """The requantizes of both groups, in their order."""
        return sorted(self.links[pair[0]] | self.links[pair[1]])

    def join(self, pair: Pair) -> tuple[str, list[Requantize]]:
        """Make one group of two; returns its id, and the requantizes that are none any more."""
        union = united(*(self.groups[one] for one in pair))
        joined = []
        kept = set()
        for cut in self.touched(pair):
            producer, consumer = (union.id if end in pair else end for end in self.ends[cut])
            self.ends[cut] = producer, consumer
            if producer == consumer:
                joined.append(self.cuts[cut])
            else:
                kept.add(cut)
        for one in pair:
            del self.groups[one], self.links[one]
        self.groups[union.id], self.links[union.id] = union, kept
        return union.id, joined


def _pair(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


def _state(constraints: Constraints, apart: Grouping) -> _State:
    home = {slot: group for group in apart.groups for slot in group.slots}
    # Weights are solved apart from activations: by the stored solutions for their own schemes.
    cuts = tuple(
        cut
        for cut in apart.requantizes
        if all(constraints.slots[end].role in ("activation", "constant") for end in (cut.producer, cut.slot))
    )
    sides = [(home[cut.producer], home[cut.slot]) for cut in cuts]
    links: dict[str, set[int]] = {}
    for number, ends in enumerate(sides):
        for group in ends:
            links.setdefault(group.id, set()).add(number)
    groups = {group.id: group for ends in sides for group in ends}
    is_open = [
        producer.scheme == consumer.scheme and producer.fixed is None and consumer.fixed is None
        for producer, consumer in sides
    ]
    return _State(groups, links, cuts, [(producer.id, consumer.id) for producer, consumer in sides], is_open)


def united(a: Group, b: Group) -> Group:
    """The group that two of one scheme would be together."""
    slots = tuple(sorted((*a.slots, *b.slots)))
    # As everywhere, the master makes a tensor if any member does.
    master = min(a.master, b.master, key=lambda slot: (not makes_its_tensor(slot), slot))
    return Group(group_id(slots), slots, tuple(sorted((*a.tensors, *b.tensors))), master, a.scheme)


def _price(
    state: _State, pairs: Sequence[Pair], costs: Costs, gains: dict[Pair, float], waiting: list[tuple[float, Pair]]
) -> None:
    """Price pairs and put those that gain in the queue. All groups are asked for at once, and all requantizes."""
    unions = {pair: united(*(state.groups[one] for one in pair)) for pair in pairs}
    groups = {one: state.groups[one] for pair in pairs for one in pair} | {one.id: one for one in unions.values()}
    noise = dict(zip(groups, costs.noise(list(groups.values())), strict=True))
    known = state.groups | groups
    before: dict[Pair, list[tuple[int, str, str]]] = {}
    after: dict[Pair, list[tuple[int, str, str]]] = {}
    for pair, union in unions.items():
        before[pair] = [(cut, *state.ends[cut]) for cut in state.touched(pair)]
        names = dict.fromkeys(pair, union.id)
        moved = [(cut, names.get(a, a), names.get(b, b)) for cut, a, b in before[pair]]
        after[pair] = [(cut, a, b) for cut, a, b in moved if a != b]
    tasks = list(dict.fromkeys(task for several in (before, after) for of_pair in several.values() for task in of_pair))
    asked = costs.requantizing([(state.cuts[cut], known[a], known[b]) for cut, a, b in tasks])
    added = dict(zip(tasks, asked, strict=True))
    for pair, union in unions.items():
        now = fsum([*(noise[one] for one in pair), *(added[task] for task in before[pair])])
        then = fsum([noise[union.id], *(added[task] for task in after[pair])])
        if now - then >= -LEAST_GAIN * now:
            gains[pair] = max(0.0, now - then)
            heappush(waiting, (-gains[pair], pair))
