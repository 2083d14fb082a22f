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
    return tuple(sorted(name for name in members if not sources(name, members, producers)))


def sources(tensor: str, members: frozenset[str], producers: Mapping[str, Op]) -> tuple[str, ...]:
    """The members whose values a tensor merely repeats; none where it holds a value that they do not."""
    op = producers.get(tensor)
    if op is None or op.domain or op.type not in REPEATING | JOINING:
        return ()
    inputs = op.inputs[:1] if op.type in REPEATING else op.inputs
    found = tuple(name for name in inputs if name is not None)
    return found if members.issuperset(found) else ()


def pooled(members: Sequence[TensorStatistics]) -> TensorStatistics:
    """Statistics of all values of at least one member, whatever their order.

    Channels of different tensors are no longer any tensor's and are left out. What a member knows exactly stays exact:
    its extremes become atoms, since another member's may lie beyond them.
    An atom's count is then a lower bound, because the members that do not know it hold it in a bin.
    """
    known = [_multiplicities(member) for member in members]
    atoms = atoms_of(value for one in known for value in one)
    unified = (
        replace(member, atoms=tuple((value, one.get(value, 0)) for value in atoms), channels=())
        for member, one in zip(members, known, strict=True)
    )
    return reduce(merge, unified)


def _multiplicities(member: TensorStatistics) -> dict[float, int]:
    """The values whose exact multiplicity in a member is known."""
    known = dict(member.atoms)
    if member.minimum is not None and member.maximum is not None:
        known |= {member.minimum: member.minimum_count, member.maximum: member.maximum_count}
    return known
