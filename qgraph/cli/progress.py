"""Progress on stderr: a bar with rate and remaining time on a terminal, now and then a line otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qgraph.cli.output import note

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""


class Progress:
    """What is shown while samples are counted. The clock starts at the first one: loading and compiling are over.

    Args:
        unit: what is counted instead of samples.
    """

    def __init__(self, what: str, unit: str = "samples") -> None:
        self._what = what
        self._unit = unit
        self._bar: tuple[Bar, TaskID] | None = None
        self._first: tuple[int, float] | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tick(self, done: int, total: int) -> None:
        """Show that `done` of `total` samples are counted."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._told = (done, now), now
        before, begun = self._first
        rate = (done - before) / (now - begun) if now > begun else 0.0
        if sys.stderr.isatty():
            self._draw(done, total, rate)
        elif rate and now - self._told >= LINE_SECONDS:
            self._told = now
            note(f"{self._what}: {done} of {total} {self._unit}, {rate:.1f}/s, {(total - done) / rate:.0f} s left")

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _draw(self, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            self._bar = new_bar(self._what, done, total)
        bar, task = self._bar
        bar.update(task, completed=done, total=total, rate=f"{rate:.1f}/s")


def new_bar(what: str, done: int, total: int) -> tuple[Bar, TaskID]:
    """Start a bar on stderr that vanishes when it is stopped."""
    from rich.console import Console  # only long jobs on a terminal draw one
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True)
    bar.start()
    return bar, bar.add_task(what, total=total, completed=done, rate="")
