"""What a folder holds that can be calibration data: `.npz` files or images, in the order of their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qgraph.errors import DataError

NPZ_SUFFIX = ".npz"

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a folder and of the folders in it, each kind sorted by path.

    Attributes:
        npz: arrays.
        images: by their names; whether they can be read shows when they are.
        others: files of any other kind.
    """

    npz: tuple[Path, ...]
    images: tuple[Path, ...]
    others: tuple[Path, ...]


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def list_folder(folder: Path) -> Folder:
    """List a folder and the folders in it.

    Hidden files and folders are left out. A link to a file counts as that file, broken ones too, so that reading
    names them; links to folders are not followed, as they may lead in a circle.

    Raises:
        DataError: it cannot be listed, holds no data, or both kinds of it.
    """
    try:
        files = sorted(path for path in _walk(folder) if path.is_file() or path.is_symlink())
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError("folder cannot be listed", f"{error.filename} ({reason})", "check its permissions") from None
    npz = tuple(path for path in files if path.suffix.lower() == NPZ_SUFFIX)
    images = tuple(path for path in files if is_image(path))
    if npz and images:
        counts = f"{folder} ({len(npz)} .npz, {len(images)} images)"
        raise DataError("a folder with both .npz files and images", counts, "give each kind a folder of its own")
    if not npz and not images:
        cure = (
            f"put .npz files or images ({' '.join(IMAGE_SUFFIXES)}) there; linked and hidden folders are not searched"
        )
        raise DataError("a folder without data", str(folder), cure)
    data = {*npz, *images}
    return Folder(npz, images, tuple(path for path in files if path not in data))


def _walk(folder: Path) -> list[Path]:
    """Every entry but folders, hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(Path(parent, name) for name in names if not name.startswith("."))
    return found
