"""What a calibration would take, without making one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from qgraph.calib import forecast as forecasting
from qgraph.calib.data.batches import samples_per_step
from qgraph.calib.data.images import ImageOptions
from qgraph.calib.data.shards import Shard, part_of
from qgraph.calib.data.source import open_data
from qgraph.jobs.calibrating import Report
from qgraph.jobs.devices import check_device
from qgraph.jobs.evidence import Evidence, add_evidence
from qgraph.jobs.question import Question, pose
from qgraph.jobs.recording import plan_recording, shipped_slots
from qgraph.jobs.sources import Source, fed, runner_for
from qgraph.jobs.sources import imported as load


def forecast(
    model: Source,
    data: object,
    *,
    device: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    collate: Callable[[Any], object] | None = None,
    images: ImageOptions | None = None,
    max_memory: int | None = None,
    shard: Shard | None = None,
    libraries: Sequence[Path] = (),
    question: Question | None = None,
    lean: bool = False,
    report: Report = lambda _: None,
) -> forecasting.Forecast:
    """Check all that `qgraph.jobs.calibrating.calibrate` checks, look at the weights, run one inference, store nothing.

    Args:
        model: as there.
        device: as there.
        max_memory: bytes; None for no limit.
        shard: the part of the data that would be counted; None for all.
        libraries: as there.
        lean: as there.
        data: as there; a one-shot iterator is used up.

    Raises:
        QgraphError: what `calibrate` would refuse.
    """
    check_device(device)
    imported = load(model)
    structure = imported.structure
    shipped = shipped_slots(structure)
    asked = frozenset() if question is None else frozenset(pose(structure, question).constraints.slots.values())
    plan = plan_recording(structure, asked if lean else shipped | asked, lean=lean)
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    inputs = [tensors[name] for name in structure.inputs]
    runner = runner_for(model, imported, plan, device, libraries)
    data, collate = fed(model, data, collate)
    with closing(open_data(data, inputs, collate, images)) as source:
        size = samples_per_step(source, batch_size, steps)
        limit = None if steps is None else steps * size
        part = None if shard is None else part_of(source.census(limit), shard)
        # A calibration looks at the model's own numbers before it counts, and what that loads stays in memory.
        add_evidence(Evidence((), (), {}), shipped | asked, imported.constant)
        found = forecasting.forecast(runner, source, plan, structure, limit, max_memory, part)
        for line in source.notes():
            report(line)
    return found


def as_json(found: forecasting.Forecast) -> dict[str, Any]:
    """A forecast with the keys of the command line's JSON; bytes and seconds."""
    memory = found.memory
    return {
        "samples": found.samples,
        "passes": found.passes,
        "inferences": found.run,
        "tensors": {
            "collected": found.collected,
            "followed": found.followed,
            "not_collected": dict(found.not_collected),
        },
        "memory_bytes": {
            "fixed": memory.fixed,
            "activations": memory.activations,
            "histograms": memory.histograms,
            "peak": memory.peak,
            "formula": forecasting.FORMULA,
        },
        "seconds": {
            "reading": round(found.reading_seconds, 3),
            "running": round(found.running_seconds, 3),
            "total": round(found.seconds, 3),
        },
        "checkpoint_bytes": found.checkpoint,
    }
