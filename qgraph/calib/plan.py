"""What a calibration collects: planned from the model alone, never from a target or an observer.

Every float activation of the main graph gets statistics. Those that an op only rearranges are not run through
the kernel but follow exactly from their sources::

    Conv ─▶ a ─▶ Relu ─▶ b ─▶ Reshape ─▶ c ┐
                                           ├─▶ Concat ─▶ e          collected: a, d
    Conv ─▶ d ─────────────────────────────┘                       b = relu(a), c = b, e = c + d

Atoms are the values that pile up because the producer clips or fills with them: their exact multiplicity is
counted. Ops that pass values on, as MaxPool and Reshape do, pass the atoms on as well.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType

from qgraph.calib.channels import CHANNEL_MANTISSA_BITS
from qgraph.calib.clipping import clip_bounds, clipped, clips_whole_bins
from qgraph.calib.codec import FORMAT_VERSION
from qgraph.calib.followers import Follower, Rule
from qgraph.calib.grid import GRID_BITS, SIGN_BIN
from qgraph.calib.parts import Parts, plan_parts
from qgraph.calib.rows import ROW_MANTISSA_BITS
from qgraph.calib.statistics import TensorStatistics, atoms_of, merge
from qgraph.errors import StatisticsError
from qgraph.ir.elements import Op, Structure, Tensor

REARRANGING = ("DepthToSpace", "Flatten", "Identity", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze")
"""Ops whose output holds each element of the first input once: same histogram."""

SELECTING = (
    *("Expand", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin"),
    *("Relu", "Slice", "Split", "Tile", "TopK"),
)
"""Ops whose output consists of elements of the first input (Relu: or of zeros), in other numbers."""

MIXING = ("Concat", "Max", "Min", "Where")
"""Ops whose output consists of elements of several inputs."""

BOUND_INPUTS: Mapping[str, tuple[int, ...] | None] = MappingProxyType(
    {"Clip": (1, 2), "Max": None, "Min": None, "Pad": (2,), "Where": (1, 2)}
)
"""Inputs whose constant values appear in the output; None means all."""

BOUND_ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType({"Clip": ("min", "max"), "Pad": ("value",)})
"""Attributes with the same meaning, from opsets before those inputs."""

BUILT_IN_BOUNDS: Mapping[str, tuple[float, ...]] = MappingProxyType({"HardSigmoid": (0.0, 1.0)})

MAX_ATOMS = 8
"""A constant with more different values than this is data, not a bound."""


@dataclass(frozen=True)
class CollectionPlan:
    """What a calibration of one model collects.

    Attributes:
        atoms: per collected tensor, sorted by name, the values whose exact multiplicity is counted.
        followers: in an order in which every source comes first.
        parts: per tensor, sorted by name, what is recorded beside its histogram; a follower may have some too.
    """

    atoms: Mapping[str, tuple[float, ...]]
    followers: tuple[Follower, ...]
    parts: Mapping[str, Parts] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors whose histograms are collected, sorted."""
        return tuple(self.atoms)

    @property
    def exposed(self) -> tuple[str, ...]:
        """Names of the tensors that a runner has to return, sorted."""
        return tuple(sorted({*self.atoms, *(parts.source for parts in self.parts.values())}))

    def only(self, sources: Iterable[str]) -> CollectionPlan:
        """What is recorded from some of the exposed tensors; a runner of the whole plan serves it."""
        chosen = set(sources)
        atoms = {name: values for name, values in self.atoms.items() if name in chosen}
        parts = {name: one for name, one in self.parts.items() if one.source in chosen}
        return CollectionPlan(MappingProxyType(atoms), (), MappingProxyType(parts))

    @property
    def recorded(self) -> Mapping[str, tuple[float, ...]]:
        """The atoms of every tensor of which something is recorded, sorted by name."""
        both = {name: parts.atoms for name, parts in self.parts.items()} | dict(self.atoms)
        return MappingProxyType({name: both[name] for name in sorted(both)})


