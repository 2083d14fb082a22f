"""The solving rule spelt out step by step, slowly, as an oracle. Slots are strings, groups are frozensets."""

from __future__ import annotations

from qgraph.constraints.model import Constraints, TensorEdge

Groups = set[frozenset[str]]


def literal_groups(constraints: Constraints, *, force_overlap: bool) -> Groups:
    return _Literal(constraints).solve(force_overlap=force_overlap)


def _is_read(slot: str) -> bool:
    return slot.startswith("graph:out:") or (not slot.startswith("graph:") and slot.rsplit(":", 2)[1] == "in")


class _Literal:
    def __init__(self, constraints: Constraints) -> None:
        self.c = constraints
        self.scheme = {slot: plan.scheme for slot, plan in constraints.slots.items() if plan.scheme is not None}
        self.passing = [(tie.a, tie.b) for tie in constraints.same if tie.pass_through]
        self.merging = [(tie.a, tie.b) for tie in constraints.same if not tie.pass_through]
        self.fixed = {entry.slot: (entry.scale, entry.offset) for entry in constraints.fixed}
        tied_outputs = {tie.b for tie in constraints.same}
        self.values = {slot for slot in self.scheme if not _is_read(slot) and slot not in tied_outputs}

    def joinable(self, edge: TensorEdge) -> bool:
        return self.scheme[edge.producer] == self.scheme[edge.consumer]

    def merge(self, groups: Groups, pairs: list[tuple[str, str]]) -> Groups:
        for a, b in pairs:
            touched = {group for group in groups if a in group or b in group}
            groups = (groups - touched) | {frozenset().union(*touched)}
        return groups

    def home(self, groups: Groups, slot: str) -> frozenset[str]:
        return next(group for group in groups if slot in group)

    def solve(self, *, force_overlap: bool) -> Groups:
        entries = {a for a, _ in self.passing}
        inner = [(e.producer, e.consumer) for e in self.c.tensors if e.consumer in entries and self.joinable(e)]
        families = self.merge({frozenset([slot]) for slot in self.scheme}, self.passing + inner)
        uses = [e for e in self.c.tensors if (e.producer, e.consumer) not in inner]

        def family(edge: TensorEdge) -> frozenset[str]:
            return self.home(families, edge.producer)

        def uses_of(members: frozenset[str]) -> list[TensorEdge]:
            return [edge for edge in uses if edge.producer in members]

        single = [
            (e.producer, e.consumer)
            for e in uses
            if len(uses_of(family(e))) == 1 and not family(e) & self.fixed.keys() and self.joinable(e)
        ]
        components = self.merge(families, self.merging + single)
        given = self.parameters(components, uses)
        equal = [
            (e.producer, e.consumer)
            for e in uses
            if self.joinable(e)
            and given.get(self.home(components, e.producer)) is not None
            and given.get(self.home(components, e.producer)) == given.get(self.home(components, e.consumer))
        ]
        groups = self.merge(components, equal)
        decided = {group for group in groups if any(component <= group for component in given)}
        remaining = [
            e
            for e in uses
            if self.joinable(e)
            and self.home(groups, e.producer) not in decided
            and self.home(groups, e.consumer) not in decided
        ]
        if force_overlap:
            return self.merge(groups, [(e.producer, e.consumer) for e in remaining])
        snapshot = groups
        chosen = []
        for e in remaining:
            sink = self.home(snapshot, e.consumer)
            entering = {family(other) for other in uses if other.consumer in sink and other.producer not in sink}
            alone = entering == {family(e)} and not sink & self.values
            no_merging = not any(a in sink for a, _ in self.merging)
            if e.producer in sink or no_merging or alone:
                chosen.append((e.producer, e.consumer))
        groups = self.merge(groups, chosen)
        while True:
            agreeing = []
            for members in families:
                own = uses_of(members)
                sinks = {self.home(groups, e.consumer) for e in own}
                if len(sinks) == 1 and all(e in remaining for e in own):
                    agreeing += [(e.producer, e.consumer) for e in own]
            after = self.merge(groups, agreeing)
            if after == groups:
                return groups
            groups = after

    def parameters(self, components: Groups, uses: list[TensorEdge]) -> dict[frozenset[str], tuple[float, int]]:
        given: dict[frozenset[str], tuple[float, int]] = {}
        for group in components:
            held = sorted({self.fixed[slot] for slot in group if slot in self.fixed})
            if held:
                given[group] = held[0]
        while True:
            found = {}
            for group in components - given.keys():
                entering = [e for e in uses if e.consumer in group and e.producer not in group]
                entered = {given.get(self.home(components, e.producer)) for e in entering}
                joinable = all(self.joinable(e) for e in entering)
                if not group & self.values and len(entered) == 1 and None not in entered and joinable:
                    found[group] = next(value for value in entered if value is not None)
            if not found:
                return given
            given |= found
