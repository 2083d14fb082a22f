"""Commands that compare a device with the exported model: golden writes what to expect, compare reads what it did."""

from __future__ import annotations

from dataclasses import asdict
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
    OpLibrary,
    RunArgument,
    Top,
    UnusedDb,
    output_option,
)
from qgraph.cli.output import note, plural, write_json, write_line, write_table

app = typer.Typer()

NAMES = 5
"""How many names a line tells."""


@app.command()
def golden(
    run: RunArgument,
    data: Data,
    output: Annotated[Path, output_option("The folder to write; a new one.", metavar="FOLDER")],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=LARGEST_COUNT, help="Samples to write.", show_default="4")
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
    json: Json = False,
) -> None:
    """Write the quantized model with samples and the integers of all its tensors, for a device to be compared with.

    Example: qgraph golden latest --data others.npz -o golden/

    Example: qgraph golden latest --data photos/ --size 224x224 --steps 2 -o golden/ --json
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with qgraph.open(db, create=False) as database:
        found = database.run(run).golden(
            data, output, steps=steps, images=images, model=model, op_library=op_library, report=note
        )
    if json:
        write_json(found)
        return
    integers = sum(one["integers"] is not None for one in found["tensors"])
    write_line(f"{output}: {plural(found['samples'], 'sample')}, {plural(integers, 'quantized tensor')}")
    write_line(
        f"next: run them on the device, write its values by name as 0000.npz, and qgraph compare {output} DEVICE"
    )


@app.command()
def compare(
    golden: Annotated[Path, typer.Argument(help="The folder that `qgraph golden` wrote.", show_default=False)],
    actual: Annotated[
        Path, typer.Argument(metavar="DEVICE", help="A folder with the device's 0000.npz, …", show_default=False)
    ],
    tolerance: Annotated[
        int, typer.Option("--tolerance", metavar="STEPS", min=0, help="How many steps off is still equal.")
    ] = 0,
    top: Top = None,
    _db: UnusedDb = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Compare the values of a device with golden ones: how many steps off, and the first tensor that diverges.

    The device's files hold integers, or floats, by the names in manifest.json, as many tensors as there are. The exit
    code is 1 if a tensor is further off than the tolerance.

    Example: qgraph compare golden/ device/ --tolerance 1

    Example: qgraph compare golden/ device/ --json
    """
    found = qgraph.compare_golden(golden, actual, tolerance=tolerance)
    code = 1 if found.first is not None else 0
    if json:
        write_json({**asdict(found), "tensors": found.tensors[:top]})
        raise typer.Exit(code)
    write_table(
        ("tensor", "values", "different", "steps off#", "largest error"),
        [(one.name, one.values, one.different, one.largest, one.largest_error) for one in found.tensors[:top]],
        title=f"the device against the exported model, {plural(found.samples, 'sample')}, in the order of the model",
    )
    for told, names in (("not written by the device", found.missing), ("not of the model", found.unknown)):
        if names:
            note(f"{told}: {plural(len(names), 'tensor')}: {', '.join(names[:NAMES])}{', …' if names[NAMES:] else ''}")
    within = f"within {plural(tolerance, 'step')}" if tolerance else "equal"
    compared = plural(sum(one.largest is not None for one in found.tensors), "quantized tensor")
    whose = f"{compared} of the device: all" if found.missing else "all quantized tensors"
    write_line(f"first that diverges: {found.first}" if code else f"{whose} are {within}")
    raise typer.Exit(code)
