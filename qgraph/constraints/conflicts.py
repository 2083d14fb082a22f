"""Constraints that contradict each other: all of them at once, each with both reasons and the cheapest way out.

::

    s1 fixed to 1/256 ──[tensor]── Concat:in:0 ──[concat]── Concat:out:0 fixed to 1/64
                                                ▲
    the two chains end where they meet; the cheapest cut is a requantize at Concat:in:0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from qgraph.constraints.cuts import minimum_cut
from qgraph.constraints.explain import requantize_reason, why
from qgraph.constraints.model import Constraints, Edge, Fixed, Group, Kind, Same, Strength, TensorEdge
from qgraph.constraints.schemes import bears, common_scheme
from qgraph.constraints.union_find import UnionFind
from qgraph.tqc import Scheme

Noise = Callable[[], Mapping[str, float]]
"""By slot, what rounding its tensor once more adds: noise power over signal power. Asked for only in a conflict."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two slots that must agree and cannot.

    Attributes:
        a, b: the slots; `claim_a` and `claim_b` say in words what each of them needs, if it is anything of its own.
        problem: what is wrong, in words.
        chains: the edges from `a` and from `b` to the slot where they meet.
        cuts: the cheapest edges without which the two need not agree; None where there is no way out among the edges.
        remedy: what else helps, in words.
        noise: what the cuts are predicted to add, as power over signal power; None before any data.
    """

    a: str
    b: str
    claim_a: str
    claim_b: str
    problem: str
    chains: tuple[tuple[Edge, ...], tuple[Edge, ...]] = ((), ())
    cuts: tuple[Edge, ...] | None = None
    remedy: str = ""
    noise: float | None = None

    @property
    def claims(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Both slots, each with what it needs."""
        return (self.a, self.claim_a), (self.b, self.claim_b)

    def __str__(self) -> str:
        a, b = (f"{slot} ({claim})" if claim else slot for slot, claim in self.claims)
        parts = [f"{a} and {b} {self.problem}"]
        parts += [in_words(chain) for chain in self.chains if chain]
        if self.cuts:
            adds = "" if self.noise is None else f", which adds noise of {self.noise:.3g} of the signal's power"
            parts.append("cheapest way out: " + " and ".join(cut_in_words(edge) for edge in self.cuts) + adds)
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)


def structural_price(edge: Edge) -> float:
    """What an edge costs before any data: a requantize is cheaper than an option, and that than a demand.

    What only moves or selects values is never cut.
    """
    if edge.kind == Kind.TENSOR:
        return 1.0
    return {Strength.PREFERRED: 2.0, Strength.REQUIRED: 10.0}.get(edge.strength or Strength.EXACT, math.inf)


class _Prices:
    """What it costs to do without an edge; infinity where that is no way out.

    Without an edge one tensor at its ends is rounded once more, so where there is data the price is the noise of that,
    of the end that bears it better. The structure weighs it: to break a demand is as dear as ten requantizes.
    """

    def __init__(self, noise: Noise | None, *, can_requantize: bool) -> None:
        self._noise, self._can_requantize = noise, can_requantize

    @cached_property
    def _by_slot(self) -> Mapping[str, float] | None:
        return None if self._noise is None else self._noise()

    def __call__(self, edge: Edge) -> float:
        if edge.kind == Kind.TENSOR and not self._can_requantize:
            return math.inf
        structural = structural_price(edge)
        if self._by_slot is None or math.isinf(structural):
            return structural
        return structural * self._noise_at(edge)

    def added(self, cuts: Sequence[Edge] | None) -> float | None:
        """The noise that a cut adds, where it is known."""
        return None if not cuts or self._by_slot is None else math.fsum(map(self._noise_at, cuts))

    def _noise_at(self, edge: Edge) -> float:
        """A tensor of which nothing is known bears it as badly as any that is known."""
        assert self._by_slot is not None
        known = [self._by_slot[slot] for slot in (edge.a, edge.b) if slot in self._by_slot]
        return min(known, default=max(self._by_slot.values(), default=1.0))


