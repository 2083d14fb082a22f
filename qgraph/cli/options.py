"""Options that several commands share, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qgraph.cli import completion
from qgraph.constraints.merge_methods import MergeOptions
from qgraph.errors import UsageError
from qgraph.hints import DEFAULT_DATABASE as DEFAULT_DATABASE
from qgraph.solve.run import ForceOverlap as OverlapSetting
from qgraph.solve.run import Parameter

DEFAULT_OBSERVER = "mse"
LATEST = "latest"
LARGEST_COUNT = 2**31 - 1
"""Of batches, of samples per inference, of rows."""


class ForceOverlap(StrEnum):
    """How far a sharing goes through a tensor with several readers."""

    FALSE = "false"
    TRUE = "true"
    AUTO = "auto"

    @property
    def setting(self) -> OverlapSetting:
        """The same for Python."""
        return "auto" if self == ForceOverlap.AUTO else self == ForceOverlap.TRUE


def output_option(told: str, *, metavar: str = "FILE", show_default: str | bool = False) -> Any:
    """The option ``-o``. It names a file even where others would write to standard output, so ``-`` is refused."""
    return typer.Option(
        "--output", "-o", metavar=metavar, help=told, show_default=show_default, callback=_not_standard_output
    )


def _not_standard_output(path: Path | None) -> Path | None:
    if path == Path("-"):
        raise UsageError("standard output is no file", "-o -", "give the name of a file")
    return path


_A_RUN = "A run: r1, its name, or latest."

Db = Annotated[str, typer.Option("--db", envvar="QGRAPH_DB", help="The database: a path or an SQLAlchemy URL.")]
UnusedDb = Annotated[str, typer.Option("--db", envvar="QGRAPH_DB", help="Not needed here; all commands take it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The float model, an .onnx file.", show_default=False)]
MovedModel = Annotated[
    Path | None, typer.Option("--model", help="Where the float model is now, if it was moved.", show_default=False)
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="One of `qgraph targets`, or the path of a rule pack.",
        show_default=False,
        autocompletion=completion.targets,
    ),
]
Observer = Annotated[
    str, typer.Option("--observer", help="One of `qgraph observers`.", autocompletion=completion.observers)
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="A parameter of the observer, as `qgraph observers` lists them; may be repeated.",
        show_default=False,
    ),
]
Overlap = Annotated[
    ForceOverlap,
    typer.Option(
        "--force-overlap",
        help="Share through a tensor with several readers, instead of requantizing; auto: where noise is less.",
    ),
]
_METHODS = "none|input|large|output|joint"
ElementwiseMerge = Annotated[
    str | None,
    typer.Option(
        "--elementwise-merge",
        metavar=_METHODS,
        help="Alignment of Add, Sub, Sum. force-none unties even what the target requires.",
        show_default="the target's",
    ),
]
ConcatMerge = Annotated[
    str | None,
    typer.Option("--concat-merge", metavar=_METHODS, help="Alignment of Concat.", show_default="the target's"),
]
AveragePoolMerge = Annotated[
    str | None,
    typer.Option(
        "--averagepool-merge", metavar=_METHODS, help="Alignment of average pools.", show_default="the target's"
    ),
]
ResizeMerge = Annotated[
    str | None,
    typer.Option("--resize-merge", metavar=_METHODS, help="Alignment of Resize.", show_default="the target's"),
]
OpLibrary = Annotated[
    list[Path] | None,
    typer.Option(
        "--op-library",
        metavar="FILE",
        help="A shared library with the model's custom ops, which onnxruntime loads; may be repeated.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", help="A name for the run, unique in the database.", show_default=False)
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help=_A_RUN, show_default=False, autocompletion=completion.runs)
]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help=_A_RUN, autocompletion=completion.runs)]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", min=1, max=LARGEST_COUNT, help="Use at most so many batches of the data.", show_default="all"
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where it is computed.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, max=LARGEST_COUNT, help="Samples per inference.")]
Top = Annotated[
    int | None, typer.Option("--top", min=1, max=LARGEST_COUNT, help="Show only the first rows.", show_default="all")
]


def alignment_options(
    elementwise: str | None, concat: str | None, averagepool: str | None, resize: str | None
) -> MergeOptions:
    """The alignment options under the names that Python has for them."""
    return {
        "elementwise_merge_method": elementwise,
        "concat_merge_method": concat,
        "averagepool_method": averagepool,
        "resize_method": resize,
    }


def observer_parameters(observer: str, assignments: list[str] | None) -> dict[str, Parameter]:
    """The values of ``--param``, read as what the observer takes."""
    from qgraph.calib.observers.catalog import entry_of, parse_parameters  # only these commands need it

    return parse_parameters(entry_of(observer), assignments or ())
