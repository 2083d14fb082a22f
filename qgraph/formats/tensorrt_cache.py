"""TensorRT's calibration cache: a line for the version, then ``tensor: 3c010a14`` for each activation.

The eight digits are the big-endian bytes of a float32: the largest magnitude over 127. There are no zero points, no
channels and no weights (TensorRT makes those itself). A tensor's name may hold ``": "``; the last one of a line counts.
"""

from __future__ import annotations

import struct

from qgraph.errors import ModelError
from qgraph.formats.scale_table import ScaleTable, TensorScale, Written, loss, second_scales
from qgraph.tqc import FLOAT32_LARGEST, to_float32

HEADER = "TRT-8601-EntropyCalibration2"
"""Version and algorithm. TensorRT ignores a cache of another version: put that of yours here."""

BEGINNING = "TRT-"

LARGEST = 127
"""The integer that stands for the largest magnitude."""


def write_cache(table: ScaleTable) -> Written:
    """The activations; one with a zero point gets the symmetric scale that covers its range."""
    lines = [HEADER]
    shifted: list[str] = []
    coarser: list[str] = []
    channels, unwritable = [], []
    for name, one in table.tensors.items():
        if name in table.constants:
            continue
        if "\n" in name or "\r" in name:
            unwritable.append(name)
            continue
        low, high = one.steps
        scale = max(one.scale)
        if len(one.scale) > 1:
            channels.append(name)
        if low < -LARGEST - 1 or high != LARGEST:
            (shifted if one.bits <= 8 else coarser).append(name)
            scale = to_float32(min(scale * max(-low, high) / LARGEST, FLOAT32_LARGEST))
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    cover = "the symmetric 8-bit scales that cover their ranges are written"
    losses = [
        *loss(f"zero points or other integers than int8, {cover}", shifted),
        *loss(f"more than 8 bits, {cover}", coarser),
        *loss("a scale per channel, the largest is written", channels),
        *loss("a line break in the name, left out", unwritable),
        *loss("constants, left out: TensorRT scales its weights itself", table.constants),
        *second_scales(table),
        *loss("not quantized, left out: TensorRT runs what has no scale in float", table.floats),
    ]
    return Written("\n".join(lines) + "\n", tuple(losses))


def read_cache(text: str, source: str) -> ScaleTable:
    """Read a cache of any version.

    Args:
        source: the file, for errors.

    Raises:
        ModelError: a line is not what it should be.
    """
    header, *lines = text.removesuffix("\n").split("\n")
    if not header.startswith(BEGINNING):
        raise ModelError("not a TensorRT calibration cache", source, f"its first line should begin with {BEGINNING}")
    tensors: dict[str, TensorScale] = {}
    for number, line in enumerate(lines, 2):
        name, separator, digits = line.rstrip("\r").rpartition(": ")
        if not line.strip():
            continue
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits))
        except (ValueError, struct.error):
            separator = ""
        if not separator:
            shown = ascii(line[:80])
            raise ModelError("not a tensor and its scale", f"{source}, line {number}: {shown}", "repair the file")
        if name in tensors:
            raise ModelError("a tensor twice", f"{source}, line {number}: {name}", "repair the file")
        tensors[name] = TensorScale(8, (scale,), (0,), signed=True, symmetric=True)
    return ScaleTable(dict(sorted(tensors.items())), origin={"made by": header.rstrip("\r")})
