"""Several passes share the counters out, and the quickest way that fits is taken."""

import pytest

from qgraph.calib.passes import Footprint, Schedule, parse_memory, schedule
from qgraph.errors import UsageError

TAKEN = Footprint(100, 50, {"a": 30, "b": 20, "c": 40, "d": 10})


def test_without_a_limit_there_is_one_pass() -> None:
    assert schedule(TAKEN, 2, None) == Schedule(2, (("a", "b", "c", "d"),))
    assert TAKEN.peak(schedule(TAKEN, 2, None)) == 100 + 2 * 50 + 100


@pytest.mark.parametrize("limit", range(190, 320, 10))
def test_every_activation_is_counted_once_and_the_limit_holds(limit: int) -> None:
    chosen = schedule(TAKEN, 2, limit)
    assert sorted(name for one in chosen.passes for name in one) == sorted(TAKEN.counters)
    assert TAKEN.peak(chosen) <= limit


def test_one_inference_at_a_time_is_taken_where_it_saves_more_than_it_costs() -> None:
    assert schedule(TAKEN, 2, 250) == Schedule(1, (("a", "b", "c", "d"),))
    assert schedule(TAKEN, 2, 300).threads == 2


def test_too_low_a_limit_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(UsageError, match="allow 1M or more"):
        schedule(TAKEN, 2, 189)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("3 GB", 3 << 30)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "0", "inf", "nan", "1Q", "1e30"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_memory(text)
