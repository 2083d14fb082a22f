"""Run torch on one CPU thread for a while.

The observers work on tensors that fit into the cache. Splitting each such operation over threads gains a quarter on
an idle machine; on a busy one the threads wait for each other at the end of every operation, and it takes ten times
as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch use one thread inside the block (or the decorated function), and what it had before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
