"""How answers and progress are shown: JSON or tables on stdout, everything else on stderr.

Nothing that is not a terminal gets escape codes, and with ``NO_COLOR`` a terminal gets none either. A reader that has
seen enough (``head``, ``less``) is no error and changes no exit code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgraph.cli.layout import Layout, layout, without_middles
from qgraph.errors import UsageError

PIPED_WIDTH = 100_000
"""Columns when nobody looks: nothing is folded, so that grep finds every name."""


def console() -> Console:
    """Lays out what standard output gets. Names are shown as they are: brackets and colons mean nothing in them."""
    terminal = sys.stdout.isatty()
    return Console(
        file=io.StringIO(),
        force_terminal=terminal or None,
        width=None if terminal else PIPED_WIDTH,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def broken_ratios(findings: Iterable[Mapping[str, Any]], run: str) -> Iterator[str]:
    """One line for each rule about ratios that a run breaks, however many ops break it."""
    broken = [finding for finding in findings if finding["kind"] == "ratio"]
    counts = Counter(finding["rule"] for finding in broken)
    for rule, first in {finding["rule"]: finding for finding in reversed(broken)}.items():
        more = f"; and {counts[rule] - 1} more, which qgraph show {run} lists" if counts[rule] > 1 else ""
        yield f"{rule} at {first['op']}: {first['message']} ({first['source']}){more}"


def visible(text: str) -> str:
    r"""Text of one line that cannot steer a terminal: what does not print is shown as its escape.

    >>> print(visible("a\nb \x1b[31mred c:smile:"))
    a\nb \x1b[31mred c:smile:
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def emit(text: str, stream: TextIO) -> None:
    """Write to standard output or error, for as long as somebody reads there.

    Raises:
        UsageError: an answer cannot be written, as to a disk that is full.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # What is still buffered and all that follows goes nowhere; Python would complain again when it flushes at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            reason = error.strerror or str(error)
            raise UsageError("the answer cannot be written", reason, "send it elsewhere") from error


def note(message: str) -> None:
    """One line to the user beside the answer."""
    emit(f"qgraph: {visible(message)}\n", sys.stderr)


def write_json(answer: Mapping[str, object]) -> None:
    """The answer as strict JSON, ``"schema": 1`` first."""
    body = {"schema": 1, **{key: plain(value) for key, value in answer.items()}}
    emit(f"{json.dumps(body, allow_nan=False)}\n", sys.stdout)


def plain(value: object) -> object:
    """Frozen answers as what JSON knows; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table; where the terminal is too narrow for it, a block of lines for each row.

    Names that are wider than their column lose their middle; in a pipe, and in blocks, they stay whole.

    Args:
        columns: the headers, all empty for none. Columns whose header ends in a unit or counts (``#``) are set right.
        rows: the values, as `cell` shows them.
    """
    texts = [[visible(cell(value)) for value in row] for row in rows]
    headers = [visible(column.removesuffix("#")) for column in columns]
    numeric = [is_numeric(column) for column in columns]
    target = console()
    if title is not None:
        write_line(title)
    found = layout(headers, texts, numeric, target.width)
    if not any(headers):
        _render(target, _table(headers, texts, numeric, found))
        return
    if found is not None:
        fitted = [without_middles([row[i] for row in texts], width) for i, width in enumerate(found.widths)]
        _render(target, _table(headers, zip(*fitted, strict=True), numeric, found))
        return
    for row in texts:
        block = list(zip(headers, row, strict=True))
        text = (False, False)
        _render(target, _table(("", ""), block, text, layout(("", ""), block, text, target.width)))
        write_line("")


def is_numeric(column: str) -> bool:
    """Whether a column holds figures, which are set right and never folded."""
    return column.endswith((" dB", "#")) or column.split(" in ")[0] in {"scale", "offset", "samples", "ratio"}


def _table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool], wanted: Layout | None
) -> Table:
    gap, widths = (1, (None,) * len(headers)) if wanted is None else (wanted.gap, wanted.widths)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", show_header=any(headers))
    for header, figures, width in zip(headers, numeric, widths, strict=True):
        table.add_column(header, justify="right" if figures else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    return table


def _render(target: Console, what: Table | Text, *, soft_wrap: bool = False) -> None:
    with target.capture() as captured:
        target.print(what, soft_wrap=soft_wrap)
    emit("".join(f"{line.rstrip(' ')}\n" for line in captured.get().split("\n")[:-1]), sys.stdout)


def write_line(text: str) -> None:
    """One line of an answer, whatever it contains."""
    _render(console(), Text(visible(text)), soft_wrap=True)


def cell(value: object) -> str:
    """A value as a person reads it; per-channel lists as their range."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        if len(set(value)) == 1 < len(value):
            return f"{cell(value[0])} ({len(value)})"
        if len(value) > 1 and all(isinstance(item, int | float) for item in value):
            return f"{cell(min(value))} … {cell(max(value))} ({len(value)})"
        return ", ".join(cell(item) for item in value)
    return str(value)


def plural(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> plural(1, "pass", "passes"), plural(3, "sample")
    ('1 pass', '3 samples')
    """
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def megabytes(size: int) -> str:
    """Bytes as a person reads them.

    >>> megabytes(3_210), megabytes(1_260_000), megabytes(31_400_000)
    ('3.2 kB', '1.3 MB', '31 MB')
    """
    if size < 100e3:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10e6 else f"{size / 1e6:.0f} MB"


def decibel(value: float | None) -> str:
    """A number of decibels with its sign, one decimal."""
    return "–" if value is None else f"{value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")


def summarize(shown: Mapping[str, Any]) -> None:
    """A run in a few lines, as `qgraph.run.Run.show` tells of it."""
    settings = shown["settings"]
    named = f" ({shown['name']})" if shown["name"] else ""
    observed = f", observer {settings['observer']}" if settings["observer"] else ", structure only"
    write_line(f"run {shown['run']}{named}: target {settings['target']}{observed}")
    states = ", ".join(f"{count} {state}" for state, count in shown["states"].items())
    write_line(f"{shown['groups']} groups, {shown['requantizes']} requantizes; slots: {states}")
    if set(shown["states"]) == {"FP32"}:
        note(f"nothing is quantized in {shown['run']}: qgraph coverage tells why")
    for event in shown["events"]:
        note(event)
    for line in broken_ratios(shown["findings"], shown["run"]):
        note(line)
