"""Constraints and groups as plain data: what must agree, why, and what came of it.

No third-party import, so that the store and the queries can use these types at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from qgraph.constraints.merge_methods import MergeMethod
from qgraph.objects import record
from qgraph.tqc import Scheme


class Kind(StrEnum):
    """What an edge between slots says."""

    SAME = "same"  # equal scale and offset, by a rule of the target
    TENSOR = "tensor"  # the two slots are on one tensor
    FIXED = "fixed"  # the target prescribes scale and offset
    DERIVED = "derived"  # computed from other slots, as a bias from input and weight
    FUSED = "fused"  # no quantization between two ops that run as one
    RATIO = "ratio"  # scales of one op whose ratio the target bounds; it makes nothing share


class Strength(StrEnum):
    """How much a `same` rule may cost and whether it may be dropped."""

    EXACT = "exact"  # the op only moves or selects values: sharing costs nothing
    REQUIRED = "required"  # the target demands it; it may cost accuracy
    PREFERRED = "preferred"  # may be dropped by the user


class Direction(StrEnum):
    """Whose parameters a converter gives to all slots of a `same` rule."""

    INPUT = "input"
    OUTPUT = "output"


@record(frozen=True, slots=True)
class Origin:
    """Where a constraint comes from: the rule, the op it was applied to, the rule's source."""

    rule: str
    op: str
    op_type: str
    source: str


@record(frozen=True, slots=True)
class SlotPlan:
    """What a target makes of one float slot, before anything is solved.

    Attributes:
        tensor: the tensor that flows through the slot.
        role: ``activation``, ``constant``, ``weight`` or ``bias``.
        scheme: how it is quantized; None where it is not.
        reason: why it is not quantized; None where it is.
    """

    slot: str
    tensor: str
    role: str
    scheme: Scheme | None
    reason: str | None


@record(frozen=True, slots=True)
class TensorEdge:
    """A tensor between the slot that makes it and a slot that reads it; both are quantizable."""

    tensor: str
    producer: str
    consumer: str


@record(frozen=True, slots=True)
class Same:
    """Two slots of one op that must have equal scale and offset.

    Attributes:
        pass_through: the op has one data input and this kind of tie to its outputs, so that it belongs to the
            family of the value that enters it (MaxPool, Reshape, ...); otherwise it merges values (Concat, Add, ...).
        direction: the side whose parameters the target's converter writes over those of the other; None where the
            pack does not say. Equal is equal, so that it changes no group.
    """

    a: str
    b: str
    origin: Origin
    strength: Strength
    pass_through: bool
    direction: Direction | None = None


@record(frozen=True, slots=True)
class Alignment:
    """Whose statistics count where an alignment option speaks about an op.

    Attributes:
        method: Align to Input, Align to Output or Align to Large; the others let all statistics count.
        inputs, outputs: the op's slots that are quantized as values; those of one side are silenced.
    """

    op: str
    op_type: str
    method: MergeMethod
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A slot whose scale and offset the target prescribes."""

    slot: str
    scale: float
    offset: int
    origin: Origin


@record(frozen=True, slots=True)
class Derived:
    """A bias slot whose scale is that of `activation` times that of `weight`, offset 0."""

    slot: str
    activation: str
    weight: str
    origin: Origin


@record(frozen=True, slots=True)
class Fused:
    """Two slots (an output and the input it feeds) inside a pair of ops that run as one: nothing is quantized there."""

    producer: str
    consumer: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Ratio:
    """A bound on the scales of one op: the product of some over the product of others.

    It is no part of sharing: it is looked at once scales are known.

    Attributes:
        numerator, denominator: slots; a weight with a scale per channel must keep the bound in every channel.
        above: the ratio must be greater; None where it has no such bound.
        below: the ratio must be less.
        at_least, at_most: the same, the bound itself allowed.
    """

    numerator: tuple[str, ...]
    denominator: tuple[str, ...]
    origin: Origin
    above: float | None = None
    below: float | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Ops of a type that the pack does not name, and what its policy makes of them.

    Attributes:
        reason: why they stay float; None where the policy quantizes them, without any rule.
    """

    op_type: str
    ops: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Constraints:
    """Everything that a target says about a model. All tuples are sorted, so equal models give equal values.

    Attributes:
        slots: every slot on a float tensor, quantizable or not.
        tensors: only between quantizable slots.
        remarks: what a user should know of their overrides, in words.
        fixed_in_bits: what is prescribed only once an output has a number of bits that it does not have here.
    """

    target: str
    version: str
    can_requantize: bool
    slots: Mapping[str, SlotPlan]
    tensors: tuple[TensorEdge, ...]
    same: tuple[Same, ...]
    fixed: tuple[Fixed, ...]
    derived: tuple[Derived, ...]
    fused: tuple[Fused, ...]
    alignments: tuple[Alignment, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    unlisted: tuple[Unlisted, ...] = ()
    remarks: tuple[str, ...] = ()
    fixed_in_bits: tuple[tuple[int, Fixed], ...] = ()


@record(frozen=True, slots=True)
class Edge:
    """One step of a chain of reasons. Along a tensor, all but `kind`, `a` and `b` are None."""

    kind: Kind
    a: str
    b: str
    rule: str | None = None
    op: str | None = None
    op_type: str | None = None
    strength: Strength | None = None
    source: str | None = None


@record(frozen=True, slots=True)
class Group:
    """Slots that share one scale and offset.

    Attributes:
        id: digest of the sorted members; the same members have the same id in every run and model.
        slots: sorted.
        tensors: the tensors whose producer's slot (or, if that is not in any group, first reader) is a member; sorted.
        master: the member that owns the parameters: a producer's slot where there is one, the first by name.
        fixed: the parameters that the target prescribes, if it does.
        derived: how they follow from other slots, if they do.
    """

    id: str
    slots: tuple[str, ...]
    tensors: tuple[str, ...]
    master: str
    scheme: Scheme
    fixed: Fixed | None = None
    derived: Derived | None = None


@record(frozen=True, slots=True)
class Requantize:
    """A reader whose parameters differ from those its tensor was made with."""

    tensor: str
    slot: str
    producer: str


@dataclass(frozen=True, slots=True)
class Grouping:
    """The solution: groups (by id), requantizes (by slot), and the edges that were joined (sorted), for `why`."""

    groups: tuple[Group, ...]
    requantizes: tuple[Requantize, ...]
    joined: tuple[Edge, ...]
