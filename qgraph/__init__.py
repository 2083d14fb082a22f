"""qgraph: which tensors must share quantization parameters on a target, why, and what it costs.

    import qgraph

    db = qgraph.open("qgraph.db")

Names are loaded when they are first used, so that ``import qgraph`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qgraph.analysis.golden import compare_golden as compare_golden
    from qgraph.api import Calibration as Calibration
    from qgraph.api import Database as Database
    from qgraph.api import Run as Run
    from qgraph.api import open as open  # noqa: A004 - qgraph.open is its name
    from qgraph.calib.data.images import ImageOptions as ImageOptions
    from qgraph.calib.observers.catalog import register_calibration_observer as register_calibration_observer
    from qgraph.checking import check as check
    from qgraph.errors import QgraphError as QgraphError
    from qgraph.passes.entry import quantize_onnx_model as quantize_onnx_model
    from qgraph.passes.entry import quantize_torch_model as quantize_torch_model
    from qgraph.passes.error_analysis import graphwise_error_analyse as graphwise_error_analyse
    from qgraph.passes.error_analysis import layerwise_error_analyse as layerwise_error_analyse
    from qgraph.passes.exporting import export_ppq_graph as export_ppq_graph
    from qgraph.passes.graph import QuantizedGraph as QuantizedGraph
    from qgraph.passes.passes import ParameterQuantizePass as ParameterQuantizePass
    from qgraph.passes.passes import PassiveParameterQuantizePass as PassiveParameterQuantizePass
    from qgraph.passes.passes import QuantAlignmentPass as QuantAlignmentPass
    from qgraph.passes.passes import QuantizeFusionPass as QuantizeFusionPass
    from qgraph.passes.passes import RuntimeCalibrationPass as RuntimeCalibrationPass
    from qgraph.passes.platforms import TargetPlatform as TargetPlatform
    from qgraph.passes.settings import QuantizationSetting as QuantizationSetting
    from qgraph.passes.settings import QuantizationSettingFactory as QuantizationSettingFactory
    from qgraph.tqc import QuantizationState as QuantizationState
    from qgraph.tqc import TensorQuantizationConfig as TensorQuantizationConfig

_HOMES = {
    "Calibration": "qgraph.api",
    "Database": "qgraph.api",
    "ImageOptions": "qgraph.calib.data.images",
    "ParameterQuantizePass": "qgraph.passes.passes",
    "PassiveParameterQuantizePass": "qgraph.passes.passes",
    "QgraphError": "qgraph.errors",
    "QuantAlignmentPass": "qgraph.passes.passes",
    "QuantizationSetting": "qgraph.passes.settings",
    "QuantizationSettingFactory": "qgraph.passes.settings",
    "QuantizationState": "qgraph.tqc",
    "QuantizeFusionPass": "qgraph.passes.passes",
    "QuantizedGraph": "qgraph.passes.graph",
    "Run": "qgraph.api",
    "RuntimeCalibrationPass": "qgraph.passes.passes",
    "TargetPlatform": "qgraph.passes.platforms",
    "TensorQuantizationConfig": "qgraph.tqc",
    "check": "qgraph.checking",
    "compare_golden": "qgraph.analysis.golden",
    "export_ppq_graph": "qgraph.passes.exporting",
    "graphwise_error_analyse": "qgraph.passes.error_analysis",
    "layerwise_error_analyse": "qgraph.passes.error_analysis",
    "open": "qgraph.api",
    "quantize_onnx_model": "qgraph.passes.entry",
    "quantize_torch_model": "qgraph.passes.entry",
    "register_calibration_observer": "qgraph.calib.observers.catalog",
}

__all__ = [
    "Calibration",
    "Database",
    "ImageOptions",
    "ParameterQuantizePass",
    "PassiveParameterQuantizePass",
    "QgraphError",
    "QuantAlignmentPass",
    "QuantizationSetting",
    "QuantizationSettingFactory",
    "QuantizationState",
    "QuantizeFusionPass",
    "QuantizedGraph",
    "Run",
    "RuntimeCalibrationPass",
    "TargetPlatform",
    "TensorQuantizationConfig",
    "check",
    "compare_golden",
    "export_ppq_graph",
    "graphwise_error_analyse",
    "layerwise_error_analyse",
    "open",
    "quantize_onnx_model",
    "quantize_torch_model",
    "register_calibration_observer",
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
