"""A short list of changes that gives a run the accuracy that is wanted, found with few trials.

::

    sensitivity of each group ─▶ its rungs: the cheapest change that takes away half of its noise, then the dearer ones
                              ─▶ the rungs of all groups in one order: what they should gain for what they cost
    all of them               ─▶ is the target in reach? with the cheap kinds alone?
    bisection                 ─▶ the fewest rungs, from the front, with which it is reached, as measured
    pruning, in chunks        ─▶ without the rungs that it is reached without, as measured

What the groups lose alone adds up to about what all lose together, so the order is good. What changes are worth in the
end only a trial tells: 16 bits may make a bias too large for its integers. Changes are tried in blocks, since one alone
may show no gain where the noise is as large as the signal. A group has one change at a time, the dearest of its rungs
in the block, so that dropping a rung falls back to the one below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isqrt
from typing import Literal, Protocol

from qgraph.constraints.overrides import Override

ChangeKind = Literal["observer", "unshare", "bits", "float"]

COSTS: Mapping[ChangeKind, float] = {"observer": 1, "unshare": 2, "bits": 4, "float": 8}
"""What can be changed at a group, and what it costs on the target, roughly: other parameters from another observer,
a sharing that is dropped (a requantize), 16 bits, and no quantization."""

KINDS: tuple[ChangeKind, ...] = tuple(COSTS)
"""The kinds, the cheapest first."""

ENOUGH = 0.5
"""Of a group's noise: what a cheap change must take away to be preferred to one that costs more."""

PRUNINGS = 24
"""Trials at most to find changes that are not needed."""

SPARE_DB = 1.0
"""By how much cheap kinds of changes must pass the target for dear ones to be left out: where they reach it only just,
they are needed at nearly every group."""

NEAR_DB = 0.5
"""How near to the best there is a list comes where the target is out of reach."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change at one group.

    Attributes:
        group: the id that the group has in the run.
        tensors: that belong to it.
        overrides: what says the change; see docs/overrides.md.
        gain: noise power over signal power at the outputs that it should take away.
    """

    kind: ChangeKind
    group: str
    tensors: tuple[str, ...]
    overrides: tuple[Override, ...]
    gain: float


