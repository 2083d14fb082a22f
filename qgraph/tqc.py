"""The tensor quantization config: scheme, state, scale and offset of one slot, and who its master is.

``Quant(y) = clip(round_half_even(y / scale) + offset, quant_min, quant_max)`` with a float32 scale;
``Dequant(q) = (q - offset) * scale``. The offset is the zero point.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import SupportsFloat

from qgraph.errors import TransitionError, UsageError
from qgraph.objects import record

FLOAT32_TINY = 2.0**-126
"""The smallest normal float32. No scale is smaller: runtimes that flush denormals would divide by zero."""

FLOAT32_LARGEST = (2.0 - 2.0**-23) * 2.0**127


class QuantizationState(StrEnum):
    """What is known about the scale of a slot."""

    FP32 = "FP32"  # not quantized
    INITIAL = "INITIAL"  # waits for calibration
    ACTIVATED = "ACTIVATED"  # has its own scale
    SLAVE = "SLAVE"  # reads its master's
    FIXED = "FIXED"  # the target prescribes it
    PASSIVE = "PASSIVE"  # derived from others, as a bias from input and weight
    NEVER_RUN = "NEVER_RUN"  # calibration never produced this tensor
    EMPTY = "EMPTY"  # produced, but never with an element
    ALL_ZERO = "ALL_ZERO"
    CONSTANT = "CONSTANT"  # one value only
    DENORMAL = "DENORMAL"  # nothing but zeros and denormals
    NONFINITE = "NONFINITE"  # has NaN or Inf; the scale is that of its finite values


DEGENERATE = (
    QuantizationState.NEVER_RUN,
    QuantizationState.EMPTY,
    QuantizationState.ALL_ZERO,
    QuantizationState.CONSTANT,
    QuantizationState.DENORMAL,
    QuantizationState.NONFINITE,
)

_S = QuantizationState

TRANSITIONS: Mapping[QuantizationState, tuple[QuantizationState, ...]] = MappingProxyType(
    {
        _S.FP32: (_S.INITIAL,),
        _S.INITIAL: (_S.FP32, _S.ACTIVATED, _S.SLAVE, _S.FIXED, _S.PASSIVE, *DEGENERATE),
        _S.ACTIVATED: (_S.FP32, _S.INITIAL, _S.SLAVE),
        _S.SLAVE: (_S.FP32, _S.INITIAL, _S.SLAVE),
        _S.FIXED: (_S.FP32, _S.SLAVE),
        _S.PASSIVE: (_S.FP32, _S.INITIAL),
        **dict.fromkeys(DEGENERATE, (_S.FP32, _S.INITIAL, _S.SLAVE)),
    }
)
"""For each state the states that may follow it. Anything else raises."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a slot is quantized, apart from its scale and offset. Two slots can share only if theirs are equal.

    Attributes:
        axis: the channel axis, or None where one scale serves the whole tensor.
        power_of_two: the scale is rounded up to a power of two.
    """

    bits: int
    signed: bool
    symmetric: bool
    quant_min: int
    quant_max: int
    axis: int | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        low = -(1 << (self.bits - 1)) if self.signed else 0
        high = low + (1 << self.bits) - 1
        if not low <= self.quant_min < self.quant_max <= high:
            raise UsageError(
                "quantized range does not fit its integer type",
                f"[{self.quant_min}, {self.quant_max}] in {self.dtype}",
                f"stay inside [{low}, {high}]",
            )

    @property
    def dtype(self) -> str:
        """The narrowest integer type that holds the bits: int8, uint8, int16, uint16 or int32, uint32."""
        width = next(w for w in (8, 16, 32) if w >= self.bits)
        return f"{'' if self.signed else 'u'}int{width}"

    @property
    def symmetric_offset(self) -> int:
        """The offset of a symmetric scheme: 0 if signed, the middle of the range if unsigned."""
        return 0 if self.signed else (self.quant_min + self.quant_max + 1) // 2

    @property
    def half_range(self) -> int:
        """Steps from the symmetric offset to the nearer end of the range."""
        return min(self.symmetric_offset - self.quant_min, self.quant_max - self.symmetric_offset)

    def __str__(self) -> str:
        granularity = "per tensor" if self.axis is None else f"per channel (axis {self.axis})"
        symmetry = "symmetric" if self.symmetric else "asymmetric"
        power = ", power of two" if self.power_of_two else ""
        return (
            f"{'int' if self.signed else 'uint'}{self.bits} [{self.quant_min}, {self.quant_max}] "
            f"{symmetry} {granularity}{power}"
        )


def to_float32(value: float) -> float:
    """Round a Python float to the nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def scale_and_offset(minimum: float, maximum: float, scheme: Scheme) -> tuple[float, int]:
    """Turn a range into scale and offset; zero is always representable exactly.

    The offset is computed after the scale is final (power of two and float32 rounding included) and
    accounts for ``quant_min``. Symmetric schemes use the larger magnitude over `Scheme.half_range`.

    Args:
        minimum: smallest value to represent; clamped to at most 0.
        maximum: largest value to represent; clamped to at least 0.

    Raises:
        UsageError: the range is not finite or is reversed.

    >>> int8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    >>> scale_and_offset(-1.0, 1.0, int8)
    (0.007843137718737125, -1)
    >>> scale_and_offset(0.0, 6.0, int8)
    (0.0235294122248888, -128)
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum)) or minimum > maximum:
        raise UsageError("not a finite range", f"[{minimum}, {maximum}]", "pass finite numbers, smallest first")
    low, high = min(minimum, 0.0), max(maximum, 0.0)
    if scheme.symmetric:
        scale = max(-low, high) / scheme.half_range
    else:
        scale = (high - low) / (scheme.quant_max - scheme.quant_min)
    scale = finish_scale(scale, power_of_two=scheme.power_of_two)
    return scale, offset_for(low, scale, scheme)


def finish_scale(scale: float, *, power_of_two: bool) -> float:
    """Make a non-negative number a legal scale: a normal float32, rounded up if it must be a power of two."""
    scale = max(scale, FLOAT32_TINY)
    if power_of_two:
        mantissa, exponent = math.frexp(scale)
        return math.ldexp(1.0, min(exponent - (mantissa == 0.5), 127))
    return to_float32(scale)


def offset_for(minimum: float, scale: float, scheme: Scheme) -> int:
    """The offset that puts `minimum` (at most 0) on ``quant_min``, rounded half to even, inside the range."""
    if scheme.symmetric:
        return scheme.symmetric_offset
    return max(scheme.quant_min, min(scheme.quant_max, round(scheme.quant_min - minimum / scale)))


@record(frozen=True, slots=True)
class TqcRecord:
    """The solved config of one slot, as a run keeps it. Plain data, no links.

    Attributes:
        slot: the place in the graph, see `qgraph.ir.slots`.
        tensor: the tensor that flows through it.
        role: ``activation``, ``constant``, ``weight`` or ``bias``.
        scheme: None where the state is FP32.
        scale: one float32 per channel (one in all where per tensor); None while unknown.
        offset: as many integers as there are scales.
        master: the slot that owns scale and offset where the state is SLAVE.
        group: id of the group whose members share scale and offset; None where not quantized.
        reason: why the slot is not quantized, or what is special about its parameters.
        noise_db: noise power over signal power with these parameters, in dB; None where not known.
        own_noise_db: the same with the parameters that the slot would have alone.
    """

    slot: str
    tensor: str
    role: str
    state: QuantizationState
    scheme: Scheme | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[int, ...] | None = None
    master: str | None = None
    group: str | None = None
    reason: str | None = None
    noise_db: float | None = None
    own_noise_db: float | None = None

    @property
    def price_db(self) -> float | None:
        """What sharing costs this slot: its noise in the group minus its noise alone, in dB."""
        if self.noise_db is None or self.own_noise_db is None:
            return None
        return self.noise_db - self.own_noise_db


class TensorQuantizationConfig:
    """The live config of one slot: reads of scale and offset go to the master, through any chain.

    ``a.set_master(master=b)`` makes `a` the SLAVE of `b`.
    """

    def __init__(self, name: str, scheme: Scheme, state: QuantizationState = QuantizationState.INITIAL) -> None:
        self.name = name
        self.scheme = scheme
        self._state = state
        self._scale: tuple[float, ...] | None = None
        self._offset: tuple[int, ...] | None = None
        self._master: TensorQuantizationConfig | None = None

    def __repr__(self) -> str:
        scale, offset = self.scale or (), self.offset or ()
        told = f", scale {scale[0]:g}, offset {offset[0]}" if len(scale) == len(offset) == 1 else ""
        master = f" of {self._master.name}" if self._master is not None else ""
        return f"<{type(self).__name__} {self.name}: {self._state}{master}, {self.scheme}{told}>"

    @property
    def state(self) -> QuantizationState:
        """The current state; assign to it to move along `TRANSITIONS`."""
        return self._state

    @state.setter
    def state(self, new: QuantizationState) -> None:
        if new == QuantizationState.SLAVE:
            raise TransitionError("a slave needs a master", self.name, "call set_master(master=...)")
        self._move(new)
        self._master = None
        if new in (QuantizationState.INITIAL, QuantizationState.FP32):
            self._scale = self._offset = None

    def _move(self, new: QuantizationState) -> None:
        if new not in TRANSITIONS[self._state]:
            legal = ", ".join(TRANSITIONS[self._state])
            raise TransitionError(
                "illegal transition of a quantization config",
                f"{self.name}: {self._state} to {new}",
                f"from {self._state} go to {legal}",
            )
        self._state = new

    @property
    def root(self) -> TensorQuantizationConfig:
        """The config at the end of the chain of masters; itself if it is no slave."""
        config = self
        while config._master is not None:
            config = config._master
        return config

    def _reads(self, other: TensorQuantizationConfig) -> bool:
        """Whether another config is on the way to the root; itself, too."""
        config: TensorQuantizationConfig | None = self
        while config is not None and config is not other:
            config = config._master
        return config is other

    @property
    def master(self) -> TensorQuantizationConfig | None:
        """The config it was made the slave of, or None; assigning one is `set_master`, assigning None lets go."""
        return self._master

    @master.setter
    def master(self, master: TensorQuantizationConfig | None) -> None:
        if master is not None:
            self.set_master(master=master)
        elif self._master is not None:
            self.state = QuantizationState.INITIAL

    @property
    def scale(self) -> tuple[float, ...] | None:
        """The root's scale: one float32, or one per channel; None while unknown.

        One number, or as many as there are channels, may be assigned to a config that has parameters of its own; its
        state stays what it is.
        """
        return self.root._scale

    @scale.setter
    def scale(self, scale: SupportsFloat | Iterable[SupportsFloat]) -> None:
        self._scale = tuple(self._usable_scale(float(one)) for one in self._channels(scale, "scale"))

    @property
    def offset(self) -> tuple[int, ...] | None:
        """The root's offset (zero point), as many as scales; to be assigned like `scale`."""
        return self.root._offset

    @offset.setter
    def offset(self, offset: SupportsFloat | Iterable[SupportsFloat]) -> None:
        self._offset = tuple(self._usable_offset(float(one)) for one in self._channels(offset, "offset"))

    def _channels(self, given: SupportsFloat | Iterable[SupportsFloat], what: str) -> tuple[SupportsFloat, ...]:
        """What was assigned, one per channel; refused where the config has no parameters that a user may write."""
        if self._master is not None:
            raise TransitionError("a slave has no scale of its own", self.name, f"write to its master {self.root.name}")
        if self._state in (QuantizationState.FP32, QuantizationState.FIXED, QuantizationState.PASSIVE):
            raise TransitionError(f"{_UNWRITABLE[self._state]}, so its {what} cannot be written", self.name, _RELEASE)
        channels = (given,) if isinstance(given, SupportsFloat) and not _is_array(given) else tuple(_iterated(given))
        if not channels or (self.scheme.axis is None and len(channels) != 1):
            cure = "assign one number" if self.scheme.axis is None else "assign one number per channel"
            raise TransitionError(f"{len(channels)} numbers for the {what}", f"{self.name} ({self.scheme})", cure)
        return channels

    def _usable_scale(self, scale: float) -> float:
        if not FLOAT32_TINY <= scale <= FLOAT32_LARGEST:
            raise TransitionError("a scale that float32 cannot have", f"{self.name}: {scale}", "assign a positive one")
        if self.scheme.power_of_two and math.frexp(scale)[0] != 0.5:
            raise TransitionError("a scale that is no power of two", f"{self.name}: {scale}", "assign a power of two")
        return to_float32(scale)

    def _usable_offset(self, offset: float) -> int:
        scheme = self.scheme
        low, high = (scheme.symmetric_offset,) * 2 if scheme.symmetric else (scheme.quant_min, scheme.quant_max)
        if offset != round(offset) or not low <= offset <= high:
            cure = f"assign {low}" if low == high else f"assign a whole number in [{low}, {high}]"
            raise TransitionError("an offset that the scheme cannot have", f"{self.name}: {offset}", cure)
        return int(offset)

    def activate(
        self,
        scale: tuple[float, ...],
        offset: tuple[int, ...],
        state: QuantizationState = QuantizationState.ACTIVATED,
    ) -> None:
        """Write scale and offset and move to `state`.

        Raises:
            TransitionError: this is a slave, or the state cannot follow the current one.
        """
        if self._master is not None:
            raise TransitionError("a slave has no scale of its own", self.name, f"write to its master {self.root.name}")
        self._move(state)
        self._scale, self._offset = scale, offset

    def set_master(self, *, master: TensorQuantizationConfig) -> None:
        """Become the slave of `master` and read its scale and offset from now on.

        Raises:
            TransitionError: it would close a cycle, the schemes differ, or the state does not allow it.
        """
        if master._reads(self):
            raise TransitionError("a cycle of masters", f"{self.name} and {master.name}", "choose one as the master")
        if master.scheme != self.scheme:
            raise TransitionError(
                "configs that cannot share",
                f"{self.name} ({self.scheme}) and {master.name} ({master.scheme})",
                "give both the same bits, sign, symmetry and granularity",
            )
        self._move(QuantizationState.SLAVE)
        self._master = master


