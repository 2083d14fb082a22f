"""Work on several things at a time in threads, never more at once than there should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

One = TypeVar("One")
Made = TypeVar("Made")

AT_A_TIME = 2
"""Threads that work, each on a thing of its own, so that results do not depend on the number of cores. It is faster
than one thing on several threads, too, which wait for each other after every operation."""

_BESIDE = ContextVar("_BESIDE", default=False)
"""Whether this thread has others beside it already; each thread has a context of its own."""


def side_by_side(function: Callable[[One], Made], over: Iterable[One]) -> list[Made]:
    """What a function makes of each, in their order, `AT_A_TIME` at a time.

    Called from inside such a function it makes one after the other, in its own thread: the cores are taken. What a
    function raises is raised once those under way have ended; those that wait do not begin any more.

    >>> side_by_side(abs, [-2, 1])
    [2, 1]
    """
    waiting = list(over)
    if _BESIDE.get() or len(waiting) < 2:
        return [function(one) for one in waiting]
    pool = ThreadPoolExecutor(AT_A_TIME, initializer=_BESIDE.set, initargs=(True,))
    try:
        return list(pool.map(function, waiting))
    finally:
        pool.shutdown(cancel_futures=True)
