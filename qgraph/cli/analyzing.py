"""The command `analyze`."""

from __future__ import annotations

import typer

import qgraph
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    AveragePoolMerge,
    ConcatMerge,
    Db,
    ElementwiseMerge,
    ForceOverlap,
    Json,
    Model,
    Name,
    Overlap,
    ResizeMerge,
    Target,
    alignment_options,
)
from qgraph.cli.output import summarize, write_json, write_line
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
from qgraph.hints import suggest

app = typer.Typer()


@app.command()
def analyze(
    model: Model,
    target: Target,
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
    name: Name = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Solve which tensors must share, before any data: a run without scales.

    Example: qgraph analyze model.onnx --target tflite

    Example: qgraph analyze model.onnx --target tensorrt --float type:Resize --unshare Concat_7
    """
    with qgraph.open(db) as database:
        alignment = alignment_options(elementwise_merge, concat_merge, averagepool_merge, resize_merge)
        wishes = read_override_options(overrides, floats, bits, pin, share, unshare, force_unshare)
        overlap = force_overlap.setting
        run = database.analyze(model, target, force_overlap=overlap, name=name, overrides=wishes, **alignment)
        if json:
            write_json({"run": run.id})
            return
        summarize(run.show())
        if model.suffix.lower() != ".tflite":  # which has no float model to run
            write_line(f"next: {suggest('calibrate', str(model), db=db, data='DATA.npz', target=target)}")
