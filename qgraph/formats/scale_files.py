"""The formats in which scales are kept without a model: one table, by the name that the user writes.

A new format is a line here, with its writer and its reader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from qgraph.errors import ExportError, ModelError, NotFoundError
from qgraph.formats import aimet, ort_overrides, own_scales, tensorrt_cache
from qgraph.formats.scale_table import ScaleTable, TensorScale, Written
from qgraph.formats.whole_file import whole_file
from qgraph.tqc import FLOAT32_LARGEST, to_float32

LARGEST_FILE = 1 << 30
"""Bytes of the largest file that is read: far more than the scales of any model take."""


@dataclass(frozen=True, slots=True)
class ScaleFormat:
    """One format.

    Attributes:
        write: the text of a file.
        read: from a text and the file's name, for errors; raises `ModelError`.
        told_by: whether a text, white space in front removed, is of this format.
    """

    write: Callable[[ScaleTable], Written]
    read: Callable[[str, str], ScaleTable]
    told_by: Callable[[str], bool]


def _has(pattern: str) -> Callable[[str], bool]:
    """Whether a JSON text has something in it: the version of an object may stand first or last."""
    return lambda text: text.startswith("{") and re.search(pattern, text) is not None


FORMATS: Mapping[str, ScaleFormat] = MappingProxyType(
    {
        "tensorrt-cache": ScaleFormat(
            tensorrt_cache.write_cache,
            tensorrt_cache.read_cache,
            lambda text: text.startswith(tensorrt_cache.BEGINNING),
        ),
        "aimet-0.6.1": ScaleFormat(aimet.write_061, aimet.read_encodings, _has(r'"version"\s*:\s*"0\.')),
        "aimet-1.0.0": ScaleFormat(aimet.write_100, aimet.read_encodings, _has(r'"version"\s*:\s*"1\.')),
        "aimet-2.0.0": ScaleFormat(aimet.write_200, aimet.read_encodings, _has(r'"version"\s*:\s*"2\.')),
        "json": ScaleFormat(own_scales.write_json, own_scales.read_json, _has(f'"{own_scales.FORMAT}"')),
        "csv": ScaleFormat(own_scales.write_csv, own_scales.read_csv, lambda text: text.startswith("tensor,")),
        "ort-overrides": ScaleFormat(ort_overrides.write_overrides, ort_overrides.read_overrides, _has('"quant_type"')),
    }
)
"""By name."""

READ_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnx": ("qdq",),
        "onnxruntime": ("qdq", "ort-overrides"),
        "ort": ("qdq", "ort-overrides"),
        "qnn": ("aimet-0.6.1", "aimet-1.0.0", "aimet-2.0.0"),
        "snpe": ("aimet-0.6.1", "aimet-1.0.0"),
    }
)
"""What somebody may mean who names a tool instead of a format, and the names do not look alike."""


def format_named(name: str, others: tuple[str, ...] = ("qdq", "float", "graphml")) -> ScaleFormat:
    """One of `FORMATS`.

    Args:
        others: formats without a row here that the user may mean, too: there is no reader of ``graphml``.

    Raises:
        NotFoundError: no such format, with near matches.
    """
    if name not in FORMATS:
        known = (*others, *FORMATS)
        meant = [one for one in READ_BY.get(name.lower(), ()) if one in known]
        if meant:
            raise NotFoundError("unknown format", name, f"did you mean {' or '.join(meant)}?")
        raise NotFoundError.among("format", name, known, f"use one of {', '.join(sorted(known))}")
    return FORMATS[name]


def write_scales(table: ScaleTable, name: str, path: Path) -> tuple[str, ...]:
    """Write a file, which takes its name once it is complete; returns a line for each thing the format cannot say.

    Raises:
        NotFoundError: no such format.
        ExportError: it cannot be written.
    """
    written = format_named(name).write(table)
    try:
        with whole_file(path, "the scales") as file:
            file.write_text(written.text, encoding="utf-8", newline="")
    except UnicodeEncodeError as error:
        raise ExportError("a name that is no UTF-8", str(path), "rename the tensor") from error
    return written.losses


def read_scales(content: bytes, source: str, name: str | None = None) -> tuple[ScaleTable, str]:
    """Read a file of scales.

    Args:
        source: the file's name, for errors.
        name: the format; None finds it out from the content.

    Returns:
        The scales, as float32, and the format's name.

    Raises:
        NotFoundError: no such format.
        ModelError: the file is damaged, or of no known format.
    """
    if len(content) > LARGEST_FILE:
        raise ModelError("too large for a file of scales", source, "give a file with scales only")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cure = f"give a QDQ .onnx, or one of {', '.join(sorted(FORMATS))}"
        raise ModelError("not a text file with scales", source, cure) from error
    if name is None:
        start = text.lstrip()
        name = next((one for one, found in FORMATS.items() if found.told_by(start)), None)
    if name is None:
        cure = f"say which with --format: {', '.join(sorted(FORMATS))}"
        raise ModelError("no known format of scales", source, cure)
    return checked(format_named(name, ("qdq",)).read(text, source), source), name


def checked(table: ScaleTable, source: str) -> ScaleTable:
    """A table whose scales can be some: positive float32 numbers, with bits and zero points that fit them.

    Raises:
        ModelError: there are none, or one cannot be a scale.
    """
    if not table.tensors:
        raise ModelError("no tensor has a scale", source, "give a file with scales")
    tensors = {tensor: _checked(one, f"{source}: {tensor}") for tensor, one in table.tensors.items()}
    readers = {key: _checked(one, f"{source}: {key[0]}") for key, one in table.readers.items()}
    return replace(table, tensors=tensors, readers=readers)


def _checked(one: TensorScale, which: str) -> TensorScale:
    """A scale that can be one: bits, channels and numbers; in float32."""
    wrong = None
    if not 2 <= one.bits <= 32:
        wrong = f"{one.bits} bits"
    elif not one.scale or len(one.scale) != len(one.offset):
        wrong = f"{len(one.scale)} scales and {len(one.offset)} zero points"
    elif not all(
        math.isfinite(value) and 0 < value <= FLOAT32_LARGEST and to_float32(value) > 0 for value in one.scale
    ):
        wrong = "a scale that is not a positive float32"
    elif any(abs(value) > 1 << 32 for value in one.offset):
        wrong = "a zero point outside of its integers"
    elif one.axis is not None and not 0 <= one.axis <= 64:
        wrong = f"axis {one.axis}"
    if wrong is not None:
        raise ModelError(f"no parameters of quantization: {wrong}", which, "repair the file, or export it again")
    return replace(one, scale=tuple(map(to_float32, one.scale)))
