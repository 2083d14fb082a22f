"""The command `solve`."""

from __future__ import annotations

from typing import Annotated

import typer

import qgraph
from qgraph.cli import completion
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    DEFAULT_OBSERVER,
    AveragePoolMerge,
    ConcatMerge,
    Db,
    Device,
    ElementwiseMerge,
    ForceOverlap,
    Json,
    Name,
    Observer,
    Overlap,
    Parameters,
    ResizeMerge,
    Target,
    alignment_options,
    observer_parameters,
)
from qgraph.cli.output import summarize, write_json
from qgraph.cli.override_options import (
    Bits,
    Float,
    ForceUnshare,
    OverridesFile,
    Pin,
    Share,
    Unshare,
    read_override_options,
)

app = typer.Typer()


@app.command()
def solve(
    calibration: Annotated[
        str,
        typer.Argument(
            metavar="CALIBRATION|RUN",
            help="c1, or a run of that calibration.",
            show_default=False,
            autocompletion=completion.calibrations,
        ),
    ],
    target: Target,
    observer: Observer = DEFAULT_OBSERVER,
    param: Parameters = None,
    force_overlap: Overlap = ForceOverlap.FALSE,
    elementwise_merge: ElementwiseMerge = None,
    concat_merge: ConcatMerge = None,
    averagepool_merge: AveragePoolMerge = None,
    resize_merge: ResizeMerge = None,
    overrides: OverridesFile = None,
    floats: Float = None,
    bits: Bits = None,
    pin: Pin = None,
    share: Share = None,
    unshare: Unshare = None,
    force_unshare: ForceUnshare = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="How weight scales are chosen: minmax or mse.", show_default="as the observer"),
    ] = None,
    name: Name = None,
    device: Device = "cpu",
    db: Db = DEFAULT_DATABASE,
    *,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Solve from a calibration that was interrupted.")
    ] = False,
    json: Json = False,
) -> None:
    """Solve another run from the same statistics: no inference, no model file.

    Example: qgraph solve c1 --target onnxruntime --observer percentile --param percentile=0.999

    Example: qgraph solve c1 --target qnn --bits type:MatMul=16 --pin tensor:image=0.00392157,0
    """
    parameters = observer_parameters(observer, param)
    alignment = alignment_options(elementwise_merge, concat_merge, averagepool_merge, resize_merge)
    wishes = read_override_options(overrides, floats, bits, pin, share, unshare, force_unshare)
    with qgraph.open(db, create=False) as database:
        run = database.solve(
            calibration,
            target=target,
            observer=observer,
            parameters=parameters,
            force_overlap=force_overlap.setting,
            weights=weights,
            name=name,
            allow_partial=allow_partial,
            overrides=wishes,
            device=device,
            **alignment,
        )
        if json:
            write_json({"run": run.id})
        else:
            summarize(run.show())
