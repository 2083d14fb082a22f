"""Shards share the samples out, whatever their order."""

import pytest

from qgraph.calib.data.shards import parse_shard, part_of
from qgraph.errors import UsageError

CENSUS = {f"{number:02x}": 1 + number % 2 for number in (9, 3, 200, 17, 4, 80, 51)}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_hold_every_sample_once(count: int) -> None:
    parts = [part_of(CENSUS, parse_shard(f"{i}/{count}")) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part.items()) == sorted(CENSUS.items())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_of_the_samples_does_not_matter() -> None:
    turned = dict(reversed(CENSUS.items()))
    assert part_of(turned, parse_shard("2/3")) == part_of(CENSUS, parse_shard("2/3"))


def test_a_shard_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match="without samples"):
        part_of(CENSUS, parse_shard("8/8"))


@pytest.mark.parametrize("text", ["", "1", "0/1", "2/1", "-1/2", "1/2/3", "1/x", "½/1"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shard(text)
