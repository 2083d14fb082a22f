"""The command for models that are quantized already: check."""

from __future__ import annotations

import json as json_
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Exit

from qgraph.analysis.violation import Report, Violation
from qgraph.cli import completion
from qgraph.cli.layout import without_middles
from qgraph.cli.options import DEFAULT_DATABASE, Db, Json, Target
from qgraph.cli.output import console, write_json, write_line
from qgraph.errors import UsageError

app = typer.Typer()

SHOWN = 6
"""Tensors of a violation that the text shows; the JSON has all."""


class Format(StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


@app.command()
def check(
    model: Annotated[
        Path, typer.Argument(metavar="QUANTIZED_MODEL", help="A quantized .onnx or .tflite.", show_default=False)
    ],
    target: Target,
    format: Annotated[  # noqa: A002 - the name of the option
        Format, typer.Option("--format", help="sarif: for code hosts.")
    ] = Format.TEXT,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Price repairs with this run's statistics.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ] = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Find scales that differ where the target needs them equal; exit code 1 if there are any. Needs no data.

    QuantizeLinear/DequantizeLinear or QLinear ops, or the target's own .tflite, made by any tool. The repair is the
    fewest changes for violations that hang together; with a run of the same network also the cheapest, in dB.

    Example: qgraph check model.int8.onnx --target tflite
    Example: qgraph check model.tflite --target tflite --run latest
    """
    if json and format is Format.SARIF:
        raise UsageError("two formats at once", f"--json and --format {format}", "leave one of them out")
    from qgraph.jobs.checking import check_file  # loads onnx

    report = check_file(model, target, run=run, database=db)
    if format is Format.SARIF:
        from qgraph.analysis.sarif import sarif  # only for this format

        log = sarif(report, model, version("qgraph"))
        typer.echo(json_.dumps(log, indent=2, ensure_ascii=False, allow_nan=False))
    elif json or format is Format.JSON:
        write_json({"model": str(model), **report.as_json()})
    else:
        _write_text(report, model)
    if report.violations:
        raise Exit(1)


def _write_text(report: Report, model: Path) -> None:
    for violation in report.violations:
        _write_violation(violation)
    for note in report.notes:
        write_line(f"note: {note.rule} ({note.op_type} {note.op}): {note.message}")
    count, summary = len(report.violations), report.summary
    found = "no violations" if not count else f"{count} violation{'s' if count > 1 else ''}"
    write_line(f"{model}: {found} of {report.target}; {summary.quantized} tensors are quantized")
    if summary.left_float:
        write_line(f"left in float where {report.target} would quantize: {_named(summary.left_float)}")
    if summary.not_wanted:
        write_line(f"quantized where {report.target} would not: {_named(summary.not_wanted)}")
    if summary.unread:
        write_line(f"not checked, scales computed at run time or per block: {_named(summary.unread)}")


def _write_violation(violation: Violation) -> None:
    write_line(f"{violation.rule} ({violation.op_type} {violation.op}): {violation.message}")
    shown = violation.tensors[:SHOWN]
    names = without_middles([tensor.name for tensor in shown], console().width // 2)
    width = max(map(len, names), default=0)
    ratio = violation.ratio
    for index, (name, tensor) in enumerate(zip(names, shown, strict=True)):
        factor = f"  (× {ratio:.6g})" if index == 1 and ratio is not None and ratio != 1 else ""
        write_line(f"  {name:<{width}}  {tensor.dtype}  {tensor.values}{factor}")
    if len(violation.tensors) > SHOWN:
        write_line(f"  and {len(violation.tensors) - SHOWN} more")
    write_line(f"  repair: {violation.repair}")
    for change in violation.alternatives:
        write_line(f"    alone: {change.text if change.price_db is not None else f'{change.text} (price not known)'}")
    write_line(f"  source: {violation.source}")
    write_line("")


def _named(names: tuple[str, ...]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"
