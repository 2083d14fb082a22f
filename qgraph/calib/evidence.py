"""What is known of a model's own numbers once they have been looked at: weight scales and bias magnitudes.

Plain data without third-party imports, so that it can be stored and solved from without the model file.
"""

from __future__ import annotations

from dataclasses import dataclass

from qgraph.tqc import Scheme

METHODS = ("minmax", "mse")
"""How the scale of a weight can be chosen."""


@dataclass(frozen=True, slots=True)
class WeightSolution:
    """The scales of one weight for one scheme by one method.

    Attributes:
        method: one of `METHODS`.
        scale: one float32 per channel along ``scheme.axis``, or one in all.
        noise_db: noise power over signal power of the whole tensor, in dB.
    """

    tensor: str
    scheme: Scheme
    method: str
    scale: tuple[float, ...]
    noise_db: float


@dataclass(frozen=True, slots=True)
class BiasMagnitude:
    """Largest |bias| of each channel, float32: what the int32 range of a quantized bias has to hold."""

    tensor: str
    magnitude: tuple[float, ...]
