"""qgraph: which tensors must share quantization parameters on a target, why, and what it costs.

    import qgraph

    db = qgraph.open("qgraph.db")

Names are loaded when they are first used, so that ``import qgraph`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qgraph.api import Calibration as Calibration
    from qgraph.api import Database as Database
    from qgraph.api import Run as Run
    from qgraph.api import open as open  # noqa: A004 - qgraph.open is its name
    from qgraph.calib.images import ImageOptions as ImageOptions
    from qgraph.errors import QgraphError as QgraphError
    from qgraph.tqc import QuantizationState as QuantizationState
    from qgraph.tqc import TensorQuantizationConfig as TensorQuantizationConfig

_HOMES = {
    "Calibration": "qgraph.api",
    "Database": "qgraph.api",
    "ImageOptions": "qgraph.calib.images",
    "QgraphError": "qgraph.errors",
    "QuantizationState": "qgraph.tqc",
    "Run": "qgraph.api",
    "TensorQuantizationConfig": "qgraph.tqc",
    "open": "qgraph.api",
}

__all__ = [
    "Calibration",
    "Database",
    "ImageOptions",
    "QgraphError",
    "QuantizationState",
    "Run",
    "TensorQuantizationConfig",
    "open",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qgraph' has no attribute {name!r}")
    from importlib import import_module  # not needed to import the package

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
