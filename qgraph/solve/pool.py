"""What a group is solved from: the statistics of its tensors, each value counted once.

::

    a ─┐                          group {a, b, c, d}: c repeats a and b, d repeats c,
       Concat ── c ── Reshape ── d          so a and b are counted, c and d are not
    b ─┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from qgraph.calib.statistics import TensorStatistics, atoms_of, merge
from qgraph.ir.elements import Op

REPEATING = frozenset(
    {
        "Compress",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "ReverseSequence",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
    }
)
"""ONNX ops whose float outputs hold nothing but values of their first input."""

JOINING = frozenset({"Concat"})
"""ONNX ops whose output holds the values of all their inputs."""


def counted(tensors: Iterable[str], producers: Mapping[str, Op]) -> tuple[str, ...]:
    """The tensors that do not merely repeat others of the same group, sorted.

    Args:
        producers: the op that makes each tensor; graph inputs and constants are missing.
    """
    members = frozenset(tensors)
    return tuple(sorted(name for name in members if not _repeats(producers.get(name), members)))


def _repeats(op: Op | None, members: frozenset[str]) -> bool:
    """Whether everything that `op` makes is in its inputs, and these are members."""
    if op is None or op.domain:
        return False
    if op.type in REPEATING:
        return op.inputs[0] in members
    return op.type in JOINING and all(name in members for name in op.inputs if name is not None)


def pooled(members: Sequence[TensorStatistics]) -> TensorStatistics:
    """Statistics of all values of at least one member, whatever their order.

    What a member knows exactly stays exact: its extremes become atoms, since another member's may lie beyond them.
    An atom's count is then a lower bound, because the members that do not know it hold it in a bin.
    """
    known = [_multiplicities(member) for member in members]
    atoms = atoms_of(value for one in known for value in one)
    unified = (
        replace(member, atoms=tuple((value, one.get(value, 0)) for value in atoms))
        for member, one in zip(members, known, strict=True)
    )
    return reduce(merge, unified)


def _multiplicities(member: TensorStatistics) -> dict[float, int]:
    """The values whose exact multiplicity in a member is known."""
    known = dict(member.atoms)
    if member.minimum is not None and member.maximum is not None:
        known |= {member.minimum: member.minimum_count, member.maximum: member.maximum_count}
    return known
