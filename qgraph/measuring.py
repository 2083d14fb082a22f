"""What is measured of a stored run on samples: its exported model, where accuracy is lost, and what brings it back.

Each function is a method of `qgraph.run.Run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qgraph import arguments
from qgraph.answers import Answer

if TYPE_CHECKING:
    from qgraph.analysis.verify import Verification
    from qgraph.calib.data.images import ImageOptions
    from qgraph.jobs.calibrating import Report, Ticker
    from qgraph.run import Run


def verify(
    run: Run,
    data: object,
    *,
    steps: int | None = None,
    images: ImageOptions | None = None,
    model: str | Path | None = None,
    optimized: bool | None = None,
    layers: bool = False,
    below_db: float = 20.0,
    labels: object = None,
    op_library: arguments.Paths = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Verification:
    """Run the exported model against the float one on the same samples.

    Args:
        data: as for `Database.calibrate`; use samples that were not calibrated on.
        images: as for `Database.calibrate`.
        optimized: True: with onnxruntime's integer kernels only; False: every node as it is written only; None:
            both.
        layers: compare every quantized tensor, and the noise that was predicted with what is measured.
        below_db: with `layers`, the SNR below which a tensor counts as gone astray.
        labels: true classes, for the accuracy of both models: an array (or a tensor) of one integer per sample, or of
            a mask per sample; the path of a ``.npy`` or ``.csv`` file; or ``"folders"`` where the folder of each image
            is its class; see docs/accuracy.md.
        op_library: as for `Database.calibrate`.
        report: called with each line that a user should see.
        tick: called with samples run and samples in all.
    """
    from qgraph.jobs.verifying import verify  # heavy

    found, _ = verify(
        run.database.store(),
        run.id,
        data,
        model=arguments.moved(model),
        steps=arguments.count("steps", steps),
        images=images,
        optimized=optimized,
        layers=layers,
        below_db=arguments.finite("below_db", below_db),
        labels=labels,
        libraries=arguments.paths("op_library", op_library),
        report=report,
        tick=tick,
    )
    return found


def golden(
    run: Run,
    data: object,
    output: str | Path,
    *,
    steps: int | None = None,
    images: ImageOptions | None = None,
    model: str | Path | None = None,
    op_library: arguments.Paths = None,
    report: Report = lambda _: None,
) -> Answer:
    """Write the exported model with samples and the integers of all its tensors, to compare a device with.

    Args:
        data: as for `Database.calibrate`.
        output: a new folder; what is in it is told in docs/accuracy.md. `qgraph.compare_golden` reads it.
        steps: samples to write, the first ones; None for 4.
        images, model, op_library, report: as for `verify`.

    Returns:
        ``"run"``, ``"samples"``, and the ``"tensors"`` in the model's order with their scales and zero points.
    """
    from qgraph.jobs.golden import golden  # heavy

    found = golden(
        run.database.store(),
        run.id,
        data,
        arguments.path("output", output),
        model=arguments.moved(model),
        steps=arguments.count("steps", steps),
        images=images,
        libraries=arguments.paths("op_library", op_library),
        report=report,
    )
    return asdict(found)


def sensitivity(
    run: Run,
    data: object,
    *,
    steps: int | None = None,
    images: ImageOptions | None = None,
    model: str | Path | None = None,
    op_library: arguments.Paths = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Answer:
    """Measure what the outputs lose by the quantization of each group and each tensor alone.

    Results are stored one by one: an interrupted call goes on where it was, a finished one is told again.

    Args:
        data: as for `Database.calibrate`; use samples that were not calibrated on.
        steps: samples to measure on, the first ones; None for 8.
        images, op_library, report: as for `verify`.
        tick: called with how much is measured, and how much there is to measure.

    Returns:
        ``"groups"`` and ``"tensors"``, those that lose most first, each with ``"noise_db"`` at all outputs
        together and ``"outputs"``, both by part: ``"all"``, ``"rounding"``, ``"clipping"``, ``"sharing"``; noise
        power over signal power in dB, -inf where nothing is lost. ``"measured"`` counts what was not stored yet.
    """
    from qgraph.jobs.sensitivity import sensitivity  # heavy

    found = sensitivity(
        run.database.store(),
        run.id,
        data,
        model=arguments.moved(model),
        steps=arguments.count("steps", steps),
        images=images,
        libraries=arguments.paths("op_library", op_library),
        report=report,
        tick=tick,
    )
    return asdict(found)


def advise(
    run: Run,
    data: object,
    *,
    target_snr: float,
    output: str | Path | None = None,
    without: Iterable[str] = (),
    steps: int | None = None,
    images: ImageOptions | None = None,
    model: str | Path | None = None,
    op_library: arguments.Paths = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
    trial: Ticker | None = None,
) -> Answer:
    """Find a short list of overrides with which the worst output reaches an SNR, tried and measured in blocks.

    Args:
        data: as for `Database.calibrate`; use samples that were not calibrated on.
        target_snr: in dB.
        output: a file for the list, as `Calibration.solve` and ``qgraph solve --overrides`` take it.
        without: kinds of changes that are not wanted: ``observer``, ``unshare``, ``bits``, ``float``.
        steps: samples to measure on, the first ones; None for 8.
        images, op_library, report, tick: as for `sensitivity`.
        trial: called with how many models are tried, and how many it will be at most.

    Returns:
        ``"before_db"``, ``"after_db"``, whether that ``"reached"`` the target, ``"best_db"`` that all changes
        together give, and the ``"changes"``: one for each kind, with its ``"text"``, ``"groups"``,
        ``"overrides"`` and the ``"gain_db"`` that it adds to those before it. ``"overrides"`` are those of the
        run and of the list, as lines that a run keeps.
    """
    from qgraph.jobs.advising import advise, as_json  # heavy

    found = advise(
        run.database.store(),
        run.id,
        data,
        arguments.finite("target_snr", target_snr),
        without=tuple(without),
        model=arguments.moved(model),
        steps=arguments.count("steps", steps),
        images=images,
        libraries=arguments.paths("op_library", op_library),
        output=None if output is None else arguments.path("output", output),
        report=report,
        tick=tick,
        trial=trial,
    )
    return as_json(found)


def improve(
    run: Run,
    data: object,
    *,
    output: str | Path | None = None,
    without: Iterable[str] = (),
    steps: int | None = None,
    images: ImageOptions | None = None,
    thorough: bool = False,
    name: str | None = None,
    model: str | Path | None = None,
    op_library: arguments.Paths = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
) -> Answer:
    """Make a derived model whose quantized form is nearer to the float one; calibrate it, and solve it as this run.

    Args:
        data: as for `Database.calibrate`; samples to calibrate and to measure on.
        output: the derived model's file; None for ``NAME.improved.onnx`` in the database's folder.
        without: parts to leave out: ``fold``, ``equalize``, ``observer``, ``weights``, ``ranges``,
            ``bias``; see docs/improve.md.
        steps: samples to use; None for all.
        images: as for `Database.calibrate`.
        thorough: try as much, on as many samples, where samples are large as where they are small.
        name: of the new run.
        model: where the float model is now, if it was moved.
        op_library: as for `Database.calibrate`.
        report: called with each line that a user should see.
        tick: called with samples counted and samples in all while the derived model is calibrated.

    Returns:
        The new ``"run"`` and ``"calibration"``, the file ``"model"``, what was ``"done"``, ``"seconds"`` by part,
        and the ``"snr_db"`` that the outputs have on these samples.
    """
    from qgraph.improve.settings import parts_with
    from qgraph.jobs.improving import improve  # heavy

    done = improve(
        run.database.store(),
        run.id,
        data,
        output=None if output is None else arguments.path("output", output),
        model=arguments.moved(model),
        steps=arguments.count("steps", steps),
        images=images,
        parts=parts_with(off=without),
        thorough=thorough,
        name=name,
        libraries=arguments.paths("op_library", op_library),
        report=report,
        tick=tick,
    )
    return {
        "run": done.run,
        "calibration": done.calibration,
        "model": str(done.model),
        "done": list(done.done),
        "seconds": dict(done.seconds),
        "snr_db": done.snr_db,
    }
