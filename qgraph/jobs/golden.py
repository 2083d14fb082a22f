"""Golden values of a run, for a device's runtime to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from qgraph.analysis.golden import MODEL, GoldenTensor, golden_tensors, write_golden
from qgraph.calib.data.images import ImageOptions
from qgraph.errors import ExportError, UsageError
from qgraph.formats.whole_file import folder_beside
from qgraph.jobs.exporting import is_there, open_run, write_qdq
from qgraph.jobs.sensitivity import few_samples
from qgraph.jobs.verifying import reference_of
from qgraph.store.database import Database

SAMPLES = 4
"""How many samples are written where nobody says."""


@dataclass(frozen=True, slots=True)
class Golden:
    """What was written."""

    run: str
    samples: int
    tensors: tuple[GoldenTensor, ...]


def golden(
    database: Database,
    reference: str,
    data: object,
    output: Path,
    *,
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    libraries: Sequence[Path] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Golden:
    """Write a folder as `qgraph.analysis.golden` describes it; it is there whole or not at all.

    Args:
        output: the folder; there must be nothing of that name.
        model: where the float model is now, if it was moved.
        steps: samples to use, the first ones; None for `SAMPLES`.
        images: how image files are made ready.
        libraries: with the model's custom ops.
        report: called with one line for each thing that the user should know.

    Raises:
        UsageError: the run has no scales, or the folder exists.
        ModelError, ExportError, DataError: as for an export, and for data that the model does not take.
    """
    if not output.parent.is_dir():
        raise UsageError("no such folder", str(output.parent), "create it, or choose another place")
    if is_there(output):
        raise UsageError("there is something of that name", str(output), "name a new folder with -o")
    opened = open_run(database, reference, model)
    samples, _ = few_samples(opened, data, steps or SAMPLES, images, report)
    settings = opened.data.settings
    about = {"run": opened.run, "target": settings.target, "fingerprint": opened.model.structure.fingerprint}
    try:
        with folder_beside(output) as place:
            folder = place / "whole"
            folder.mkdir()
            write_qdq(opened, folder / MODEL, libraries)
            exported = onnx.load(folder / MODEL, load_external_data=False)
            tensors = golden_tensors(exported, (node.name for node in opened.model.proto.graph.node))
            float_model = reference_of(opened.model, libraries)
            write_golden(folder, exported, tensors, float_model, samples, about, weights=folder, libraries=libraries)
            folder.rename(output)
    except OSError as error:
        raise ExportError(
            "cannot write golden values", f"{output} ({error.strerror})", "choose another place"
        ) from error
    return Golden(opened.run, len(samples), tensors)
