"""Work is done side by side, in order, and never by more threads than there should be."""

from threading import Barrier, Event, active_count, current_thread

import pytest

from qgraph.calib.side_by_side import AT_A_TIME, side_by_side


def test_several_are_worked_on_at_a_time_and_answered_in_their_order() -> None:
    together = Barrier(AT_A_TIME, timeout=60)

    def negated(number: int) -> int:
        together.wait()  # which nobody passes who is alone
        return -number

    assert side_by_side(negated, range(4 * AT_A_TIME)) == [-number for number in range(4 * AT_A_TIME)]


def test_inside_it_works_in_its_own_thread() -> None:
    def threads(_: int) -> bool:
        return {current_thread()} == set(side_by_side(lambda _: current_thread(), range(5)))

    assert all(side_by_side(threads, range(4)))


def test_one_thing_leaves_the_threads_to_what_it_does() -> None:
    (inner,) = side_by_side(lambda _: side_by_side(lambda _: current_thread(), range(9)), [0])
    assert current_thread() not in inner


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_one_raises_ends_it_and_those_that_wait_do_not_begin(error: type[BaseException]) -> None:
    begun, failed = [], Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            failed.set()
            raise error
        assert failed.wait(60)

    before = active_count()
    with pytest.raises(error):
        side_by_side(work, range(10_000))
    assert len(begun) < 10_000
    assert active_count() == before