def plan_collection(
    structure: Structure, channel_axes: Mapping[str, Iterable[int]] = MappingProxyType({}), *, lean: bool = False
) -> CollectionPlan:
    """Decide for each float activation whether it is collected or follows, with which atoms, and what beside.

    Args:
        channel_axes: per tensor the axes along which some served target quantizes it per channel.
        lean: without the sums and extremes of channels, which only improving the model needs.
    """
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    atoms: dict[str, tuple[float, ...]] = {}
    followers: dict[str, Follower] = {}
    for name in structure.inputs:
        if _is_activation(tensors, name):
            atoms[name] = ()
    for op in structure.ops:
        for name in filter(None, op.outputs):
            if not _is_activation(tensors, name):
                continue
            atoms[name] = _planned_atoms(op, tensors, atoms)
            follower = _follower(op, name, tensors, atoms)
            if follower is not None:
                followers[name] = follower
    collected = {name: atoms[name] for name in sorted(atoms) if name not in followers}
    parts = plan_parts(structure, atoms, followers, channel_axes, lean=lean)
    return CollectionPlan(MappingProxyType(collected), tuple(followers.values()), MappingProxyType(parts))


def _is_activation(tensors: Mapping[str, Tensor], name: str) -> bool:
    tensor = tensors.get(name)
    # numpy has no bfloat16, so a runner cannot hand such a tensor out; no target quantizes it.
    return tensor is not None and tensor.is_float and tensor.dtype != "bfloat16" and not tensor.constant


