"""Run torch on one CPU thread for a while, or each of several pieces of work on one of its own.

The observers work on tensors that fit into the cache. Splitting each such operation over threads gains a quarter on
an idle machine; on a busy one the threads wait for each other at the end of every operation, and it takes ten times
as long. Batches share nothing, so that threads which take a batch each seldom wait.

Results are the same to the last bit: a batch goes through the same operations on tensors of the same shapes whoever
takes it, and none of them is split. (Torch could not promise that for its own threads: the logarithm of an element
may differ by whether it lies in the last, incomplete vector of a part.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from qgraph.calib.side_by_side import side_by_side

One = TypeVar("One")
Made = TypeVar("Made")


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch use one thread inside the block (or the decorated function), and what it had before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches_beside(function: Callable[[One], Made], batches: Sequence[One]) -> list[Made]:
    """What a function makes of each batch on CPU, in their order: side by side, torch having one thread in each.

    Args:
        function: may be called from several threads at a time.
    """
    # A new thread begins with as many of torch's as the last one that was told a number, whoever that was.
    return side_by_side(one_thread()(function), batches)