def find_conflicts(
    constraints: Constraints,
    groups: Mapping[str, Group],
    joined: Iterable[Edge],
    cut: Iterable[TensorEdge],
    noise: Noise | None = None,
) -> tuple[Conflict, ...]:
    """All contradictions: bits, sign or granularity, prescribed values, and requantizes that a target cannot do.

    Args:
        groups: by slot.
        joined: the edges inside groups.
        cut: the tensor edges between groups.
        noise: where there is data, it decides which way out is the cheapest.
    """
    inside = _EdgesInside(groups, joined)
    price = _Prices(noise, can_requantize=constraints.can_requantize)
    return (
        *_unequal_schemes(constraints, price),
        *_unequal_parameters(constraints.fixed, groups, inside, price),
        *_impossible_requantizes(constraints, groups, inside, cut, price),
    )


class _EdgesInside:
    """The joined edges of each group, sorted out once a conflict asks for them; mostly none does."""

    def __init__(self, groups: Mapping[str, Group], joined: Iterable[Edge]) -> None:
        self._groups, self._joined = groups, joined

    @cached_property
    def _by_group(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self._joined:
            found.setdefault(self._groups[edge.a].id, []).append(edge)
        return found

    def of(self, group: Group) -> Sequence[Edge]:
        return self._by_group.get(group.id, ())


def same_edge(tie: Same) -> Edge:
    """A `same` constraint as an edge."""
    origin = tie.origin
    return Edge(Kind.SAME, tie.a, tie.b, origin.rule, origin.op, origin.op_type, tie.strength, origin.source)


def _unequal_schemes(constraints: Constraints, price: _Prices) -> Iterator[Conflict]:
    """Per set of slots that are tied: each scheme that cannot be reconciled with the first one's."""
    for ties in _mixed(constraints):
        edges = tuple(same_edge(tie) for tie in ties)
        wearers: dict[Scheme, str] = {}
        for slot in sorted({slot for tie in ties for slot in (tie.a, tie.b)}):
            wearers.setdefault(_scheme(constraints, slot), slot)
        (first, a), *others = wearers.items()
        against = [(scheme, b) for scheme, b in others if common_scheme((first, scheme)) is None]
        if not against and common_scheme(wearers) is None:  # as two axes beside one scheme per tensor
            (first, a), (scheme, b) = next(
                (one, two) for one in others for two in others if common_scheme((one[0], two[0])) is None
            )
            against = [(scheme, b)]
        for scheme, b in against:
            found = _reasons(edges, a, b, price)
            yield Conflict(a, b, str(first), str(scheme), "must be equal", *found, noise=price.added(found[1]))


def _mixed(constraints: Constraints) -> Iterator[list[Same]]:
    """The `same` constraints of every set of tied slots whose schemes differ."""
    plans = constraints.slots
    if all((a := plans[tie.a].scheme) is (b := plans[tie.b].scheme) or a == b for tie in constraints.same):
        return
    slots = sorted({slot for tie in constraints.same for slot in (tie.a, tie.b)})
    place = {slot: number for number, slot in enumerate(slots)}
    sets = UnionFind(len(slots))
    for tie in constraints.same:
        sets.union(place[tie.a], place[tie.b])
    found: dict[int, list[Same]] = {}
    for tie in sorted(constraints.same, key=lambda tie: (tie.a, tie.b, tie.origin.rule)):
        found.setdefault(sets.find(place[tie.a]), []).append(tie)
    for ties in found.values():
        if len({_scheme(constraints, slot) for tie in ties for slot in (tie.a, tie.b)}) > 1:
            yield ties


def bearable_schemes(constraints: Constraints) -> dict[str, Scheme]:
    """The scheme of each slot that takes another than its own, because what it is tied to cannot bear that."""
    found = {}
    for ties in _mixed(constraints):
        slots = sorted({slot for tie in ties for slot in (tie.a, tie.b)})
        common = common_scheme([_scheme(constraints, slot) for slot in slots])
        if common is not None:
            found.update(dict.fromkeys(slots, common))
    return found


def _scheme(constraints: Constraints, slot: str) -> Scheme:
    scheme = constraints.slots[slot].scheme
    assert scheme is not None
    return scheme


def _unequal_parameters(
    fixed: Sequence[Fixed], groups: Mapping[str, Group], inside: _EdgesInside, price: _Prices
) -> Iterator[Conflict]:
    """Each prescription that differs from the first one of its group, or that the group's scheme does not allow."""
    for entry in fixed:
        group = groups[entry.slot]
        first = group.fixed
        assert first is not None
        if not bears(group.scheme, entry.scale, entry.offset):
            strict = f"needs {group.scheme}"
            yield Conflict(entry.slot, group.master, _prescribed(entry), strict, "are tied")
        if (first.scale, first.offset) != (entry.scale, entry.offset):
            found = _reasons(inside.of(group), first.slot, entry.slot, price)
            claims = _prescribed(first), _prescribed(entry)
            yield Conflict(first.slot, entry.slot, *claims, "are tied", *found, noise=price.added(found[1]))


def _claim(group: Group, *, foreign: bool) -> str:
    if group.fixed is not None:
        return _prescribed(group.fixed)
    return "" if foreign else str(group.scheme)


def _prescribed(fixed: Fixed) -> str:
    origin = fixed.origin
    return f"fixed to scale {fixed.scale:g}, offset {fixed.offset} by {origin.rule}, {origin.source}"


def _impossible_requantizes(
    constraints: Constraints,
    groups: Mapping[str, Group],
    inside: _EdgesInside,
    cut: Iterable[TensorEdge],
    price: _Prices,
) -> Iterator[Conflict]:
    """Cuts, on a target that cannot requantize. A constant may be stored twice, so it is no obstacle."""
    if constraints.can_requantize:
        return
    for edge in cut:
        if constraints.slots[edge.producer].role in ("constant", "weight"):
            continue
        made, read = (groups[slot] for slot in (edge.producer, edge.consumer))
        chains = tuple(
            why(inside.of(group), slot, group.fixed.slot) or () if group.fixed else ()
            for slot, group in ((edge.producer, made), (edge.consumer, read))
        )
        cuts = [
            found
            for slot, group in ((edge.producer, made), (edge.consumer, read))
            if group.fixed and (found := _cheapest(inside.of(group), slot, group.fixed.slot, price))
        ]
        cheapest = min(cuts, key=lambda one: (sum(map(price, one)), len(one))) if cuts else None
        foreign = made.scheme == read.scheme and made.fixed is None and read.fixed is None
        yield Conflict(
            edge.producer,
            edge.consumer,
            _claim(made, foreign=foreign),
            _claim(read, foreign=foreign),
            f"need different parameters for {edge.tensor}, and {constraints.target} cannot requantize: "
            f"{requantize_reason(made, read)}",
            (chains[0], chains[1]),
            cheapest,
            "force_overlap joins them" if foreign else "",
            price.added(cheapest),
        )


Reasons = tuple[tuple[tuple[Edge, ...], tuple[Edge, ...]], tuple[Edge, ...] | None]


def _reasons(edges: Iterable[Edge], a: str, b: str, price: _Prices) -> Reasons:
    """The chains from both slots to the middle between them, and the cheapest cut."""
    known = tuple(edges)
    chain = why(known, a, b) or ()
    middle = (len(chain) + 1) // 2
    back = why(chain[middle:], b, chain[middle].a) if middle < len(chain) else ()
    return (chain[:middle], back or ()), _cheapest(known, a, b, price)


def _cheapest(edges: Iterable[Edge], a: str, b: str, price: _Prices) -> tuple[Edge, ...] | None:
    """The cheapest edges without which nothing leads from `a` to `b`; None if they cannot be parted."""
    known = sorted(edges, key=lambda edge: (edge.a, edge.b, edge.kind, edge.rule or ""))
    slots = sorted({slot for edge in known for slot in (edge.a, edge.b)} | {a, b})
    place = {slot: number for number, slot in enumerate(slots)}
    ends = [(place[edge.a], place[edge.b]) for edge in known]
    cut = minimum_cut(len(slots), ends, [price(edge) for edge in known], place[a], place[b])
    return None if cut is None else tuple(known[index] for index in cut.edges)


def in_words(chain: Sequence[Edge]) -> str:
    """A chain of edges as text."""
    steps = [chain[0].a] if chain else []
    for edge in chain:
        along = "tensor" if edge.rule is None else f"{edge.rule}, {edge.source}"
        steps.append(f"-[{along}]- {edge.b}")
    return " ".join(steps)


def cut_in_words(edge: Edge) -> str:
    """How to do without an edge."""
    if edge.kind == Kind.TENSOR:
        return f"requantize between {edge.a} and {edge.b}"
    how = "break" if edge.strength == Strength.REQUIRED else "drop"
    return f"{how} the {edge.strength} rule {edge.rule} between {edge.a} and {edge.b}"