def _planned_atoms(op: Op, tensors: Mapping[str, Tensor], atoms: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """The op's own bounds, and the atoms of the values that it passes on."""
    if op.domain:
        return ()
    passed: tuple[str | None, ...] = ()
    if op.type in MIXING:
        passed = op.inputs
    elif op.type in (*REARRANGING, *SELECTING, "Clip", "Pad"):
        passed = op.inputs[:1]
    values = set(_own_bounds(op, tensors))
    values.update(value for name in passed if name is not None for value in atoms.get(name, ()))
    if op.type == "Relu":
        values = {value for value in values if value > 0}
    return tuple(sorted(values))


def _own_bounds(op: Op, tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Constants of the op that appear in its output. Zero is counted anyway."""
    indices = BOUND_INPUTS.get(op.type, ())
    names = op.inputs if indices is None else [op.inputs[i] for i in indices if i < len(op.inputs)]
    found: list[float] = list(BUILT_IN_BOUNDS.get(op.type, ()))
    for name in names:
        tensor = tensors.get(name) if name is not None else None
        values = tensor.values if tensor is not None and tensor.is_float else None
        if values is not None and len(set(values)) <= MAX_ATOMS:
            found.extend(values)
    for attribute in BOUND_ATTRIBUTES.get(op.type, ()):
        value = op.attributes.get(attribute)
        if isinstance(value, int | float):
            found.append(value)
    return tuple(value for value in atoms_of(_countable(found)) if value != 0)


def _countable(values: Iterable[float]) -> list[float]:
    """Without the bounds that bind nothing: not finite, or at the end of the float32 range."""
    largest = math.ldexp(2 - 2**-23, 127)
    return [value for value in values if abs(value) < largest]


def _follower(
    op: Op, name: str, tensors: Mapping[str, Tensor], atoms: Mapping[str, tuple[float, ...]]
) -> Follower | None:
    """How an output follows from the op's inputs, or None if it has to be collected."""
    rule: Rule | None = None
    bounds = (-math.inf, math.inf)
    if not op.domain:
        rule = "same" if op.type in REARRANGING else "relu" if op.type == "Relu" else None
        rule = "sum" if op.type == "Concat" else rule
        if op.type == "Clip":
            found = clip_bounds(op, tensors)
            rule, bounds = ("clip", found) if found is not None and clips_whole_bins(*found) else (None, bounds)
    if rule is None:
        return None
    sources = tuple(filter(None, op.inputs if rule == "sum" else op.inputs[:1]))
    # What a clip cuts off piles up at its bounds, whose multiplicity follows from the bins.
    wanted = {atom for atom in atoms[name] if bounds[0] < atom < bounds[1]}
    if any(source not in atoms or not wanted <= set(atoms[source]) for source in sources):
        return None
    return Follower(name, rule, sources, atoms[name], bounds)


def complete(plan: CollectionPlan, collected: Mapping[str, TensorStatistics]) -> dict[str, TensorStatistics]:
    """Statistics of all planned tensors: the collected ones and, computed exactly, those that follow.

    Those of users are left out: `qgraph.calib.own.complete_own` tells them.

    Raises:
        StatisticsError: a planned tensor was not collected.
    """
    missing = sorted(set(plan.tensors) - set(collected))
    if missing:
        raise StatisticsError("planned tensors were not collected", ", ".join(missing), "calibrate again")
    known = {name: replace(collected[name], own=()) for name in plan.tensors}
    for follower in plan.followers:
        parts = [_with_atoms(known[source], follower.atoms) for source in follower.sources]
        if follower.rule == "clip":
            known[follower.tensor] = clipped(parts[0], *follower.bounds, follower.atoms)
        elif follower.rule == "sum":
            known[follower.tensor] = replace(reduce(merge, parts), samples=parts[0].samples)
        else:
            known[follower.tensor] = _rectified(parts[0]) if follower.rule == "relu" else parts[0]
        own = collected.get(follower.tensor)
        if own is not None:
            known[follower.tensor] = replace(known[follower.tensor], channels=own.channels, rows=own.rows)
    return known


def _with_atoms(statistics: TensorStatistics, atoms: tuple[float, ...]) -> TensorStatistics:
    """Keep only these of the atoms, and neither channels nor rows: the follower's lie elsewhere."""
    kept = tuple((value, count) for value, count in statistics.atoms if value in atoms)
    return replace(statistics, atoms=kept, channels=(), rows=())


def _rectified(statistics: TensorStatistics) -> TensorStatistics:
    """Statistics of max(x, 0), NaN staying NaN. Who holds the extremes stays known where they were not changed by it.

    The sample with the least value has a zero now; it need not be the one with the smallest hash among those.
    """
    s = statistics
    positive = s.bins < SIGN_BIN
    zeros = s.zeros + int(s.counts[~positive].sum()) + s.negative_infinities
    known = s.provenance
    if s.negative_infinities:
        known = replace(known, nonfinite=None)
    rectified = replace(s, bins=s.bins[positive], counts=s.counts[positive], zeros=zeros, negative_infinities=0)
    if zeros:
        known = replace(known, minimum=known.minimum if s.minimum is not None and s.minimum <= 0 else None)
        rectified = replace(rectified, minimum=0.0, minimum_count=zeros)
    if zeros and not positive.any():
        rectified = replace(rectified, maximum=0.0, maximum_count=zeros)
    return replace(rectified, provenance=known)


def capabilities(plan: CollectionPlan) -> dict[str, str | int]:
    """What statistics made by this plan can serve; part of a calibration's identity.

    Calibrations with equal capabilities of one model are interchangeable.
    """
    planned = [("collect", name, *(value.hex() for value in values)) for name, values in plan.atoms.items()]
    planned += [
        (f.rule, f.tensor, *f.sources, *(value.hex() for value in (*f.bounds, *f.atoms))) for f in plan.followers
    ]
    planned += [("parts", name, *map(repr, (parts.channels, parts.rows))) for name, parts in plan.parts.items()]
    digest = hashlib.blake2b(repr(planned).encode(), digest_size=16).hexdigest()
    return {
        "statistics_format": FORMAT_VERSION,
        "grid_bits": GRID_BITS,
        "channel_mantissa_bits": CHANNEL_MANTISSA_BITS,
        "row_mantissa_bits": ROW_MANTISSA_BITS,
        "channel_histograms": sum(one.binned for parts in plan.parts.values() for one in parts.channels),
        "channel_sums": sum(bool(parts.channels) for parts in plan.parts.values()),
        "rows": sum(len(parts.rows) for parts in plan.parts.values()),
        "records": "histogram,extremes,zeros,atoms,nonfinite,samples,provenance,channels,sums,rows",
        "plan": digest,
    }
