"""Images as calibration data, made ready as the model's one input wants them.

::

    file ─▶ upright, RGB or gray ─▶ size ─▶ RGB or BGR ─▶ 0..1 ─▶ (x − mean) / std ─▶ NCHW or NHWC

Transparency is dropped, 16-bit gray is cut to 8 bits, and of several frames the first is taken. An input of type
uint8 gets the pixels as they are, 0..255.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from qgraph.errors import DataError, UsageError
from qgraph.ir.elements import Tensor

Resize = Literal["stretch", "crop"]
Layout = Literal["nchw", "nhwc"]
Size = tuple[int | None, int | None]
"""Width and height; None follows the other one in proportion, or both the image."""

NAMED = 10
"""How many broken files a note names."""

MAX_PIXELS = 2**27
"""Of one prepared sample; more is a slip of the pen."""

_AXES: Mapping[Layout, tuple[int, int, int]] = MappingProxyType({"nchw": (1, 2, 3), "nhwc": (3, 1, 2)})
"""Where channels, height and width are."""

_RESIZERS: Mapping[Resize, Callable[..., Image.Image]] = MappingProxyType(
    {"stretch": Image.Image.resize, "crop": ImageOps.fit}
)


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How images are made ready.

    Attributes:
        size: what the model's own static height and width do not say already.
        resize: ``stretch`` to that size, or ``crop``: scale to cover it and cut out the centre. Both bilinear.
        mean, std: per channel in the order in which they are fed, or one for all; for pixels in 0..1.
        layout: None reads it off the model's input shape.
        bgr: feed blue first.
        broken: ``skip`` files that cannot be read, or ``refuse`` them.
    """

    size: Size = (None, None)
    resize: Resize = "stretch"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None
    bgr: bool = False
    broken: Literal["skip", "refuse"] = "skip"