@dataclass(frozen=True, slots=True)
class Step:
    """Changes of one kind, at some groups.

    Attributes:
        snr_db: at the worst output with these changes and those before them, as measured.
        gain_db: what they add to those before them.
    """

    kind: ChangeKind
    changes: tuple[Change, ...]
    snr_db: float
    gain_db: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The list.

    Attributes:
        before_db: SNR of the worst output of the run as it is; inf where all are exact.
        best_db: the most that was measured of all changes that may be made.
        reached: whether the target is; if not, the list comes near to the best there is.
        trials: how many models were made and measured.
    """

    target_db: float
    before_db: float
    after_db: float
    best_db: float
    reached: bool
    steps: tuple[Step, ...]
    trials: int


class Bench(Protocol):
    """Makes models of a run with some changes, one for each group at most."""

    def can_make(self, changes: Sequence[Change]) -> bool:
        """Whether the changes can be made together; quick, nothing is run."""
        ...

    def measure(self, changes: Sequence[Change]) -> float:
        """The SNR of the worst output with the changes, in dB."""
        ...


def rungs(candidates: Iterable[Change], noise: Mapping[str, float]) -> list[Change]:
    """The changes that are to be tried, in the order of what each should gain, beyond a cheaper one, for its cost.

    Args:
        candidates: for each group one of each kind at most.
        noise: of each group, as power over signal power.
    """
    by_group: dict[str, list[Change]] = {}
    for one in candidates:
        if one.gain >= ENOUGH * noise[one.group]:
            by_group.setdefault(one.group, []).append(one)
    valued: list[tuple[float, str, int, Change]] = []
    for group, changes in by_group.items():
        reached, value = 0.0, inf
        for one in sorted(changes, key=lambda change: KINDS.index(change.kind)):
            if one.gain > reached:
                value = min(value, (one.gain - reached) / COSTS[one.kind])  # a dearer one never comes first
                reached = one.gain
                valued.append((-value, group, KINDS.index(one.kind), one))
    return [one for *_, one in sorted(valued, key=lambda entry: entry[:3])]


def advise(
    ordered: Sequence[Change], target_db: float, bench: Bench, tick: Callable[[int, int], object] | None = None
) -> Advice:
    """Find the list.

    Args:
        ordered: as `rungs` orders them.
        tick: called with how many models are measured and how many it will be at most, or nearly so.
    """
    most = len(ordered).bit_length() + PRUNINGS + 3 * len(KINDS)
    trials = _Trials(bench, (lambda done: tick(done, max(most, done))) if tick else lambda _: None)
    before = best = trials([])
    chosen: list[Change] = []
    reached = before >= target_db
    if not reached and ordered:
        best, offered = _within_reach(ordered, target_db, trials)
        reached = best >= target_db
        wanted = target_db if reached else best - NEAR_DB
        if before < wanted:
            chosen = _pruned(offered[: _fewest(offered, wanted, trials)], wanted, trials)
    steps = _steps(trials.made(chosen), before, trials)
    after = steps[-1].snr_db if steps else before
    return Advice(target_db, before, after, max(best, after), reached, steps, trials.count)


def _steps(changes: Sequence[Change], before: float, trials: _Trials) -> tuple[Step, ...]:
    """The changes by kind, the cheapest first, each kind measured with those before it."""
    steps: list[Step] = []
    done: list[Change] = []
    snr = before
    for kind, same in groupby(sorted(changes, key=lambda one: KINDS.index(one.kind)), key=lambda one: one.kind):
        alike = tuple(same)
        done += alike
        after = trials(done)
        steps.append(Step(kind, alike, after, after - snr if after != snr else 0.0))
        snr = after
    return tuple(steps)


class _Trials:
    """Measures each set of changes once. State: what was measured, and what can be made of which rungs."""

    def __init__(self, bench: Bench, tick: Callable[[int], object]) -> None:
        self._bench, self._tick = bench, tick
        self._known: dict[frozenset[Change], float] = {}
        self._made: dict[frozenset[Change], tuple[Change, ...]] = {}

    @property
    def count(self) -> int:
        """How many models were measured."""
        return len(self._known)

    def made(self, taken: Sequence[Change]) -> tuple[Change, ...]:
        """The changes that some rungs mean, one for each group; without those that cannot be made with the others."""
        changes = tuple({one.group: one for one in sorted(taken, key=lambda one: KINDS.index(one.kind))}.values())
        key = frozenset(changes)
        if key not in self._made:
            self._made[key] = tuple(self._possible(changes))
        return self._made[key]

    def _possible(self, changes: Sequence[Change]) -> list[Change]:
        kept: list[Change] = []
        waiting = [list(changes)] if changes else []
        while waiting:
            block = waiting.pop()
            if self._bench.can_make([*kept, *block]):
                kept += block
            elif len(block) > 1:
                middle = len(block) // 2
                waiting += [block[middle:], block[:middle]]
        return kept

    def __call__(self, taken: Sequence[Change]) -> float:
        """The SNR of the worst output with some rungs, in dB."""
        changes = self.made(taken)
        key = frozenset(changes)
        if key not in self._known:
            self._known[key] = self._bench.measure(changes)
            self._tick(self.count)
        return self._known[key]


def _within_reach(ordered: Sequence[Change], target_db: float, trials: _Trials) -> tuple[float, Sequence[Change]]:
    """The rungs of the cheapest kinds that reach the target well, or that reach most, and the SNR with all of them."""
    best: tuple[float, Sequence[Change]] = (-inf, ordered)
    for dearest in range(len(KINDS)):
        offered = [one for one in ordered if KINDS.index(one.kind) <= dearest]
        if not any(one.kind == KINDS[dearest] for one in offered):
            continue
        snr = trials(offered)
        best = max(best, (snr, offered), key=lambda entry: entry[0])
        if snr >= target_db + SPARE_DB:
            break
    return best


def _fewest(ordered: Sequence[Change], wanted: float, trials: _Trials) -> int:
    """How many rungs from the front are enough, where all of them are and none is not. Most often it is few of many."""
    fails, enough = 0, len(ordered)
    while enough - fails > 1:
        middle = max(fails + 1, min(enough - 1, isqrt((fails + 1) * enough)))
        if trials(ordered[:middle]) >= wanted:
            enough = middle
        else:
            fails = middle
    return enough


def _pruned(chosen: Sequence[Change], wanted: float, trials: _Trials) -> list[Change]:
    """Without the rungs that the outputs reach what is wanted without: whole kinds, then chunks from the end."""
    kept = list(chosen)
    for kind in reversed(KINDS):
        rest = [one for one in kept if one.kind != kind]
        if len(rest) < len(kept) and trials(rest) >= wanted:
            kept = rest
    begun, size = trials.count, (len(kept) + 1) // 2
    while size:
        end = len(kept)
        while end > 0 and trials.count < begun + PRUNINGS:
            rest = [*kept[: max(0, end - size)], *kept[end:]]
            if trials(rest) >= wanted:
                kept = rest
            end -= size
        size //= 2
    return kept
