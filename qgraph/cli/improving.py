"""The command that makes a better model: improve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    LARGEST_COUNT,
    Db,
    Json,
    MovedModel,
    Name,
    OpLibrary,
    RunArgument,
    output_option,
)
from qgraph.cli.output import note, write_json, write_line
from qgraph.cli.progress import Progress
from qgraph.hints import POOR_DB, lost_accuracy, suggest

app = typer.Typer()


@app.command()
def improve(
    run: RunArgument,
    data: Data,
    output: Annotated[
        Path | None,
        output_option("The derived model's file.", show_default="NAME.improved.onnx in the database's folder"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="PART",
            help="Leave a part out: fold, equalize, observer, weights, ranges or bias. May be repeated.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=LARGEST_COUNT, help="Samples to use.", show_default="all")
    ] = None,
    name: Name = None,
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
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Try as much where samples are large as where they are small: slower."),
    ] = False,
    bgr: Bgr = False,
    json: Json = False,
) -> None:
    """Write a float model with other weights and biases whose quantized form is more exact; solve it as the run was.

    Example: qgraph improve latest --data photos.npz

    Example: qgraph improve r1 --data photos.npz --without observer -o better.onnx
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with qgraph.open(db, create=False) as database, Progress("calibrating") as progress:
        found = database.run(run)
        done = found.improve(
            data,
            output=output,
            without=without or (),
            steps=steps,
            images=images,
            thorough=thorough,
            name=name,
            model=model,
            op_library=op_library,
            report=note,
            tick=progress.tick,
        )
        progress.stop()
    if json:
        write_json(done)
        return
    for line in done["done"]:
        write_line(line)
    times = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in done["seconds"].items())
    write_line(f"run {done['run']} of {done['model']}; time: {times}")
    if done["snr_db"] < POOR_DB:
        for line in lost_accuracy(done["run"], str(data), db=db):
            write_line(line)
    write_line(f"next: {suggest('export', done['run'], db=db, format='qdq', output='MODEL.int8.onnx')}")
