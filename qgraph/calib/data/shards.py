"""Parts of one data set, each for a machine of its own.

Which samples a shard has is read off their hashes, so it does not depend on their order: the different samples, sorted
by hash, are dealt out in turn, and equal ones stay together::

    hash     04  1c  5e  77  9a  b2  f0
    shard     1   2   3   1   2   3   1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.errors import UsageError


@dataclass(frozen=True, order=True, slots=True)
class Shard:
    """The `index`-th (from 1) of `count` parts; written ``1/3``."""

    count: int
    index: int

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read what a shard is written as.

    Raises:
        UsageError: it is no ``i/n`` with i from 1 to n.

    >>> str(parse_shard("2/3"))
    '2/3'
    """
    index, slash, count = text.strip().partition("/")
    if not (slash and index.isascii() and count.isascii() and index.isdigit() and count.isdigit()):
        raise UsageError("a shard that cannot be read", text, "write i/n, as 1/3")
    if not 1 <= int(index) <= int(count):
        raise UsageError("no such shard", text, f"write i/n with i from 1 to {max(1, int(count))}")
    return Shard(int(count), int(index))


def part_of(census: Mapping[str, int], shard: Shard) -> dict[str, int]:
    """The samples of a shard: content hash → multiplicity.

    Raises:
        UsageError: there are fewer different samples than shards, so that this one is empty.

    >>> part_of({"f0": 1, "04": 2, "1c": 1}, parse_shard("1/2"))
    {'04': 2, 'f0': 1}
    """
    found = {name: census[name] for name in sorted(census)[shard.index - 1 :: shard.count]}
    if not found:
        raise UsageError("a shard without samples", f"{shard} of {len(census)} different samples", "use fewer shards")
    return found
