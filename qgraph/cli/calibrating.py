"""The command `calibrate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import qgraph
from qgraph.cli import completion
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
    DEFAULT_OBSERVER,
    AveragePoolMerge,
    BatchSize,
    ConcatMerge,
    Db,
    Device,
    ElementwiseMerge,
    ForceOverlap,
    Json,
    Model,
    Name,
    Observer,
    OpLibrary,
    Overlap,
    Parameters,
    ResizeMerge,
    Steps,
    alignment_options,
    observer_parameters,
)
from qgraph.cli.output import megabytes, note, plural, summarize, write_json, write_line
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
from qgraph.cli.progress import Progress
from qgraph.constraints.merge_methods import merge_methods
from qgraph.errors import UsageError
from qgraph.hints import suggest

app = typer.Typer()


@app.command()
def calibrate(
    model: Model,
    data: Data,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Solve a run for this target, too.",
            show_default=False,
            autocompletion=completion.targets,
        ),
    ] = None,
    observer: Observer = DEFAULT_OBSERVER,
    param: Parameters = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    device: Device = "cpu",
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
    checkpoint_every: Annotated[
        float, typer.Option("--checkpoint-every", min=0, metavar="SECONDS", help="What an interruption may cost.")
    ] = 5.0,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Stay below it, as 512M or 2G, if need be with several passes over the data.",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Count the I-th of N parts of the data only; `qgraph merge` makes one calibration of all N.",
            show_default=False,
        ),
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            "--extend",
            metavar="CALIBRATION",
            help="Add the data's samples to those of a complete calibration; what it counted is not run again.",
            show_default=False,
            autocompletion=completion.calibrations,
        ),
    ] = None,
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
    lean: Annotated[
        bool,
        typer.Option("--lean", help="Collect only what --target needs: faster, but not for all targets, nor improve."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Run one inference, store nothing, and tell what it would take (in Python: forecast)."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Run the model once over calibration data; resume if interrupted, reuse if complete.

    What is collected serves every target and observer: see `qgraph solve`.

    Example: qgraph calibrate model.onnx --data photos.npz --target tflite --observer mse

    Example: qgraph calibrate model.onnx --data photos.npz --shard 1/4 --max-memory 2G

    Example: qgraph calibrate model.onnx --data more_photos.npz --extend c1

    Example: qgraph calibrate model.onnx --data photos.npz --op-library ./libmyops.so

    Example: qgraph calibrate model.onnx --data photos/ --size 224x224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    question = None
    parameters = observer_parameters(observer, param)
    alignment = alignment_options(elementwise_merge, concat_merge, averagepool_merge, resize_merge)
    methods = merge_methods(**alignment)
    wishes = read_override_options(overrides, floats, bits, pin, share, unshare, force_unshare)
    of_a_run = [name, param, wishes or None, *alignment.values()]
    if target is None and (force_overlap != ForceOverlap.FALSE or any(option is not None for option in of_a_run)):
        raise UsageError("options of a run without a target", "qgraph calibrate", "add --target, or leave them out")
    refuse_together(target=target, shard=shard, extend=extend, dry_run=dry_run)
    if target is not None:
        from qgraph.jobs.question import Question  # heavy

        question = Question(target, force_overlap.setting, observer, parameters, methods=methods, overrides=wishes)
    if dry_run:
        with qgraph.open(db) as database:
            answer = database.forecast(
                model,
                data,
                steps=steps,
                batch_size=batch_size,
                device=device,
                images=images,
                max_memory=max_memory,
                shard=shard,
                op_library=op_library,
                question=question,
                lean=lean,
                report=note,
            )
        if json:
            write_json({"dry_run": True, **answer})
        else:
            tell_forecast(answer)
        return
    with qgraph.open(db) as database, Progress("calibrating") as progress:
        done = database.calibrate(
            model,
            data,
            steps=steps,
            batch_size=batch_size,
            device=device,
            images=images,
            checkpoint_every=checkpoint_every,
            max_memory=max_memory,
            shard=shard,
            extend=extend,
            lean=lean,
            op_library=op_library,
            question=question,
            name=name,
            report=note,
            tick=progress.tick,
        )
        progress.stop()
        run = None
        if target is not None:
            run = done.solve(
                target=target,
                observer=observer,
                parameters=parameters,
                force_overlap=force_overlap.setting,
                name=name,
                overrides=wishes,
                device=device,
                **alignment,
            )
        if json:
            write_json(
                {
                    "calibration": done.id,
                    "run": None if run is None else run.id,
                    "status": done.status,
                    "samples": done.samples,
                    "resumed_from": done.resumed_from,
                    "inferences": done.inferences,
                }
            )
        else:
            tell_calibration(done, run, db=db, is_shard=shard is not None)


def tell_calibration(done: qgraph.Calibration, run: qgraph.Run | None, *, db: str, is_shard: bool) -> None:
    """A calibration and its run in a few lines, and what can be done next."""
    told = "reused, nothing was run" if done.status == "reused" else f"{done.inferences} run now"
    write_line(f"calibration {done.id}: {plural(done.samples, 'sample')} ({told})")
    if is_shard:
        write_line(f"next: {suggest('merge', done.id, 'OTHER.db:c1', db=db)}")
    elif run is None:
        write_line(f"next: {suggest('solve', done.id, db=db, target='TARGET')}")
    else:
        summarize(run.show())


def refuse_together(*, target: str | None, shard: str | None, extend: str | None, dry_run: bool) -> None:
    """Refuse options of `calibrate` that contradict each other."""
    if target is not None and shard is not None:
        raise UsageError("a run of one shard", "qgraph calibrate", "leave out --target; merge the shards, then solve")
    if extend is not None and dry_run:
        raise UsageError("a dry run that extends a calibration", extend, "leave out --extend: the data costs the same")


def tell_forecast(answer: Mapping[str, Any]) -> None:
    """What a calibration would take, in a few lines."""
    tensors, memory, seconds = answer["tensors"], answer["memory_bytes"], answer["seconds"]
    left_out = ", ".join(f"{count} {reason}" for reason, count in tensors["not_collected"].items()) or "none"
    write_line(f"dry run: {plural(answer['inferences'], 'sample')} run, nothing stored")
    write_line(
        f"{plural(answer['samples'], 'sample')}, {plural(answer['passes'], 'pass', 'passes')}: "
        f"{plural(tensors['collected'], 'tensor')} collected, {tensors['followed']} follow exactly, "
        f"not collected: {left_out}"
    )
    shares = ", ".join(f"{megabytes(memory[part])} {part}" for part in ("fixed", "activations", "histograms"))
    write_line(f"memory: about {megabytes(memory['peak'])} ({shares}); hardly more with more samples")
    write_line(f"        = {memory['formula']}")
    write_line(f"time: about {seconds['total']:.1f} s ({seconds['reading']:.1f} s to read the data once)")
    write_line(f"checkpoint: at most about {megabytes(answer['checkpoint_bytes'])}")
