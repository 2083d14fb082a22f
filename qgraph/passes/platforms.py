"""The platforms: every target that a rule pack comes with, under its own name and under that of the seed system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class TargetPlatform(StrEnum):
    """A target; its value is the name of its rule pack."""

    PPL_CUDA_INT8 = "ppl_cuda"
    TRT_INT8 = "tensorrt"
    OPENVINO_INT8 = "openvino"
    OPENVINO_NPU_INT8 = "openvino_npu"
    ONNXRUNTIME = "onnxruntime"
    QNN_DSP_INT8 = "qnn"
    ESPDL_INT8 = "espdl"
    TFLITE_INT8 = "tflite"
    XNNPACK_INT8 = "xnnpack"
    ARTPEC9_INT8 = "artpec9"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a platform takes where the settings leave the choice to it: an observer, and a method for weights."""

    observer: str
    weights: str


OWN = Choices("mse", "mse")
"""The choices of a target that the seed system does not have: those of the command line."""

CHOICES: Mapping[str, Choices] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                TargetPlatform.PPL_CUDA_INT8,
                TargetPlatform.TRT_INT8,
                TargetPlatform.OPENVINO_INT8,
                TargetPlatform.ONNXRUNTIME,
                TargetPlatform.QNN_DSP_INT8,
            ),
            Choices("percentile", "minmax"),
        ),
        TargetPlatform.ESPDL_INT8: Choices("kl", "minmax"),
    }
)
"""By name of the pack: what the seed system's quantizers (PPQ 0.6.6, and esp-ppq 1.3.5 for espdl) choose."""


def choices_of(pack: str) -> Choices:
    """What a platform takes where the settings leave the choice to it.

    >>> choices_of(TargetPlatform.PPL_CUDA_INT8).observer, choices_of("tflite").observer
    ('percentile', 'mse')
    """
    return CHOICES.get(pack, OWN)
