"""Options that say what the calibration data is and how images are made ready."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgraph.errors import UsageError

if TYPE_CHECKING:
    from qgraph.calib.data.images import ImageOptions, Size

_PANEL = "Images"


class Resize(StrEnum):
    """How an image of another size gets the wanted one."""

    STRETCH = "stretch"
    CROP = "crop"


class Layout(StrEnum):
    """The order of a model input's axes."""

    NCHW = "nchw"
    NHWC = "nhwc"


class Broken(StrEnum):
    """What to do with an image that cannot be read."""

    SKIP = "skip"
    REFUSE = "refuse"


Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="An .npz with one array per input, first axis = samples; an image; or a folder of either.",
        show_default=False,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Resize images; x48 or 320x keeps the proportion.",
        show_default="the model's own size, else each image's",
        rich_help_panel=_PANEL,
    ),
]
ImageResize = Annotated[
    Resize,
    typer.Option("--resize", help="Stretch, or crop: cover the size and cut out the centre.", rich_help_panel=_PANEL),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="A,B,C",
        help="Subtracted from pixels in 0..1, in the order of the channels as they are fed.",
        show_default="0",
        rich_help_panel=_PANEL,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std", metavar="A,B,C", help="What pixels are divided by then.", show_default="1", rich_help_panel=_PANEL
    ),
]
ImageLayout = Annotated[
    Layout | None,
    typer.Option(
        "--layout", help="Order of the axes.", show_default="read off the model's input", rich_help_panel=_PANEL
    ),
]
Bgr = Annotated[bool, typer.Option("--bgr", help="Feed blue first, as OpenCV reads images.", rich_help_panel=_PANEL)]
BrokenImages = Annotated[
    Broken,
    typer.Option(
        "--broken", help="Skip images that cannot be read (they are named), or refuse them.", rich_help_panel=_PANEL
    ),
]


def image_options(
    *,
    size: str | None,
    resize: Resize,
    mean: str | None,
    std: str | None,
    layout: Layout | None,
    bgr: bool,
    broken: Broken,
) -> ImageOptions | None:
    """The options as data; None where all are at their defaults, as they must be for data that is no images.

    Raises:
        UsageError: an option cannot be read.
    """
    from qgraph.calib.data.images import ImageOptions  # heavy

    options = ImageOptions(
        size=(None, None) if size is None else parse_size(size),
        resize=resize.value,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        layout=None if layout is None else layout.value,
        bgr=bgr,
        broken=broken.value,
    )
    return None if options == ImageOptions() else options


def parse_size(text: str) -> Size:
    """Width and height of ``WxH``, either of which may be left out.

    >>> parse_size("320x240"), parse_size("x48")
    ((320, 240), (None, 48))
    """
    width, cross, height = text.lower().partition("x")
    if not cross or not (width or height) or not all(part == "" or part.isdecimal() for part in (width, height)):
        raise UsageError("--size cannot be read", text, "give width x height in pixels, as 320x240, x48 or 320x")
    return (int(width) if width else None, int(height) if height else None)


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} cannot be read", text or "", "give numbers with commas, as 0.485,0.456,0.406"
        ) from None
