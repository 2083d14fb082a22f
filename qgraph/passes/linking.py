"""Groups as links between live configs: read from them, and written to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.constraints.conflicts import same_edge
from qgraph.constraints.grouping import group_id
from qgraph.constraints.model import Constraints, Edge, Group, Grouping, Kind, Requantize, Strength
from qgraph.errors import UsageError
from qgraph.ir.slots import makes_its_tensor
from qgraph.passes.hands import BY_HAND, Hand
from qgraph.tqc import DEGENERATE, QuantizationState, TensorQuantizationConfig, to_float32

Configs = Mapping[str, TensorQuantizationConfig]


def read_groups(configs: Configs, constraints: Constraints, *, linked: bool) -> Grouping:
    """The groups that the links of configs make: all that have one root. Float ones are in none.

    Args:
        linked: a pass has decided what shares; if none has, readers with parameters equal to the maker's, as all of
            them have that were calibrated alike, are no requantizes.

    Raises:
        UsageError: a config's master is of another graph.
    """
    members: dict[str, list[str]] = {}
    for slot, config in sorted(configs.items()):
        if configs.get(config.root.name) is not config.root:
            raise UsageError("a master of another graph", f"{slot}: {config.root.name}", "link configs of one graph")
        if config.root.state != QuantizationState.FP32:
            members.setdefault(config.root.name, []).append(slot)
    root_of = {slot: root for root, slots in members.items() for slot in slots}
    speakers = _speakers(root_of, constraints)
    fixed = {one.slot: one for one in constraints.fixed}
    derived = {one.slot: one for one in constraints.derived}
    groups = [
        Group(
            group_id(slots),
            tuple(slots),
            tuple(sorted(speakers[slot] for slot in slots if slot in speakers)),
            root,
            configs[root].scheme,
            next((fixed[slot] for slot in slots if slot in fixed), None)
            if configs[root].state == QuantizationState.FIXED
            else None,
            derived.get(root),
        )
        for root, slots in members.items()
    ]
    return Grouping(
        tuple(sorted(groups, key=lambda group: group.id)),
        _requantizes(configs, root_of, constraints, linked=linked),
        _joined(root_of, constraints),
    )


def _speakers(root_of: Mapping[str, str], constraints: Constraints) -> dict[str, str]:
    """By slot, the tensor whose name means this slot: where it is made, or else read first."""
    chosen: dict[str, str] = {}
    for slot in sorted(root_of, key=lambda slot: (not makes_its_tensor(slot), slot)):
        chosen.setdefault(constraints.slots[slot].tensor, slot)
    return {slot: tensor for tensor, slot in chosen.items()}


def _edges(root_of: Mapping[str, str], constraints: Constraints) -> list[tuple[str, str, str]]:
    """Tensor, maker and reader of every tensor between two quantized slots, sorted by maker and reader."""
    makers = {constraints.slots[slot].tensor: slot for slot in sorted(root_of) if makes_its_tensor(slot)}
    found = []
    for slot in root_of:
        plan = constraints.slots[slot]
        maker = makers.get(plan.tensor)
        if maker is not None and maker != slot and plan.role != "bias" and not makes_its_tensor(slot):
            found.append((plan.tensor, maker, slot))
    return sorted(found, key=lambda edge: edge[1:])


def _requantizes(
    configs: Configs, root_of: Mapping[str, str], constraints: Constraints, *, linked: bool
) -> tuple[Requantize, ...]:
    """The readers that do not share with the slot that makes their tensor."""
    found = []
    for tensor, maker, reader in _edges(root_of, constraints):
        a, b = configs[maker].root, configs[reader].root
        equal = a.scale is not None and (a.scheme, a.scale, a.offset) == (b.scheme, b.scale, b.offset)
        if a is not b and (linked or not equal):
            found.append(Requantize(tensor, reader, maker))
    return tuple(sorted(found, key=lambda one: one.slot))


def _joined(root_of: Mapping[str, str], constraints: Constraints) -> tuple[Edge, ...]:
    """The constraints inside groups, and the links that the user made."""

    def together(a: str, b: str) -> bool:
        return a in root_of and root_of.get(a) == root_of.get(b)

    edges = [same_edge(tie) for tie in constraints.same if together(tie.a, tie.b)]
    edges += [Edge(Kind.TENSOR, a, b) for _, a, b in _edges(root_of, constraints) if together(a, b)]
    explained = _roots(edges)
    for slot, root in root_of.items():
        if explained.get(slot, slot) != explained.get(root, root):
            edges.append(Edge(Kind.SAME, slot, root, "set by hand", "", "", Strength.PREFERRED, BY_HAND))
    return tuple(sorted(set(edges), key=lambda edge: (edge.a, edge.b, edge.kind, edge.rule or "")))


def _roots(edges: list[Edge]) -> dict[str, str]:
    """One slot for each set of slots that edges connect, by slot."""
    root: dict[str, str] = {}

    def find(slot: str) -> str:
        while root.setdefault(slot, slot) != slot:
            root[slot] = root[root[slot]]
            slot = root[slot]
        return slot

    for edge in edges:
        root[find(edge.a)] = find(edge.b)
    return {slot: find(slot) for slot in list(root)}


@dataclass(frozen=True, slots=True)
class Relinked:
    """What relinking changed: the master slots of changed groups, and of these the ones that had parameters before."""

    changed: tuple[str, ...]
    to_solve: tuple[str, ...]


def write_groups(configs: Configs, grouping: Grouping, hands: Mapping[str, Hand]) -> Relinked:
    """Link configs as a grouping says. A group that is as it was is left alone, and what the user set stays.

    Masters of changed groups are INITIAL, or FIXED where the target prescribes their parameters.
    """
    wanted = _wanted(configs, grouping, hands)
    changed = _changed(configs, wanted)
    solved = [master for master, (_, members) in changed.items() if any(_was_solved(configs[one]) for one in members)]
    in_groups = {slot for _, members in wanted.values() for slot in members}
    for slot, config in configs.items():
        if slot not in in_groups and slot not in hands and config.state != QuantizationState.FP32:
            config.state = QuantizationState.FP32
    for master, (group, _) in changed.items():  # all masters first, so that no link can close a cycle
        _release(configs[master], group, hands.get(master))
    for master, (group, members) in changed.items():
        for slot in members:
            if slot != master and hands.get(slot) != Hand.LINKED:
                _link(configs[slot], configs[master], group)
    unpinned = [m for m in solved if hands.get(m) != Hand.PINNED and configs[m].state != QuantizationState.FIXED]
    return Relinked(tuple(sorted(changed)), tuple(sorted(unpinned)))


def _wanted(configs: Configs, grouping: Grouping, hands: Mapping[str, Hand]) -> dict[str, tuple[Group, list[str]]]:
    """By master, each group and those of its members that the user has not taken out."""
    wanted = {}
    for group in grouping.groups:
        members = [slot for slot in group.slots if hands.get(slot) not in (Hand.FLOAT, Hand.RELEASED)]
        if members:
            wanted[_master(group, members, configs, hands)] = group, members
    return wanted


def _changed(configs: Configs, wanted: Mapping[str, tuple[Group, list[str]]]) -> dict[str, tuple[Group, list[str]]]:
    """The groups whose members do not share already."""
    before: dict[str, set[str]] = {}
    for slot, config in configs.items():
        if config.root.state != QuantizationState.FP32:
            before.setdefault(config.root.name, set()).add(slot)
    return {
        master: (group, members)
        for master, (group, members) in wanted.items()
        if before.get(configs[members[0]].root.name) != set(members) or configs[members[0]].scheme != group.scheme
    }


def _link(config: TensorQuantizationConfig, master: TensorQuantizationConfig, group: Group) -> None:
    if config.state == QuantizationState.FP32:
        config.state = QuantizationState.INITIAL
    config.scheme = group.scheme
    config.set_master(master=master)


def _was_solved(config: TensorQuantizationConfig) -> bool:
    return config.scale is not None or config.root.state in DEGENERATE


def _master(group: Group, members: list[str], configs: Configs, hands: Mapping[str, Hand]) -> str:
    """Who owns the parameters: what has been pinned, or what the user linked others to, or else the solver's choice."""
    linked = {configs[slot].root.name for slot in members if hands.get(slot) == Hand.LINKED}
    for candidates in ((s for s in members if hands.get(s) == Hand.PINNED), (s for s in members if s in linked)):
        first = next(iter(candidates), None)
        if first is not None:
            return first
    return group.master if group.master in members and hands.get(group.master) != Hand.LINKED else members[0]


def _release(config: TensorQuantizationConfig, group: Group, hand: Hand | None) -> None:
    """Make a config a master that waits for its parameters, or has those that the target prescribes."""
    if hand == Hand.PINNED:
        return
    if group.fixed is not None and config.state == QuantizationState.FIXED:
        return
    if config.state == QuantizationState.FIXED:
        config.state = QuantizationState.FP32
    if config.state != QuantizationState.INITIAL:
        config.state = QuantizationState.INITIAL
    config.scheme = group.scheme
    if group.fixed is not None and group.fixed.origin.source != BY_HAND:
        config.activate((to_float32(group.fixed.scale),), (group.fixed.offset,), QuantizationState.FIXED)
