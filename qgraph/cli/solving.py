"""Commands that make runs: analyze, calibrate, solve."""

from __future__ import annotations

from typing import Annotated

import typer

import qgraph
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    DEFAULT_OBSERVER,
    Data,
    Db,
    ForceOverlap,
    Json,
    Model,
    Name,
    Observer,
    Overlap,
    Steps,
    Target,
)
from qgraph.cli.output import note, write_json, write_line
from qgraph.cli.progress import Progress

app = typer.Typer()


@app.command()
def analyze(
    model: Model,
    target: Target,
    force_overlap: Overlap = ForceOverlap.FALSE,
    name: Name = None,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Solve which tensors must share, before any data: a run without scales.

    Example: qgraph analyze model.onnx --target tflite
    """
    with qgraph.open(db) as database:
        run = database.analyze(model, target, force_overlap=force_overlap == ForceOverlap.TRUE, name=name)
        if json:
            write_json({"run": run.id})
            return
        summarize(run)
        write_line(f"next: qgraph calibrate {model} --data DATA.npz --target {target}")


@app.command()
def calibrate(
    model: Model,
    data: Data,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Solve a run for this target, too.", show_default=False)
    ] = None,
    observer: Observer = DEFAULT_OBSERVER,
    steps: Steps = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples per inference.")] = None,
    force_overlap: Overlap = ForceOverlap.FALSE,
    name: Name = None,
    checkpoint_every: Annotated[
        float, typer.Option("--checkpoint-every", min=0, metavar="SECONDS", help="What an interruption may cost.")
    ] = 5.0,
    db: Db = DEFAULT_DATABASE,
    *,
    json: Json = False,
) -> None:
    """Run the model once over calibration data; resume if interrupted, reuse if complete.

    What is collected serves every target and observer: see `qgraph solve`.

    Example: qgraph calibrate model.onnx --data photos.npz --target tflite --observer mse
    """
    question = None
    if target is not None:
        from qgraph.jobs.question import Question  # heavy

        question = Question(target, force_overlap == ForceOverlap.TRUE, observer)
    with qgraph.open(db) as database, Progress("calibrating") as progress:
        done = database.calibrate(
            model,
            data,
            steps=steps,
            batch_size=batch_size,
            checkpoint_every=checkpoint_every,
            question=question,
            report=note,
            tick=progress.tick,
        )
        progress.stop()
        run = None
        if target is not None:
            run = done.solve(
                target=target, observer=observer, force_overlap=force_overlap == ForceOverlap.TRUE, name=name
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
            return
        told = "reused, nothing was run" if done.status == "reused" else f"{done.inferences} run now"
        write_line(f"calibration {done.id}: {done.samples} samples ({told})")
        if run is None:
            write_line(f"next: qgraph solve {done.id} --target TARGET")
        else:
            summarize(run)


@app.command()
def solve(
    calibration: Annotated[
        str,
        typer.Argument(metavar="CALIBRATION|RUN", help="c1, or a run of that calibration.", show_default=False),
    ],
    target: Target,
    observer: Observer = DEFAULT_OBSERVER,
    force_overlap: Overlap = ForceOverlap.FALSE,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="How weight scales are chosen: minmax or mse.", show_default="as the observer"),
    ] = None,
    name: Name = None,
    db: Db = DEFAULT_DATABASE,
    *,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Solve from a calibration that was interrupted.")
    ] = False,
    json: Json = False,
) -> None:
    """Solve another run from the same statistics: no inference, no model file.

    Example: qgraph solve c1 --target onnxruntime --observer minmax
    """
    with qgraph.open(db, create=False) as database:
        run = database.solve(
            calibration,
            target=target,
            observer=observer,
            force_overlap=force_overlap == ForceOverlap.TRUE,
            weights=weights,
            name=name,
            allow_partial=allow_partial,
        )
        if json:
            write_json({"run": run.id})
        else:
            summarize(run)


def summarize(run: qgraph.Run) -> None:
    """A run in a few lines."""
    shown = run.show()
    settings = shown["settings"]
    named = f" ({shown['name']})" if shown["name"] else ""
    observed = f", observer {settings['observer']}" if settings["observer"] else ", structure only"
    write_line(f"run {run.id}{named}: target {settings['target']}{observed}")
    states = ", ".join(f"{count} {state}" for state, count in shown["states"].items())
    write_line(f"{shown['groups']} groups, {shown['requantizes']} requantizes; slots: {states}")
    for event in shown["events"]:
        note(event)