@dataclass(frozen=True, slots=True)
class Preparation:
    """Options resolved for one input: everything that the arrays depend on beside the files.

    Attributes:
        order: ``RGB``, ``BGR`` or ``L`` (gray).
        mean, std: float32 as numbers, one per channel; both empty where pixels stay 0..255.
    """

    size: Size
    resize: Resize
    order: Literal["RGB", "BGR", "L"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Layout

    def __str__(self) -> str:
        """The preparation as text; equal texts mean equal preparation."""
        width, height = (str(length or "") for length in self.size)
        size = f"{width}x{height}" if width or height else "own"
        mean, std = (",".join(map(str, values)) or "none" for values in (self.mean, self.std))
        return (
            f"images size={size} resize={self.resize} channels={self.order} mean={mean} std={std} layout={self.layout}"
        )


def preparation_for(options: ImageOptions, inputs: Sequence[Tensor]) -> Preparation:
    """Resolve options for a model's only input.

    Raises:
        DataError: the model has several inputs, or its input cannot be an image.
        UsageError: the options contradict the input or cannot work.
    """
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(
            f"images for a model of {len(inputs)} inputs", names, "prepare an .npz with one array per input"
        )
    (spec,) = inputs
    if spec.dtype not in ("float16", "float32", "float64", "uint8") or len(spec.shape or (0,) * 4) != 4:
        shape = "" if spec.shape is None else f" of rank {len(spec.shape)}"
        raise DataError("an input that takes no images", f"{spec.name} ({spec.dtype}{shape})", "prepare an .npz")
    layout = _layout_of(spec)
    if options.layout not in (None, layout) and _static(spec, _AXES[layout][0]) in (1, 3):
        raise UsageError(f"--layout {options.layout} for an input in {layout}", spec.name, "leave it out")
    layout = options.layout or layout
    channel_axis, height_axis, width_axis = _AXES[layout]
    channels = _static(spec, channel_axis) or 3
    if channels not in (1, 3):
        cure = "choose --layout, or prepare an .npz"
        raise DataError(f"an input of {channels} channels takes no images", f"{spec.name} as {layout}", cure)
    if options.bgr and channels == 1:
        raise UsageError("--bgr for an input of one channel", spec.name, "leave it out")
    order: Literal["RGB", "BGR", "L"] = "L" if channels == 1 else "BGR" if options.bgr else "RGB"
    size = _size(options.size, (_static(spec, width_axis), _static(spec, height_axis)), spec.name)
    mean, std = _normalisation(options, channels, spec)
    return Preparation(size, options.resize, order, mean, std, layout)


def _static(spec: Tensor, axis: int) -> int | None:
    length = spec.shape[axis] if spec.shape is not None else None
    return length if isinstance(length, int) and length > 0 else None


def _layout_of(spec: Tensor) -> Layout:
    """NHWC where only the last axis can be the channels."""
    first, last = _static(spec, 1), _static(spec, 3)
    return "nhwc" if last in (1, 3) and first not in (1, 3) else "nchw"


def _size(wanted: Size, static: Size, name: str) -> Size:
    for length, own in zip(wanted, static, strict=True):
        if length is not None and length < 1:
            raise UsageError("--size must be positive", f"{length}", "give pixels, as 224x224")
        if length is not None and own is not None and length != own:
            shown = "x".join(str(number or "?") for number in static)
            raise UsageError("--size is not what the model takes", f"{name} takes {shown}", "leave it out")
    size = (wanted[0] or static[0], wanted[1] or static[1])
    if math.prod(length or 1 for length in size) > MAX_PIXELS:
        raise UsageError("--size is too large", f"{size[0]}x{size[1]}", f"use at most {MAX_PIXELS} pixels")
    return size


def _normalisation(options: ImageOptions, channels: int, spec: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if spec.dtype == "uint8":
        if options.mean or options.std:
            cure = "leave --mean and --std out: the model takes pixels in 0..255"
            raise UsageError("normalisation for an input of integers", spec.name, cure)
        return (), ()
    return (
        _per_channel("--mean", options.mean or (0.0,), channels, spec.name),
        _per_channel("--std", options.std or (1.0,), channels, spec.name),
    )


def _per_channel(option: str, values: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        cure = f"give {channels} or one" if channels > 1 else "give one"
        raise UsageError(f"{option} has {len(values)} numbers", f"{name} has {channels} channels", cure)
    if not np.isfinite(values).all() or (option == "--std" and min(values) <= 0):
        raise UsageError(f"{option} cannot be used", ", ".join(map(str, values)), "give finite numbers, std above 0")
    if max(map(abs, values)) > 1:
        # The likely slip: numbers meant for pixels in 0..255 would be taken without a sound otherwise.
        raise UsageError(
            f"{option} is for pixels in 0..1", ", ".join(map(str, values)), "divide numbers for pixels in 0..255 by 255"
        )
    return values if len(values) == channels else values * channels


def load_image(path: Path, preparation: Preparation) -> NDArray[Any]:
    """Read one file as the array to feed.

    Returns:
        float32 (uint8 where nothing is normalised) of shape (1, channels, height, width) or, in NHWC,
        (1, height, width, channels).

    Raises:
        DataError: the file cannot be read as an image, or would take too much memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as odd metadata, which no pixel depends on
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _decoded(path, gray=preparation.order == "L")
            size = _target(image, preparation.size)
            if size != image.size:
                image = _RESIZERS[preparation.resize](image, size, Image.Resampling.BILINEAR)
    except Exception as error:  # the decoders of broken files raise whatever their parsing runs into
        raise DataError("an image cannot be read", f"{path} ({_reason(error)})", "repair it or take it out") from error
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if preparation.order == "BGR":
        pixels = pixels[:, :, ::-1]
    if preparation.mean:
        scaled = pixels.astype(np.float32) / np.float32(255)
        pixels = (scaled - np.asarray(preparation.mean, np.float32)) / np.asarray(preparation.std, np.float32)
    if preparation.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)[np.newaxis]


def _decoded(path: Path, *, gray: bool) -> Image.Image:
    with Image.open(path) as opened:
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel")
    return image.convert("L" if gray else "RGB")


def _target(image: Image.Image, size: Size) -> tuple[int, int]:
    """Width and height in pixels; one that is free keeps the image's proportion."""
    width, height = size
    if width is None and height is None:
        return image.size
    width = width or max(1, round(image.width * (height or 1) / image.height))
    height = height or max(1, round(image.height * width / image.width))
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} once resized is too large")
    return width, height


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class ImageFiles:
    """Image files that can be read again and again; remembers which are broken.

    Args:
        name: the input that they are fed to.
        root: the folder that notes leave out of the files' names.
    """

    def __init__(
        self, paths: Sequence[Path], root: Path, name: str, preparation: Preparation, *, skip_broken: bool = True
    ) -> None:
        self._paths = paths
        self._root = root
        self._name = name
        self._preparation = preparation
        self._skip_broken = skip_broken
        self._broken: dict[Path, str] = {}

    def items(self) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        """A new pass over the files that can be read.

        Raises:
            DataError: a file cannot be read and none is to be skipped, or no file can be read.
        """
        readable = False
        for path in self._paths:
            try:
                array = load_image(path, self._preparation)
            except DataError as error:
                if not self._skip_broken:
                    raise
                self._broken[path] = error.which
                continue
            readable = True
            yield str(path), {self._name: array}
        if not readable:
            shown = self._broken[self._paths[0]]
            raise DataError(f"none of {len(self._paths)} images can be read", shown, "check the files")

    def notes(self) -> tuple[str, ...]:
        """One line that counts and names what was left out so far, if anything was."""
        if not self._broken:
            return ()
        names = [str(path.relative_to(self._root)) for path in sorted(self._broken)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        counted = f"{len(names)} of {len(self._paths)} images cannot be read and are left out"
        return (f"{counted}: {', '.join(names[:NAMED])}{more}",)
