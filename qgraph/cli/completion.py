"""What the shell offers on TAB: names of targets and observers, and those that the database holds.

A name that cannot be looked up is no reason to disturb somebody who is typing: then nothing is offered, and the shell
goes on with the names of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import typer

import qgraph
from qgraph.errors import QgraphError
from qgraph.hints import DEFAULT_DATABASE

Offer = list[tuple[str, str]]
"""Words, each with what the shells that can do so show beside it."""

LATEST = "latest"


def targets(incomplete: str) -> Offer:
    """The targets that come with qgraph."""
    from qgraph.constraints.pack import pack_names  # only this needs it

    return offer(incomplete, ((name, "") for name in pack_names()))


def observers(incomplete: str) -> Offer:
    """The observers, those of installed packages too."""
    from qgraph.calib.observers.catalog import entries  # only this needs it

    return offer(incomplete, ((entry.name, entry.summary) for entry in entries()))


def formats(incomplete: str) -> Offer:
    """What a run can be written as, and read from."""
    from qgraph.formats.scale_files import FORMATS  # only this needs it

    return offer(incomplete, ((name, "") for name in ("qdq", "float", "graphml", *FORMATS)))


def runs(context: typer.Context, incomplete: str) -> Offer:
    """The runs by id and by name, and the newest."""
    return offer(incomplete, _runs(context))


def calibrations(context: typer.Context, incomplete: str) -> Offer:
    """The calibrations that runs were made from, and the runs."""
    return offer(incomplete, [*_calibrations(context), *_runs(context)])


def tensors(context: typer.Context, incomplete: str) -> Offer:
    """The float tensors of the run that is asked."""
    try:
        with _database(context) as database:
            found = database.run(context.params.get("run") or LATEST).scales()
    except QgraphError:
        return []
    return offer(incomplete, ((name, tensor["state"]) for name, tensor in found["tensors"].items()))


def offer(incomplete: str, words: Iterable[tuple[str, str]]) -> Offer:
    """Those words that go on from what is typed, each once.

    >>> offer("t", [("tflite", ""), ("onnxruntime", ""), ("tflite", "")])
    [('tflite', '')]
    """
    return list({word: (word, told) for word, told in words if word.startswith(incomplete)}.values())


def _runs(context: typer.Context) -> Iterator[tuple[str, str]]:
    for run in _stored(context):
        told = f"{run['settings']['target']} {run['settings']['observer'] or 'structure only'}, {run['model_name']}"
        yield run["run"], told
        if run["name"] is not None:
            yield run["name"], told
    yield LATEST, "the newest run"


def _calibrations(context: typer.Context) -> Iterator[tuple[str, str]]:
    for run in _stored(context):
        if run["calibration"] is not None:
            yield run["calibration"], f"{run['samples']} samples, {run['model_name']}"


def _stored(context: typer.Context) -> list[dict[str, Any]]:
    try:
        with _database(context) as database:
            found: list[dict[str, Any]] = database.runs()["runs"]
    except QgraphError:
        return []
    return found


def _database(context: typer.Context) -> qgraph.Database:
    named = context.params.get("db") or os.environ.get("QGRAPH_DB") or DEFAULT_DATABASE
    return qgraph.open(named, create=False)
