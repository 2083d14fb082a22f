"""What solving finds for a group, and for the tensors in it."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph.solve.noise import Quantizer
from qgraph.tqc import QuantizationState, Scheme


@dataclass(frozen=True, slots=True)
class GroupParameters:
    """What the master of a group gets.

    Attributes:
        scale: float32, one or one per channel; None while unknown.
        offset: as many.
        reason: what is special about them.
    """

    state: QuantizationState
    scale: tuple[float, ...] | None = None
    offset: tuple[int, ...] | None = None
    reason: str | None = None

    def quantizer(self, scheme: Scheme) -> Quantizer | None:
        """The quantizer of a group with one scale for the whole tensor; None if it has none or several."""
        if self.scale is None or self.offset is None or len(self.scale) != 1:
            return None
        return Quantizer(self.scale[0], self.offset[0], scheme)


@dataclass(frozen=True, slots=True)
class TensorNoise:
    """Noise of one tensor in one group, and with the parameters that it would have alone, in dB."""

    shared: float | None = None
    own: float | None = None
