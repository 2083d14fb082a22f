"""The shortest list of changes that gives a run the accuracy that is wanted.

::

    sensitivity of each group ─▶ its plan: changes that should take away half of its noise or more, the cheapest first
                              ─▶ plans in the order of what they should gain
                              ─▶ of each the first change that gains, as measured, until the target is reached
                              ─▶ without the changes that the target is reached without, as measured

What the groups lose alone adds up to about what all lose together, so the order is good. What a change is worth in the
end only a trial tells: 16 bits may make a bias too large for its integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from qgraph.constraints.overrides import Override

ChangeKind = Literal["observer", "unshare", "bits", "float"]

KINDS: tuple[ChangeKind, ...] = ("observer", "unshare", "bits", "float")
"""What can be changed at a group, the cheapest on the target first: other parameters from another observer, a sharing
that is dropped, which costs a requantize, 16 bits, and no quantization."""

LEAST = 1e-3
"""Of the noise at the outputs: a change that should take away less than this is not tried."""

PATIENCE = 64
"""Trials in a row that gain nothing, after which no more are made."""

ENOUGH = 0.5
"""Of a group's noise: what a cheap change must take away to be preferred to one that costs more."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change at one group.

    Attributes:
        group: the id that the group has in the run.
        tensors: that belong to it.
        overrides: what says the change; see docs/overrides.md.
        text: the change in words.
        gain: noise power over signal power at the outputs that it should take away.
    """

    kind: ChangeKind
    group: str
    tensors: tuple[str, ...]
    overrides: tuple[Override, ...]
    text: str
    gain: float


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the list.

    Attributes:
        snr_db: at the worst output with this change and those before it, as measured.
        gain_db: what it adds to those before it.
    """

    change: Change
    snr_db: float
    gain_db: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The list.

    Attributes:
        before_db: SNR of the worst output of the run as it is; inf where all are exact.
        reached: whether the target is; if not, the list is all that could be tried.
        trials: how many models were made and measured.
    """

    target_db: float
    before_db: float
    after_db: float
    reached: bool
    steps: tuple[Step, ...]
    trials: int


class Bench(Protocol):
    """Makes models of a run with some changes."""

    def can_make(self, changes: Sequence[Change]) -> bool:
        """Whether the changes can be made together; quick, nothing is run."""
        ...

    def measure(self, changes: Sequence[Change]) -> float:
        """The SNR of the worst output with the changes, in dB."""
        ...


Plan = Sequence[Change]
"""What can be done at one group, the cheapest first."""


def plans(candidates: Iterable[Change], noise: Mapping[str, float]) -> list[Plan]:
    """The plans of the groups in the order in which they are to be tried.

    Args:
        candidates: for each group one of each kind at most.
        noise: of each group, as power over signal power.
    """
    by_group: dict[str, list[Change]] = {}
    for one in candidates:
        if one.gain >= ENOUGH * noise[one.group]:
            by_group.setdefault(one.group, []).append(one)
    found = [sorted(changes, key=lambda one: KINDS.index(one.kind)) for changes in by_group.values()]
    return sorted(found, key=lambda plan: _most_first(plan[0]))


def _most_first(change: Change) -> tuple[float, str]:
    return -change.gain, change.group


def advise(ordered: Sequence[Plan], target_db: float, bench: Bench) -> Advice:
    """Find the list.

    Args:
        ordered: as `plans` orders them.
    """
    trials = _Trials(bench)
    before = trials([])
    chosen = _kept(ordered, target_db, trials)
    if trials(chosen) >= target_db:
        chosen = _pruned(chosen, target_db, trials)
    steps: list[Step] = []
    after = before
    for count, change in enumerate(chosen, start=1):
        snr = trials(chosen[:count])
        steps.append(Step(change, snr, snr - after))
        after = snr
    return Advice(target_db, before, after, after >= target_db, tuple(steps), trials.count)


class _Trials:
    """Measures each list of changes once. State: what was measured."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._known: dict[frozenset[Change], float] = {}

    @property
    def count(self) -> int:
        """How many models were measured."""
        return len(self._known)

    def __call__(self, changes: Sequence[Change]) -> float:
        """The SNR of the worst output, in dB."""
        key = frozenset(changes)
        if key not in self._known:
            self._known[key] = self._bench.measure(changes)
        return self._known[key]

    def can_make(self, changes: Sequence[Change]) -> bool:
        """Whether the changes can be made together."""
        return self._bench.can_make(changes)


def _kept(ordered: Sequence[Plan], target_db: float, trials: _Trials) -> list[Change]:
    """Changes that gain, one after the other, until the target is reached or nothing is left to try.

    A second round puts dearer changes in the place of cheap ones that were not enough.
    """
    kept: dict[str, Change] = {}
    best, vain = trials([]), 0
    for dearer in (False, True):
        for plan in ordered:
            group = plan[0].group
            if dearer and group not in kept:
                continue
            for one in plan[plan.index(kept[group]) + 1 if dearer else 0 :]:
                if best >= target_db or vain == PATIENCE:
                    return list(kept.values())
                tried = {**kept, group: one}
                if one.gain < LEAST * 10 ** (-best / 10) or not trials.can_make(list(tried.values())):
                    continue
                snr = trials(list(tried.values()))
                vain += 1
                if snr > best:
                    kept, best, vain = tried, snr, 0
                    break
    return list(kept.values())


def _pruned(chosen: Sequence[Change], target_db: float, trials: _Trials) -> list[Change]:
    """Without the changes that the target is reached without, the least promising dropped first."""
    kept = sorted(chosen, key=_most_first)
    for one in sorted(chosen, key=_most_first, reverse=True):
        rest = [other for other in kept if other is not one]
        if trials(rest) >= target_db:
            kept = rest
    return kept
