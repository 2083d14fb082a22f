"""Names of slots: the places of quantization configs.

A slot is written ``OP:in:0`` or ``OP:out:0``; those of the graph itself are ``graph:in:NAME`` (an input),
``graph:out:NAME`` (an output) and ``graph:const:NAME`` (a constant as the value that its readers share).
They are plain strings everywhere, so that they can be persisted, compared and printed as they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["in", "out", "const"]


class SlotParts(NamedTuple):
    """A slot's name taken apart: `op` is None for the slots of the graph, whose `key` is a tensor's name."""

    op: str | None
    side: Side
    key: str


def input_slot(op: str, index: int) -> str:
    """The slot of an op's input."""
    return f"{op}:in:{index}"


def output_slot(op: str, index: int) -> str:
    """The slot of an op's output."""
    return f"{op}:out:{index}"


def graph_input(tensor: str) -> str:
    """The slot of a graph input."""
    return f"graph:in:{tensor}"


def graph_output(tensor: str) -> str:
    """The slot of a graph output."""
    return f"graph:out:{tensor}"


def graph_constant(tensor: str) -> str:
    """The slot of a constant as a value."""
    return f"graph:const:{tensor}"


def makes_its_tensor(slot: str) -> bool:
    """Whether a tensor begins at a slot: an op's output, a graph input or a constant.

    >>> [makes_its_tensor(slot) for slot in ("conv:out:0", "graph:in:x", "conv:in:0", "graph:out:y")]
    [True, True, False, False]
    """
    if slot.startswith("graph:"):
        return not slot.startswith("graph:out:")
    return slot.rsplit(":", 2)[1] != "in"


def parts(slot: str) -> SlotParts:
    """Take a slot's name apart. Op names may contain colons; importers see to it that none begins with ``graph:``.

    >>> parts("block/conv:0:in:1")
    SlotParts(op='block/conv:0', side='in', key='1')
    >>> parts("graph:out:a:b")
    SlotParts(op=None, side='out', key='a:b')
    """
    sides: tuple[Side, ...] = ("in", "out", "const")
    for side in sides:
        prefix = f"graph:{side}:"
        if slot.startswith(prefix):
            return SlotParts(None, side, slot[len(prefix) :])
    op, direction, key = slot.rsplit(":", 2)
    return SlotParts(op, "in" if direction == "in" else "out", key)
