"""Commands for other tools' files: export writes a run as they read it, import makes one of what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    Db,
    Json,
    MovedModel,
    Name,
    OpLibrary,
    RunArgument,
    Target,
    output_option,
)
from qgraph.cli.output import megabytes, note, plural, write_json, write_line
from qgraph.formats.scale_files import FORMATS

app = typer.Typer()


MODELS = ("qdq", "float")
SCALES = ", ".join(sorted(FORMATS))


@app.command()
def export(
    run: RunArgument,
    output: Annotated[Path, output_option("The file to write.")],
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="qdq: ONNX with QuantizeLinear; float: the model whose tensors' names all formats have; "
            f"graphml: the run's graph; scales alone: {SCALES}.",
            autocompletion=completion.formats,
        ),
    ] = "qdq",
    model: MovedModel = None,
    op_library: OpLibrary = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Write a quantized model, checked and run once before the file takes its name; or scales for another tool.

    What a format of scales cannot say is told, and in JSON under "losses".

    Example: qgraph export latest --format qdq -o model.int8.onnx

    Example: qgraph export latest --format aimet-1.0.0 -o model.encodings.json

    Example: qgraph export latest -o model.int8.onnx --op-library ./libmyops.so
    """
    with qgraph.open(db, create=False) as database:
        found = database.run(run)
        losses = found.export(output, format=format, model=model, op_library=op_library)
    for line in losses:
        note(line)
    if json:
        write_json({"run": found.id, "format": format, "output": str(output), "losses": list(losses)})
    else:
        told = ", valid ONNX, runs in onnxruntime" if format in MODELS else ""
        write_line(f"{output}: {megabytes(output.stat().st_size)}{told}")


@app.command(name="import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=f"Scales made elsewhere: a QDQ .onnx, or {SCALES}.", show_default=False),
    ],
    model: Annotated[Path, typer.Option("--model", help="The float model that they are of.", show_default=False)],
    target: Target,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            metavar="ID",
            help="Price them with the statistics of this calibration of the model.",
            show_default=False,
            autocompletion=completion.calibrations,
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Needed only where the file does not tell.",
            show_default=False,
            autocompletion=completion.formats,
        ),
    ] = None,
    name: Name = None,
    db: Db = DEFAULT_DATABASE,
    *,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Leave out tensors that the model does not have.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a run of scales that another tool made, so that they can be explained, checked, priced and diffed.

    Example: qgraph import calibration.cache --model model.onnx --target tensorrt --calibration c1

    Example: qgraph import model.int8.onnx --model model.onnx --target onnxruntime --name theirs
    """
    with qgraph.open(db) as database:
        done = database.import_scales(
            file,
            model,
            target,
            format=format,
            calibration=calibration,
            ignore_unknown=ignore_unknown,
            name=name,
        )
    for line in done["notes"]:
        note(line)
    if json:
        write_json(done)
        return
    for violation in done["violations"]:
        write_line(f"{violation['rule']} ({violation['op_type']} {violation['op']}): {violation['message']}")
    broken = plural(len(done["violations"]), "violation")
    write_line(
        f"run {done['run']}: {plural(done['tensors'], 'tensor')} of {file} ({done['format']}), {broken} of {target}"
    )
