"""Whose statistics count in a group, and whether each value is solved alone: what the alignment options decide.

A value counts once, and it is silenced as a value: with all that merely repeats it or that it merely repeats. One op
is enough to silence it, and one Align to Large is enough for a group, so no order of ops matters::

    Conv ── c ── Reshape ── r ─┐                 Align to Output at Add silences r and o,
                               Add ── s          and with r also c, whose values r repeats
    Conv ── o ─────────────────┘                 s is heard

Where an op only joins its inputs (Concat), both sides are the same values, so that neither can be silenced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qgraph.calib.observers.observe import has_signal
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics
from qgraph.constraints.merge_methods import MergeMethod
from qgraph.constraints.model import Alignment, Constraints, Group
from qgraph.ir.elements import Op
from qgraph.solve.pool import counted, sources


@dataclass(frozen=True, slots=True)
class Voices:
    """What one group is solved from.

    Attributes:
        heard: the tensors whose statistics count, each value once, sorted.
        silenced: by tensor, what silenced it; what repeats a silenced tensor counts with it and is not listed.
        large: what asks to solve each value alone and to unite the ranges; None where they are solved together.
    """

    heard: tuple[str, ...]
    silenced: Mapping[str, Alignment] = field(default_factory=dict)
    large: Alignment | None = None


def listen(
    groups: Sequence[Group],
    members: Mapping[str, tuple[str, ...]],
    constraints: Constraints,
    statistics: Mapping[str, TensorStatistics],
    producers: Mapping[str, Op],
) -> dict[str, Voices]:
    """Decide for each group who is heard.

    Silence that would leave nothing to solve from (nothing, or no value but zeros) is not kept.

    Args:
        members: the tensors read or made at the slots of each group, by group id.
        statistics: by tensor; one that is missing was never run.
        producers: the op that makes each tensor.

    Returns:
        By group id.
    """
    home = {slot: group.id for group in groups if group.fixed is None for slot in group.slots}
    spoken: dict[str, list[Alignment]] = {}
    for alignment in sorted(constraints.alignments, key=lambda one: one.op):
        for id_ in sorted({home[slot] for slot in (*alignment.inputs, *alignment.outputs) if slot in home}):
            spoken.setdefault(id_, []).append(_within(alignment, id_, home))
    found = {}
    for group in groups:
        voices = _voices(members[group.id], spoken.get(group.id, ()), constraints, producers)
        if voices.silenced and not any(has_signal(statistics.get(name, EMPTY_STATISTICS)) for name in voices.heard):
            voices = replace(voices, heard=counted(members[group.id], producers), silenced={})
        found[group.id] = voices
    return found


def reason(alignment: Alignment) -> str:
    """Why a tensor is silenced, or solved alone, in words."""
    return f"{alignment.method} at {alignment.op} ({alignment.op_type})"


def _within(alignment: Alignment, group: str, home: Mapping[str, str]) -> Alignment:
    """An alignment with the slots that are in one group."""
    return replace(
        alignment,
        inputs=tuple(slot for slot in alignment.inputs if home.get(slot) == group),
        outputs=tuple(slot for slot in alignment.outputs if home.get(slot) == group),
    )


def _voices(
    tensors: tuple[str, ...], spoken: Iterable[Alignment], constraints: Constraints, producers: Mapping[str, Op]
) -> Voices:
    values, group = counted(tensors, producers), frozenset(tensors)
    known = frozenset(values)
    silenced: dict[str, Alignment] = {}
    large = None
    for alignment in spoken:
        if alignment.method == MergeMethod.LARGE and alignment.inputs:
            large = large or alignment
        if any(constraints.slots[slot].tensor not in known for slot in alignment.outputs):
            continue
        names = [constraints.slots[slot].tensor for slot in _silenced_slots(alignment)]
        while names:
            name = names.pop()
            if name not in silenced:
                silenced[name] = alignment
                names.extend(sources(name, group, producers))
    return Voices(tuple(name for name in values if name not in silenced), silenced, large)


def _silenced_slots(alignment: Alignment) -> Iterator[str]:
    """The slots of the side that does not count; none where the other side is not in the group."""
    if alignment.inputs and alignment.outputs:
        yield from alignment.inputs if alignment.method == MergeMethod.OUTPUT else alignment.outputs
