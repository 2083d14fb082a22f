"""What solving finds for a group, and for the tensors in it."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph.solve.noise import Quantizer, Quantizers
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

    def quantizers(self, scheme: Scheme) -> Quantizers | None:
        """The quantizer of each channel, or the one of the whole tensor; None while unknown."""
        if not self.scale or self.offset is None:
            return None
        return tuple(Quantizer(scale, offset, scheme) for scale, offset in zip(self.scale, self.offset, strict=True))


@dataclass(frozen=True, slots=True)
class TensorNoise:
    """Noise of one tensor in one group, and with the parameters that it would have alone, in dB."""

    shared: float | None = None
    own: float | None = None
