"""`qgraph.check`: hold a quantized model, made by anyone, against a target's rules."""

from __future__ import annotations

from pathlib import Path

from qgraph import arguments
from qgraph.answers import Answer
from qgraph.run import Run


def check(model: str | Path, target: str | Path, *, run: Run | None = None) -> Answer:
    """Find scales that differ where the target needs them equal, and all else that breaks its rules. Needs no data.

    Args:
        model: a quantized ``.onnx`` or ``.tflite`` file.
        target: as `qgraph targets` lists them, or the path of a rule pack.
        run: of the float model that this one was made from; its statistics price the repairs.

    Returns:
        ``{"model", "target", "target_version", "violations", "repairs", "notes", "summary"}``, as
        ``qgraph check --json`` prints it.

    Raises:
        NotFoundError, PackError: no such target, or its pack is not valid.
        ModelError: the file is not a model that can be read, or not quantized.
        UsageError: the run has no statistics, or no tensor has the same name in both models.
    """
    from qgraph.jobs.checking import check_file  # loads onnx

    path = arguments.path("model", model)
    named = arguments.target(target)
    priced = {} if run is None else {"run": run.id, "database": run.location}
    report = check_file(path, named, **priced)
    return {"model": str(path), **report.as_json()}
