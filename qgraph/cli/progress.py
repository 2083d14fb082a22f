"""Progress on stderr: a bar with rate and remaining time on a terminal, now and then a line otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from qgraph.cli.output import note

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""


class Progress:
    """What is shown while samples are counted."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: object | None = None
        self._task: object | None = None
        self._begun = self._told = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tick(self, done: int, total: int) -> None:
        """Show that `done` of `total` samples are counted."""
        if sys.stderr.isatty():
            self._draw(done, total)
        else:
            self._tell(done, total)

    def stop(self) -> None:
        """Take the bar away."""
        from rich.progress import Progress as Bar  # only long jobs show a bar

        if isinstance(self._bar, Bar):
            self._bar.stop()
            self._bar = None

    def _draw(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if not isinstance(self._bar, Bar):
            rate = TextColumn("{task.speed:.1f}/s")
            columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total, completed=done)
        self._bar.update(self._task, completed=done, total=total)  # type: ignore[arg-type]

    def _tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun, self._told = done, now, now  # loading and compiling are over
        if now - self._told < LINE_SECONDS or done == self._first:
            return
        self._told = now
        rate = (done - self._first) / (now - self._begun)
        note(f"{self._what}: {done} of {total} samples, {rate:.1f}/s, {(total - done) / rate:.0f} s left")
