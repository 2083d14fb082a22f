"""The command that compares a run's exported model with the float one: verify."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from qgraph.cli.output import decibel, note, plural, write_json, write_line, write_table
from qgraph.cli.progress import Progress
from qgraph.hints import POOR_DB, lost_accuracy

if TYPE_CHECKING:
    from qgraph.analysis.verify import OutputAgreement, Verification
    from qgraph.analysis.verify_labels import Accuracy
    from qgraph.analysis.verify_layers import Layers

app = typer.Typer()

WORST_GROUPS = 5
"""How many groups are shown whose noise was predicted worst; JSON has all."""


@app.command()
def verify(
    run: RunArgument,
    data: Data,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=LARGEST_COUNT, help="Samples to use.", show_default="all")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|folders",
            help="True classes, for the accuracy: a .npy or .csv file (LABEL, or FILE,LABEL, a line), or the word "
            "folders: the folder of each image is its class. A .npy of masks, one per sample, gives the accuracy over "
            "pixels and the mean IoU.",
            show_default=False,
        ),
    ] = None,
    below: Annotated[
        float, typer.Option("--below", metavar="DB", help="With --layers: an SNR that tells of a tensor gone astray.")
    ] = 20.0,
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
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare every quantized tensor, and predicted with measured noise.")
    ] = False,
    optimized: Annotated[
        bool | None,
        typer.Option(
            "--optimized/--unoptimized",
            help="Only with integer kernels, or only with every node as it is written.",
            show_default="both",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run the exported model against the float model: SNR, cosine, top-1 agreement per output.

    In JSON, "snr_db" is null where the outputs are equal ("exact" is true), where the float output is all zero, and
    where values are NaN or infinite that are not in the float model ("broken" counts them).

    Example: qgraph verify latest --data others.npz

    Example: qgraph verify latest --data others.npz --layers

    Example: qgraph verify latest --data photos/ --labels folders

    Example: qgraph verify latest --data others.npz --op-library ./libmyops.so
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with qgraph.open(db, create=False) as database, Progress("verifying") as progress:
        found = database.run(run)
        compared = found.verify(
            data,
            steps=steps,
            images=images,
            model=model,
            optimized=optimized,
            layers=layers,
            below_db=below,
            labels=labels,
            op_library=op_library,
            report=note,
            tick=progress.tick,
        )
        can_be_solved = found.show()["settings"]["observer"] != "imported"
    if json:
        write_json(
            {
                "run": found.id,
                "samples": compared.samples,
                "outputs": compared.outputs,
                "unoptimized": compared.unoptimized,
                "accuracy": compared.accuracy,
                "layers": compared.layers,
                "hidden": compared.hidden,
            }
        )
        return
    _show(compared, found.id)
    if any(one.broken or -math.inf < one.snr_db < POOR_DB for one in compared.outputs.values()):
        for line in lost_accuracy(found.id, str(data), db=db, has_layers=layers, can_be_solved=can_be_solved):
            write_line(line)


def _show(compared: Verification, run: str) -> None:
    if compared.accuracy is not None:
        _show_accuracy(compared.accuracy)
    if compared.layers is not None:
        _show_layers(compared.layers)
    ways = [("", compared.outputs)]
    if compared.unoptimized is not None:
        ways = [("optimized", compared.outputs), ("as written", compared.unoptimized)]
    write_table(
        ("output", *(["run"] if len(ways) > 1 else []), "SNR dB", "cosine", "top-1", "largest error"),
        [
            (name, *([way] if way else []), signal_to_noise(one), one.cosine, one.top1, one.max_abs_error)
            for name in compared.outputs
            for way, outputs in ways
            for one in [outputs[name]]
        ],
        title=f"run {run} against the float model, {plural(compared.samples, 'sample')}",
    )
    for name, one in compared.outputs.items():
        if one.broken:
            write_line(f"{name}: {plural(one.broken, 'value')} NaN or infinite that the float model has not")
    for name, far in compared.hidden.items():
        write_line(
            f"{name} along axis {far.axis}: {len(far.snr_db)} of {far.slices} slices are more than "
            f"{far.below_db:g} dB worse than the whole, {far.worst} the most ({far.snr_db[far.worst]:.1f} dB)"
        )


def _show_accuracy(accuracy: Mapping[str, Accuracy]) -> None:
    masks = any(one.float_iou is not None for one in accuracy.values())
    rows = []
    for name, one in accuracy.items():
        figures = (one.float_top1, one.float_top5), (one.quantized_top1, one.quantized_top5)
        overlaps = ((one.float_iou,), (one.quantized_iou,)) if masks else ((), ())
        rows.append((name, "float", one.samples, *figures[0], *overlaps[0]))
        rows.append((name, "quantized", one.samples, *figures[1], *overlaps[1]))
    columns = ("output", "model", "pixels" if masks else "samples", "accuracy", "top-5")
    write_table((*columns, *(["mean IoU"] if masks else [])), rows, title="accuracy")
    write_line("")


def _show_layers(layers: Layers) -> None:
    write_table(
        ("tensor", "op", "SNR dB", "cosine", "error in steps#", "own noise dB", "predicted dB"),
        [
            (
                one.tensor,
                one.op,
                signal_to_noise(one.agreement),
                one.agreement.cosine,
                f"{one.error_in_steps:.1f}",
                decibel(one.measured_db),
                decibel(one.predicted_db),
            )
            for one in layers.tensors
        ],
        title="quantized tensors in the order of the model",
    )
    write_line("")
    told = f"{layers.first} is the first tensor below {layers.below_db:g} dB" if layers.first else "none"
    write_line(f"first that diverges: {told}")
    if (drop := layers.drop) is not None:
        write_line(
            f"largest drop: from {drop.reads_db:.1f} dB at {drop.reads} to {drop.snr_db:.1f} dB at {drop.tensor}, "
            f"through {', '.join(drop.through)}: what these read needs finer steps"
        )
    if layers.median_deviation_db is not None:
        write_line(
            f"noise of {plural(len(layers.groups), 'group')} as predicted from the statistics: off by "
            f"{layers.median_deviation_db:.2f} dB (median), {decibel(layers.worst_deviation_db)} dB at worst"
        )
        write_table(
            ("group", "tensors", "predicted dB", "measured dB", "deviation dB"),
            [
                (one.group, one.tensors, decibel(one.predicted_db), decibel(one.measured_db), decibel(one.deviation_db))
                for one in layers.groups[:WORST_GROUPS]
            ],
        )
    write_line("")


def signal_to_noise(output: OutputAgreement) -> str:
    """Decibels, or in words why there are none."""
    if output.broken:
        return "not finite"
    if math.isfinite(output.snr_db):
        return f"{output.snr_db:.2f}"
    return "exact" if output.exact else "no signal"
