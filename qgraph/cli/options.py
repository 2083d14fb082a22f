"""Options that several commands share, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATABASE = "qgraph.db"
DEFAULT_OBSERVER = "mse"
LATEST = "latest"


class ForceOverlap(StrEnum):
    """How far a sharing goes through a tensor with several readers."""

    FALSE = "false"
    TRUE = "true"


_A_RUN = "A run: r1, its name, or latest."

Db = Annotated[str, typer.Option("--db", envvar="QGRAPH_DB", help="The database: a path or an SQLAlchemy URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The float model, an .onnx file.", show_default=False)]
MovedModel = Annotated[
    Path | None, typer.Option("--model", help="Where the float model is now, if it was moved.", show_default=False)
]
Data = Annotated[
    Path,
    typer.Option("--data", help="An .npz with one array per input, first axis = samples.", show_default=False),
]
Target = Annotated[
    str,
    typer.Option("--target", "-t", help="One of `qgraph targets`, or the path of a rule pack.", show_default=False),
]
Observer = Annotated[str, typer.Option("--observer", help="One of `qgraph observers`.")]
Overlap = Annotated[
    ForceOverlap,
    typer.Option("--force-overlap", help="Share through a tensor with several readers instead of requantizing."),
]
Name = Annotated[
    str | None, typer.Option("--name", help="A name for the run, unique in the database.", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=_A_RUN, show_default=False)]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help=_A_RUN)]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Use at most so many batches of the data.", show_default="all")
]
Top = Annotated[int | None, typer.Option("--top", min=1, help="Show only the first rows.", show_default="all")]
