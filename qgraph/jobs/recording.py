"""What a calibration of a model records, so that every shipped target can be solved from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qgraph.calib.plan import CollectionPlan, plan_collection
from qgraph.calib.spread import channel_statistics
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.model import SlotPlan
from qgraph.constraints.pack import load_pack, pack_names
from qgraph.constraints.rules import constrain
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph


def shipped_slots(structure: Structure) -> frozenset[SlotPlan]:
    """What the shipped targets make of each slot."""
    graph = Graph(structure)
    return frozenset(plan for name in pack_names() for plan in constrain(graph, load_pack(name)).slots.values())


def plan_recording(structure: Structure, slots: Iterable[SlotPlan], *, lean: bool = False) -> CollectionPlan:
    """Decide what a calibration collects; unless it is lean, that is the same whatever target is asked for.

    Args:
        slots: what the targets that are to be served make of each slot; see `shipped_slots`.
        lean: see `qgraph.calib.plan.plan_collection`.
    """
    return plan_collection(structure, channel_axes(slots), lean=lean)


def channel_axes(slots: Iterable[SlotPlan]) -> dict[str, tuple[int, ...]]:
    """The axes along which activations are quantized per channel, by tensor, both sorted."""
    axes: dict[str, set[int]] = {}
    for slot in slots:
        if slot.role == "activation" and slot.scheme is not None and slot.scheme.axis is not None:
            axes.setdefault(slot.tensor, set()).add(slot.scheme.axis)
    return {tensor: tuple(sorted(found)) for tensor, found in sorted(axes.items())}


def channels_for(
    slots: Iterable[SlotPlan], statistics: Mapping[str, TensorStatistics]
) -> dict[tuple[str, int], tuple[TensorStatistics, ...]]:
    """The statistics of each channel that slots quantize apart, by tensor and axis, as far as they were collected."""
    found = {}
    for tensor, axes in channel_axes(slots).items():
        known = {one.axis: one for one in statistics[tensor].channels if one.binned} if tensor in statistics else {}
        for axis in axes:
            if axis in known:
                found[tensor, axis] = channel_statistics(known[axis], statistics[tensor].samples)
    return found
