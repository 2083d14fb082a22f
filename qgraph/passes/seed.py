"""The seed system's names, all in one place; `qgraph`, `qgraph.api` and `qgraph.core` have them, too."""

from __future__ import annotations

from qgraph.calib.observers.catalog import register_calibration_observer
from qgraph.passes.entry import quantize_onnx_model, quantize_torch_model
from qgraph.passes.error_analysis import graphwise_error_analyse, layerwise_error_analyse
from qgraph.passes.exporting import export_ppq_graph
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.passes import (
    ParameterQuantizePass,
    PassiveParameterQuantizePass,
    QuantAlignmentPass,
    QuantizeFusionPass,
    RuntimeCalibrationPass,
)
from qgraph.passes.platforms import TargetPlatform
from qgraph.passes.settings import QuantizationSetting, QuantizationSettingFactory
from qgraph.tqc import QuantizationState, TensorQuantizationConfig

__all__ = [
    "ParameterQuantizePass",
    "PassiveParameterQuantizePass",
    "QuantAlignmentPass",
    "QuantizationSetting",
    "QuantizationSettingFactory",
    "QuantizationState",
    "QuantizeFusionPass",
    "QuantizedGraph",
    "RuntimeCalibrationPass",
    "TargetPlatform",
    "TensorQuantizationConfig",
    "export_ppq_graph",
    "graphwise_error_analyse",
    "layerwise_error_analyse",
    "quantize_onnx_model",
    "quantize_torch_model",
    "register_calibration_observer",
]
