"""Crops of the real photographs inside scikit-image and scikit-learn, as networks take them.

The wheels are read as files (`pip install --no-deps -r models.txt`), none of their code runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

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


def crops(height: int, width: int) -> Iterator[Image.Image]:
    """RGB crops without end: every picture in turn, each time at another scale and place."""
    pictures = [Image.open(package_file(*picture)).convert("RGB") for picture in PICTURES]
    random = np.random.default_rng(0)
    while True:
        for picture in pictures:
            scale = min(picture.width / width, picture.height / height) * random.uniform(0.5, 1.0)
            left = float(random.uniform(0, picture.width - width * scale))
            top = float(random.uniform(0, picture.height - height * scale))
            box = (left, top, left + width * scale, top + height * scale)
            yield picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def photographs(
    count: int,
    height: int,
    width: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    bgr: bool = False,
    skip: int = 0,
) -> NDArray[np.float32]:
    """Preprocessed crops, leaving out the first `skip`: float32 of shape (count, 3, height, width).

    Args:
        mean, std: per channel, in the order of the channels, for pixels in 0..1.
    """
    samples = []
    for crop in islice(crops(height, width), skip, skip + count):
        pixels = np.asarray(crop, np.float32) / 255.0
        pixels = pixels[..., ::-1] if bgr else pixels
        samples.append(((pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(samples), np.float32)
