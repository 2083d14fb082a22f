"""How answers and progress are shown: JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPED_WIDTH = 100_000
"""Columns when nobody looks: nothing is folded, so that grep finds every name."""


def console() -> Console:
    """The console that answers go to."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def note(message: str) -> None:
    """One line to the user beside the answer."""
    print(f"qgraph: {' '.join(message.split())}", file=sys.stderr, flush=True)  # noqa: T201


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
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", show_header=headed)
    for column in columns:
        numeric = column.endswith((" dB", "#")) or column in {"scale", "offset", "samples", "ratio"}
        table.add_column(column.removesuffix("#"), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    console().print(table)


def write_line(text: str) -> None:
    """One line of an answer, whatever it contains."""
    console().print(escape(text), soft_wrap=True)


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


def decibel(value: float | None) -> str:
    """A number of decibels with its sign, one decimal."""
    return "–" if value is None else f"{value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
