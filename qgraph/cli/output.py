"""How answers and progress are shown: JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 100_000
"""Columns when nobody looks: nothing is folded, so that grep finds every name."""


def console() -> Console:
    """The console that answers go to. Names are shown as they are: brackets and colons mean nothing in them."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def visible(text: str) -> str:
    r"""Text of one line that cannot steer a terminal: what does not print is shown as its escape.

    >>> print(visible("a\nb \x1b[31mred c:smile:"))
    a\nb \x1b[31mred c:smile:
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def note(message: str) -> None:
    """One line to the user beside the answer."""
    print(f"qgraph: {visible(message)}", file=sys.stderr, flush=True)  # noqa: T201


def write_json(answer: Mapping[str, object]) -> None:
    """The answer as strict JSON, ``"schema": 1`` first."""
    print(json.dumps({"schema": 1, **{key: plain(value) for key, value in answer.items()}}, allow_nan=False))  # noqa: T201


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
    """A table; columns whose name ends in a unit or counts are set right."""
    headed = any(columns)
    if title is not None:
        write_line(title)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=headed)
    for column in columns:
        numeric = column.endswith((" dB", "#")) or column.split(" in ")[0] in {"scale", "offset", "samples", "ratio"}
        table.add_column(visible(column.removesuffix("#")), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell(value))) for value in row))
    console().print(table)


def write_line(text: str) -> None:
    """One line of an answer, whatever it contains."""
    console().print(Text(visible(text)), soft_wrap=True)


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


def decibel(value: float | None) -> str:
    """A number of decibels with its sign, one decimal."""
    return "–" if value is None else f"{value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
