"""Several passes over the data where all counters at once would take too much memory.

Every pass runs the same session, so that every activation is the same in each, and counts some of the tensors::

    room = limit − fixed − threads · activations

    bytes of counters    a ▇▇▇  b ▇▇  c ▇▇▇▇  d ▇          room ▇▇▇▇▇
    passes               {a, b}       {c, d}

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.errors import UsageError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a calibration takes, in bytes.

    Attributes:
        fixed: without any inference.
        activations: of one inference.
        counters: by activation.
    """

    fixed: int
    activations: int
    counters: Mapping[str, int]

    def peak(self, schedule: Schedule) -> int:
        """The most bytes at a time."""
        largest = max((sum(self.counters[name] for name in one) for one in schedule.passes), default=0)
        return self.fixed + schedule.threads * self.activations + largest


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many inferences run at a time, and which activations are counted in which pass."""

    threads: int
    passes: tuple[tuple[str, ...], ...]


def schedule(footprint: Footprint, threads: int, limit: int | None) -> Schedule:
    """The quickest schedule that stays below a limit: fewer inferences at a time, or more passes.

    Args:
        threads: the most inferences at a time.
        limit: bytes; None for no limit.

    Raises:
        UsageError: not even one activation a pass fits.

    >>> schedule(Footprint(10, 5, {"a": 3, "b": 2, "c": 4, "d": 1}), 2, 22)
    Schedule(threads=1, passes=(('a', 'b'), ('c', 'd')))
    """
    names = tuple(sorted(footprint.counters))
    if limit is None:
        return Schedule(threads, (names,))
    found = []
    for number in range(threads, 0, -1):
        passes = _split(footprint.counters, limit - footprint.fixed - number * footprint.activations)
        if passes is not None:
            found.append(Schedule(number, passes))
    if not found:
        least = footprint.fixed + footprint.activations + max(footprint.counters.values(), default=0)
        cure = f"allow {-(-least // 2**20)}M or more, or use smaller samples"
        raise UsageError("too little memory for a calibration", f"--max-memory of {limit / 2**20:.0f}M", cure)
    return min(found, key=lambda one: (len(one.passes) / one.threads, len(one.passes)))


def _split(counters: Mapping[str, int], room: int) -> tuple[tuple[str, ...], ...] | None:
    """Names in order, as many at a time as there is room for; None if one alone does not fit."""
    if max(counters.values(), default=0) > room:
        return None
    passes: list[list[str]] = [[]]
    used = 0
    for name in sorted(counters):
        if used + counters[name] > room:
            passes.append([])
            used = 0
        passes[-1].append(name)
        used += counters[name]
    return tuple(map(tuple, passes))


def parse_memory(text: str | int) -> int:
    """A number of bytes: ``512M``, ``2G``, ``1.5GiB`` or plain bytes; units are powers of 1024.

    Raises:
        UsageError: it cannot be read.

    >>> parse_memory("512M") == 512 * 2**20, parse_memory("1.5GiB") == 1.5 * 2**30
    (True, True)
    """
    cleaned = str(text).strip().upper().removesuffix("B").removesuffix("I")
    number, unit = (cleaned[:-1], cleaned[-1]) if cleaned[-1:] in UNITS and cleaned else (cleaned, "")
    try:
        size = float(number) * UNITS[unit]
    except ValueError:
        size = 0.0
    if not 1 <= size < 2**63:
        raise UsageError("a size of memory that cannot be read", repr(text), "write it as 512M or 2G")
    return int(size)
