"""Commands that tell where a run loses its accuracy, and what to do about it: sensitivity, advise."""

from __future__ import annotations

import math
from functools import partial
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
from qgraph.cli.options import (
    DEFAULT_DATABASE,
    LARGEST_COUNT,
    Db,
    Json,
    MovedModel,
    OpLibrary,
    RunArgument,
    Top,
    output_option,
)
from qgraph.cli.output import note, plural, write_json, write_line, write_table
from qgraph.cli.progress import Progress
from qgraph.hints import suggest

if TYPE_CHECKING:
    from qgraph.answers import Answer  # loads sqlalchemy

app = typer.Typer()

FewSamples = Annotated[
    int | None, typer.Option("--steps", min=1, max=LARGEST_COUNT, help="Samples to measure on.", show_default="8")
]


@app.command()
def sensitivity(
    run: RunArgument,
    data: Data,
    steps: FewSamples = None,
    top: Top = None,
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
    tensors: Annotated[bool, typer.Option("--tensors", help="Show tensors instead of groups.")] = False,
    json: Json = False,
) -> None:
    """Measure what the outputs lose by each group and each tensor alone, by rounding, clipping and sharing.

    Each result is stored at once: an interrupted measurement goes on, and a finished one is told again.

    Example: qgraph sensitivity latest --data others.npz --top 10

    Example: qgraph sensitivity r1 --data others.npz --tensors --json
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with qgraph.open(db, create=False) as database, Progress("measuring", "groups and tensors") as progress:
        asked = database.run(run)
        found = asked.sensitivity(
            data, steps=steps, images=images, model=model, op_library=op_library, report=note, tick=progress.tick
        )
        can_be_solved = asked.show()["settings"]["observer"] != "imported"
    if json:
        write_json({**found, **{key: found[key][:top] for key in ("groups", "tensors")}})
        return
    rows = found["tensors" if tensors else "groups"]
    write_table(
        ("tensor" if tensors else "group", "tensors", "role", "noise dB", "rounding dB", "clipping dB", "sharing dB"),
        [
            (
                row["name"],
                row["tensors"],
                row["role"],
                *(_decibel(row["noise_db"][part]) for part in ("all", "rounding", "clipping", "sharing")),
            )
            for row in rows[:top]
        ],
        title=f"run {found['run']}: noise at the outputs by each alone, {plural(found['samples'], 'sample')}",
    )
    if can_be_solved:
        write_line(f"next: {suggest('advise', found['run'], db=db, data=data, **{'target-snr': 'DB'})}")


@app.command()
def advise(
    run: RunArgument,
    data: Data,
    target_snr: Annotated[
        float,
        typer.Option("--target-snr", metavar="DB", help="What the worst output is to reach.", show_default=False),
    ],
    output: Annotated[Path | None, output_option("Write the list as overrides for `qgraph solve --overrides`.")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="KIND",
            help="Do not change this: observer, unshare, bits (16) or float. May be repeated.",
            show_default=False,
        ),
    ] = None,
    steps: FewSamples = None,
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
    """Find a short list of changes that reaches an SNR, tried and measured in blocks; the database stays as it is.

    Example: qgraph advise latest --data others.npz --target-snr 20 -o better.toml

    Example: qgraph advise r1 --data others.npz --target-snr 30 --without float --json
    """
    images = image_options(size=size, resize=resize, mean=mean, std=std, layout=layout, bgr=bgr, broken=broken)
    with (
        qgraph.open(db, create=False) as database,
        Progress("measuring", "groups and tensors") as progress,
        Progress("trying", "models") as trials,
    ):
        found = database.run(run).advise(
            data,
            target_snr=target_snr,
            output=output,
            without=without or (),
            steps=steps,
            images=images,
            model=model,
            op_library=op_library,
            report=note,
            tick=progress.tick,
            trial=partial(_next, progress, trials),
        )
    if json:
        write_json(found)
        return
    _show(found)
    if output is not None:
        settings = {"target": found["target"], "observer": found["observer"], "overrides": output}
        write_line(f"next: {suggest('solve', found['run'], db=db, **settings)}")


def _next(before: Progress, progress: Progress, done: int, total: int) -> None:
    """Tick a progress that follows another one."""
    before.stop()
    progress.tick(done, total)


def _show(found: Answer) -> None:
    wanted, changes = f"{found['target_snr_db']:g} dB", found["changes"]
    write_line(
        f"run {found['run']}: {_snr(found['before_db'])} at the worst output, {plural(found['samples'], 'sample')}"
    )
    for one in changes:
        gain = f"{one['gain_db']:+.2f} dB" if math.isfinite(one["gain_db"]) else "the rest"
        write_line(f"  {gain}: {one['text']}")
    groups = plural(sum(len(one["groups"]) for one in changes), "group")
    told = f"{groups} changed: {_snr(found['after_db'])}, {plural(found['trials'], 'model')} measured"
    if found["reached"]:
        write_line(f"{wanted} is reached with {told}")
    else:
        write_line(f"{wanted} is out of reach: all changes together give {_snr(found['best_db'])}; with {told}")


def _snr(value: float) -> str:
    """An SNR in words; infinite where nothing is lost any more, or all."""
    if value == -math.inf:
        return "NaN, infinity or no signal"
    return "nothing lost" if value == math.inf else f"{value:.2f} dB"


def _decibel(noise: float) -> str:
    return "none" if noise == -math.inf else f"{noise:.1f}"
