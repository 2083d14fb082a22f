"""A plot of what a tensor or a group looks like, and of the range that each observer would choose for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgraph.calib.observers.catalog import AUTO, OBSERVERS
from qgraph.calib.observers.observe import observe_all
from qgraph.calib.octaves import pieces
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import NotFoundError, UsageError
from qgraph.formats.plot import Bar, Span, check_plot, write_plot
from qgraph.jobs.describing import statistics_of_tensors
from qgraph.solve.noise import Quantizer, noise_db
from qgraph.solve.pool import counted, pooled
from qgraph.store import models, queries, runs
from qgraph.store.database import Database
from qgraph.tqc import Scheme

BARS_PER_OCTAVE = 16


def plot(database: Database, run: str, output: Path, *, tensor: str | None = None, group: str | None = None) -> Any:
    """Write the histogram of a tensor or a group with every observer's range and noise.

    Returns:
        ``{"run", "tensors", "output", "observers": {name: {"scale", "offset", "noise_db"}}}``.

    Raises:
        UsageError: neither or both are given, matplotlib is missing, or nothing was collected.
        NotFoundError: no such tensor or group.
    """
    if (tensor is None) == (group is None):
        raise UsageError("what to plot is not clear", "qgraph plot", "give either --tensor or --group")
    check_plot(output)
    names, scheme, title = _subject(database, run, tensor, group)
    found = [one for one in statistics_of_tensors(database, run, names).values() if one.minimum is not None]
    if not found:
        raise UsageError("nothing to plot was collected", title, "calibrate the model, and name a tensor that ran")
    whole = pooled(found)
    answers = _answers(whole, scheme)
    spans = [
        Span(name, (scheme.quant_min - offset) * scale, (scheme.quant_max - offset) * scale, noise)
        for name, (scale, offset, noise) in answers.items()
    ]
    bars = [Bar(one.low, one.high, one.count) for one in pieces(whole, BARS_PER_OCTAVE)]
    write_plot(output, f"{title}: {scheme}", bars, whole.zeros, spans)
    observers = {name: {"scale": s, "offset": o, "noise_db": noise} for name, (s, o, noise) in answers.items()}
    return {"run": run, "tensors": list(names), "output": str(output), "observers": observers}


def _subject(
    database: Database, run: str, tensor: str | None, group: str | None
) -> tuple[tuple[str, ...], Scheme, str]:
    """The tensors to pool, the scheme to quantize them with (per tensor), and a title."""
    with database.reading() as connection:
        record = runs.resolve_run(connection, run)
        if tensor is not None:
            queries.tensor(connection, run, tensor)
        data = runs.load_run(connection, record.id)
        structure = models.load_structure(connection, record.model)
    tqcs = [one for one in data.tqcs if one.scheme is not None and one.role in ("activation", "constant")]
    if tensor is not None:
        chosen = [one for one in tqcs if one.tensor == tensor]
        names: tuple[str, ...] = (tensor,)
    else:
        assert group is not None
        chosen = [one for one in tqcs if one.group == group]
        producers = {name: op for op in structure.ops for name in op.outputs if name is not None}
        names = counted({one.tensor for one in chosen}, producers)
    if not chosen:
        if group is not None:
            raise NotFoundError.among("group", group, {one.group for one in tqcs if one.group}, "see qgraph groups")
        raise UsageError("the tensor is not quantized", str(tensor), "name one that is; see qgraph scales")
    first = chosen[0].scheme
    assert first is not None
    scheme = Scheme(
        first.bits, first.signed, first.symmetric, first.quant_min, first.quant_max, None, first.power_of_two
    )
    return names, scheme, tensor or f"group {group} of {len(names)} tensors"


def _answers(whole: TensorStatistics, scheme: Scheme) -> dict[str, tuple[float, int, float | None]]:
    """Scale, offset and noise of each shipped observer that answers."""
    names = [name for name in OBSERVERS if name != AUTO]
    answers = observe_all([(name, None) for name in names], [whole], [scheme])
    found = {name: answer for name, (answer,) in zip(names, answers, strict=True)}
    known = {name: answer for name, answer in found.items() if answer is not None}
    noise = noise_db([whole] * len(known), [Quantizer(*answer, scheme) for answer in known.values()])
    return {name: (*answer, one) for (name, answer), one in zip(known.items(), noise, strict=True)}