def copy_configs(configs: Mapping[str, TensorQuantizationConfig]) -> dict[str, TensorQuantizationConfig]:
    """Copy configs with all that they are linked to: no link of a copy leads to an original.

    A master that is not among them is copied, too, and is reached through its slaves only.
    """
    copies: dict[int, TensorQuantizationConfig] = {}
    waiting = list(configs.values())
    while waiting:
        config = waiting.pop()
        if id(config) in copies:
            continue
        copy = copies[id(config)] = TensorQuantizationConfig(config.name, config.scheme, config._state)
        copy._scale, copy._offset, copy._master = config._scale, config._offset, config._master
        if config._master is not None:
            waiting.append(config._master)
    for copy in copies.values():
        copy._master = None if copy._master is None else copies[id(copy._master)]
    return {name: copies[id(config)] for name, config in configs.items()}


_UNWRITABLE = {
    QuantizationState.FP32: "not quantized",
    QuantizationState.FIXED: "prescribed by the target",
    QuantizationState.PASSIVE: "derived from other configs",
}

_RELEASE = "move it to INITIAL first, by way of FP32 where the table asks for it"


def _is_array(value: object) -> bool:
    """Whether something that may be a number is an array with axes, as numpy's and torch's are."""
    return bool(getattr(value, "ndim", 0))


def _iterated(given: object) -> Iterable[SupportsFloat]:
    if not isinstance(given, Iterable):
        raise TransitionError("neither a number nor several", repr(given)[:60], "assign numbers")
    return given
