"""The seed system's names, importable from its place: ``from qgraph.core import TensorQuantizationConfig``."""

from qgraph.passes.seed import *  # noqa: F403
