"""Ctrl-C and SIGTERM in the middle of counting: what was counted is stored first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells have it."""

Asked = Callable[[], BaseException | None]
"""Tells whether somebody wants an end, as the exception that brings it."""


@contextmanager
def stopping_gently() -> Iterator[Asked]:
    """Inside the block a first SIGINT or SIGTERM only asks for an end; a second one brings it at once.

    Signals that somebody else handles, and those of a program that calls this from another thread than its main one,
    are left alone.
    """
    asked: list[BaseException] = []

    def ask(number: int, _: FrameType | None) -> None:
        end = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED)
        if asked:
            raise end
        asked.append(end)

    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    usual = {}
    if threading.current_thread() is threading.main_thread():
        usual = {number: handler for number, handler in ours.items() if signal.getsignal(number) == handler}
    try:
        for number in usual:
            signal.signal(number, ask)
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
