"""The options with which a user overrules a target for parts of a model. `docs/overrides.md` explains them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgraph.constraints.overrides import Action, Overrides, collect

_PANEL = "Overrides (each may be repeated; SELECTOR: NAME, op:, tensor:, type:, path:, re:, between:a..b, with * and ?)"

OverridesFile = Annotated[
    Path | None,
    typer.Option(
        "--overrides", metavar="FILE", help="A .toml file of them.", show_default=False, rich_help_panel=_PANEL
    ),
]
Float = Annotated[
    list[str] | None,
    typer.Option(
        "--float", metavar="SELECTOR", help="Leave ops or tensors in float.", show_default=False, rich_help_panel=_PANEL
    ),
]
Bits = Annotated[
    list[str] | None,
    typer.Option(
        "--bits",
        metavar="SELECTOR=BITS",
        help="Quantize with 4, 8 or 16 bits: what ops read and make, or tensors.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Pin = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        metavar="TENSOR=SCALE,OFFSET",
        help="Prescribe scale and offset.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Share = Annotated[
    list[str] | None,
    typer.Option(
        "--share", metavar="A=B", help="Give two tensors one scale.", show_default=False, rich_help_panel=_PANEL
    ),
]
Unshare = Annotated[
    list[str] | None,
    typer.Option(
        "--unshare",
        metavar="SELECTOR|A=B",
        help="Drop a sharing that the target only prefers.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
ForceUnshare = Annotated[
    list[str] | None,
    typer.Option(
        "--force-unshare",
        metavar="SELECTOR|A=B",
        help="Drop a sharing even where the target requires it.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def read_override_options(
    file: Path | None,
    floats: list[str] | None,
    bits: list[str] | None,
    pin: list[str] | None,
    share: list[str] | None,
    unshare: list[str] | None,
    force_unshare: list[str] | None,
) -> Overrides:
    """The overrides of a command."""
    options = {
        Action.FLOAT: floats,
        Action.BITS: bits,
        Action.PIN: pin,
        Action.SHARE: share,
        Action.UNSHARE: unshare,
        Action.FORCE_UNSHARE: force_unshare,
    }
    return collect(options, file)
