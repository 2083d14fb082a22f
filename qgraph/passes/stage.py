"""How far a graph has come through the passes, and what the platform's rules say at that point.

::

    nothing yet            every slot for itself; what the target prescribes is FIXED
    QuantizeFusionPass     pairs that run as one have nothing between them; ops that only move values share for free
    QuantAlignmentPass     what the target requires to share shares, and what the alignment options ask for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import Constraints, Fixed, Grouping, Origin, Same, Strength
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.ir.graph import Graph
from qgraph.ir.slots import parts
from qgraph.passes.hands import BY_HAND, Hand
from qgraph.solve.run import AUTO_OVERLAP, ForceOverlap, Parameter
from qgraph.tqc import TensorQuantizationConfig

Configs = Mapping[str, TensorQuantizationConfig]


@dataclass(frozen=True, slots=True)
class Stage:
    """Which passes were run, and their options.

    Attributes:
        observer: of the last calibration, and its parameters; None before.
        weights: how weights were solved; None before.
    """

    fused: bool = False
    aligned: bool = False
    methods: MergeMethods = UNCHANGED
    force_overlap: ForceOverlap = False
    observer: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None


def constraints_at(stage: Stage, graph: Graph, pack: RulePack) -> Constraints:
    """What the platform says about a model as far as the passes that were run ask it.

    Raises:
        UsageError: a method None would untie what the target requires.
    """
    asked = pack if stage.fused else replace(pack, fusions=())
    found = constrain(graph, asked, stage.methods if stage.aligned else UNCHANGED)
    if stage.aligned:
        return found
    free = tuple(tie for tie in found.same if stage.fused and tie.strength == Strength.EXACT)
    return replace(found, same=free, alignments=())


def with_hands(constraints: Constraints, configs: Configs, hands: Mapping[str, Hand]) -> Constraints:
    """The constraints with what the user did to configs: floated, linked, or given parameters of their own."""
    slots = dict(constraints.slots)
    ties: list[Same] = []
    fixed: list[Fixed] = []
    for slot, hand in sorted(hands.items()):
        config, plan = configs[slot], slots[slot]
        if hand == Hand.FLOAT:
            slots[slot] = replace(plan, scheme=None, reason="left in float by hand")
            continue
        if hand == Hand.RELEASED:
            slots[slot] = replace(plan, scheme=config.scheme, reason=None)
        origin = Origin("set by hand", parts(slot).op or "", "", BY_HAND)
        master = None if config.master is None else config.root.name
        if hand == Hand.LINKED and master in slots:
            ties.append(Same(slot, master, origin, Strength.PREFERRED, pass_through=False))
        if hand == Hand.PINNED and config.scale is not None and config.offset is not None and len(config.scale) == 1:
            fixed.append(Fixed(slot, config.scale[0], config.offset[0], origin))
    gone = {slot for slot, hand in hands.items() if hand in (Hand.FLOAT, Hand.RELEASED)}
    return replace(
        constraints,
        slots=MappingProxyType(slots),
        tensors=tuple(edge for edge in constraints.tensors if gone.isdisjoint((edge.producer, edge.consumer))),
        same=(*(tie for tie in constraints.same if gone.isdisjoint((tie.a, tie.b))), *ties),
        fixed=(*(one for one in constraints.fixed if one.slot not in hands), *fixed),
        derived=tuple(one for one in constraints.derived if one.slot not in gone),
        fused=tuple(one for one in constraints.fused if gone.isdisjoint((one.producer, one.consumer))),
    )


def grouping_at(stage: Stage, constraints: Constraints) -> Grouping:
    """The groups of a stage; with nothing run yet, each slot is one. With ``"auto"``, those that it starts from.

    Raises:
        ConflictError: the constraints contradict each other, or what the user wrote by hand.
    """
    if not (stage.fused or stage.aligned):
        constraints = replace(constraints, tensors=())
    overlap = stage.force_overlap
    if overlap == AUTO_OVERLAP:
        overlap = not constraints.can_requantize
    return solve_groups(constraints, force_overlap=bool(overlap))
