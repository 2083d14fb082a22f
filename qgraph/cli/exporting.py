"""Commands that need the model file again: export, verify."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import qgraph
from qgraph.cli.data_options import (
    Bgr,
    Broken,
    BrokenImages,
    Data,
    ImageLayout,
    ImageResize,
    ImageSize,
    Mean,
    Resize,
    Std,
    image_options,
)
from qgraph.cli.options import DEFAULT_DATABASE, LARGEST_COUNT, Db, Json, MovedModel, OpLibrary, RunArgument
from qgraph.cli.output import note, plural, write_json, write_line, write_table

if TYPE_CHECKING:
    from qgraph.analysis.verify import OutputAgreement

app = typer.Typer()


class Format(StrEnum):
    """What a run can be written as."""

    QDQ = "qdq"
    GRAPHML = "graphml"


@app.command()
def export(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    format: Annotated[  # noqa: A002
        Format, typer.Option("--format", help="qdq: ONNX with QuantizeLinear; graphml: the run's graph.")
    ] = Format.QDQ,
    model: MovedModel = None,
    op_library: OpLibrary = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Write a quantized model; it is checked and run once before the file takes its name.

    Example: qgraph export latest --format qdq -o model.int8.onnx

    Example: qgraph export latest -o model.int8.onnx --op-library ./libmyops.so
    """
    with qgraph.open(db, create=False) as database:
        found = database.run(run)
        found.export(output, format=format, model=model, op_library=op_library)
    if json:
        write_json({"run": found.id, "format": format, "output": str(output)})
    else:
        told = ", valid ONNX, runs in onnxruntime" if format == Format.QDQ else ""
        write_line(f"{output}: {output.stat().st_size / 1e6:.1f} MB{told}")


@app.command()
def verify(
    run: RunArgument,
    data: Data,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=LARGEST_COUNT, help="Samples to use.", show_default="all")
    ] = None,
    model: MovedModel = None,
    op_library: OpLibrary = None,
    size: ImageSize = None,
    resize: ImageResize = Resize.STRETCH,
    mean: Mean = None,
    std: Std = None,
    layout: ImageLayout = None,
    broken: BrokenImages = Broken.SKIP,
    db: Db = DEFAULT_DATABASE,
    *,
    bgr: Bgr = False,
    unoptimized: Annotated[
        bool, typer.Option("--unoptimized", help="Run every node as it is written, without integer kernels.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the exported model against the float model: SNR, cosine, top-1 agreement per output.

    In JSON, "snr_db" is null where the outputs are equal ("exact" is true) and where the float output is all zero.

    Example: qgraph verify latest --data others.npz

    Example: qgraph verify latest --data others.npz --op-library ./libmyops.so
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with qgraph.open(db, create=False) as database:
        found = database.run(run)
        compared = found.verify(
            data,
            steps=steps,
            images=images,
            model=model,
            optimized=not unoptimized,
            op_library=op_library,
            report=note,
        )
    if json:
        write_json({"run": found.id, "samples": compared.samples, "outputs": compared.outputs})
        return
    write_table(
        ("output", "SNR dB", "cosine", "top-1", "largest error"),
        (
            (name, signal_to_noise(output), output.cosine, output.top1, output.max_abs_error)
            for name, output in compared.outputs.items()
        ),
        title=f"run {found.id} against the float model, {plural(compared.samples, 'sample')}",
    )


def signal_to_noise(output: OutputAgreement) -> str:
    """Decibels, or in words why there are none."""
    if math.isfinite(output.snr_db):
        return f"{output.snr_db:.2f}"
    return "exact" if output.exact else "no signal"
