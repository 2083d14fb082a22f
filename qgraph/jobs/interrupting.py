"""Ctrl-C and SIGTERM: what was counted is stored first, and no half-written file is left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells have it."""


def terminate(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM as Python handles Ctrl-C, so that temporary files and folders go with the program.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(TERMINATED)


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

    ours = {signal.SIGINT: (signal.default_int_handler,), signal.SIGTERM: (signal.SIG_DFL, terminate)}
    usual = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in ours}
        usual = {number: handler for number, handler in found.items() if handler in ours[number]}
    try:
        for number in usual:
            signal.signal(number, ask)
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
