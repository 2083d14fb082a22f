"""`Database.import_scales`: scales that another tool made, as a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qgraph import arguments
from qgraph.answers import Answer

if TYPE_CHECKING:
    from qgraph.api import Database
    from qgraph.calibration import Calibration


def import_scales(
    database: Database,
    file: str | Path,
    model: str | Path,
    target: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    calibration: Calibration | str | None = None,
    ignore_unknown: bool = False,
    name: str | None = None,
) -> Answer:
    """Make a run of scales that another tool made, so that they can be explained, checked, priced and diffed.

    Args:
        file: a quantized ONNX model, or one of the formats in docs/formats.md.
        model: the float model that they are of, an ONNX file.
        format: None finds it out from the file.
        calibration: of the same model; its statistics price the scales, and its weights get scales where the file
            has none.
        ignore_unknown: leave out tensors that the model does not have, instead of refusing the file.

    Returns:
        ``{"run", "format", "tensors", "notes": [a line for each thing without a counterpart], "violations"}``; the
        last has what the target does not allow, as `qgraph check` tells it.
    """
    from qgraph.jobs.importing import import_run  # heavy

    done = import_run(
        database.store,
        arguments.path("file", file),
        arguments.path("model", model),
        arguments.target(target),
        format=None if format is None else arguments.text("format", format),
        calibration=calibration if calibration is None or isinstance(calibration, str) else calibration.id,
        ignore_unknown=ignore_unknown,
        name=None if name is None else arguments.text("name", name),
    )
    return done.as_json()
