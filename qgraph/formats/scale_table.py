"""Scales by tensor, as the files of other tools hold them: between a run and every format that has no model in it.

A tensor's scale is the one that it is made with; slots that read it with another one (behind a requantize) are apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.errors import ExportError, ModelError
from qgraph.ir.slots import makes_its_tensor
from qgraph.solve.run import RunData
from qgraph.tqc import Scheme, TqcRecord

NAMED = 4
"""Tensors that a line about several of them names."""


@dataclass(frozen=True, slots=True)
class TensorScale:
    """How a tensor is quantized, as far as a format says it. What it does not say is None.

    Attributes:
        bits: of the integers.
        scale: float32 values, one per channel, or one in all.
        offset: zero points, as many as scales; where `signed` is None those of unsigned integers.
        axis: the channel axis; None too where one scale serves the whole tensor.
    """

    bits: int
    scale: tuple[float, ...]
    offset: tuple[int, ...]
    signed: bool | None = None
    symmetric: bool | None = None
    quant_min: int | None = None
    quant_max: int | None = None
    axis: int | None = None
    power_of_two: bool = False

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps the range reaches below and above zero, for the first channel: ``(-128, 127)``."""
        lowest = -(1 << (self.bits - 1)) if self.signed else 0
        low = lowest if self.quant_min is None else self.quant_min
        high = lowest + (1 << self.bits) - 1 if self.quant_max is None else self.quant_max
        return low - self.offset[0], high - self.offset[0]

    @property
    def unsigned_offset(self) -> tuple[int, ...]:
        """The zero points that mean the same on unsigned integers of as many bits."""
        return tuple(one + (1 << (self.bits - 1)) for one in self.offset) if self.signed else self.offset


@dataclass(frozen=True, slots=True)
class ScaleTable:
    """Scales of one model.

    Attributes:
        tensors: by name, sorted.
        constants: those of `tensors` that are weights, biases and other constants.
        biases: those of `constants` whose scale is that of an input times that of a weight.
        readers: by tensor and slot (or the name of the op that reads it, where a format has only that), the other scale
            that it is read with.
        floats: tensors without a scale, each with the reason.
        origin: where the scales come from, in words by key: ``run``, ``target``, ``observer``.
        groups: by tensor, the id of the group that shares the scale.
    """

    tensors: Mapping[str, TensorScale]
    constants: frozenset[str] = frozenset()
    biases: frozenset[str] = frozenset()
    readers: Mapping[tuple[str, str], TensorScale] = field(default_factory=lambda: MappingProxyType({}))
    floats: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    origin: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Written:
    """A file's text, and a line for each thing that the format could not say."""

    text: str
    losses: tuple[str, ...] = ()


def table_of(run: RunData, origin: Mapping[str, str]) -> ScaleTable:
    """The scales of a run.

    Raises:
        ExportError: it has none.
    """
    on_tensor: dict[str, list[TqcRecord]] = defaultdict(list)
    for record in sorted(run.tqcs, key=lambda one: (not makes_its_tensor(one.slot), one.slot)):
        on_tensor[record.tensor].append(record)
    tensors: dict[str, TensorScale] = {}
    readers: dict[tuple[str, str], TensorScale] = {}
    floats: dict[str, str] = {}
    groups: dict[str, str] = {}
    for tensor, records in sorted(on_tensor.items()):
        known = [(record, scale) for record in records if (scale := _scale_of(record)) is not None]
        if not known:
            floats[tensor] = next((record.reason for record in records if record.reason), "no scale")
            continue
        tensors[tensor] = known[0][1]
        if known[0][0].group is not None:
            groups[tensor] = known[0][0].group
        readers |= {(tensor, record.slot): scale for record, scale in known if scale != tensors[tensor]}
    if not tensors:
        if run.settings.observer is None:
            raise ExportError("the run has no scales", run.settings.target, "solve it with an observer")
        raise ExportError(
            "nothing is quantized on this target", run.settings.target, "see qgraph scales for the reasons"
        )
    roles = {tensor: {record.role for record in on_tensor[tensor]} for tensor in tensors}
    return ScaleTable(
        tensors,
        frozenset(tensor for tensor, found in roles.items() if not found <= {"activation"}),
        frozenset(tensor for tensor, found in roles.items() if "bias" in found),
        dict(sorted(readers.items())),
        floats,
        origin,
        groups,
    )


def _scale_of(record: TqcRecord) -> TensorScale | None:
    scheme = record.scheme
    if scheme is None or record.scale is None or record.offset is None:
        return None
    return TensorScale(
        scheme.bits,
        record.scale,
        record.offset,
        scheme.signed,
        scheme.symmetric,
        scheme.quant_min,
        scheme.quant_max,
        scheme.axis,
        scheme.power_of_two,
    )


def resolved(
    stated: TensorScale, wanted: Scheme, tensor: str, channels: int | None = None
) -> tuple[Scheme, tuple[int, ...]]:
    """What a file means where a target wants a scheme: the scheme and the zero points.

    It is the target's own scheme wherever the file does not contradict it. The whole range of an integer type and
    the one that only lacks its lowest value are the same to most formats.

    Args:
        channels: that the tensor has along the axis of `wanted`, if known: as many scales are one for each, even if
            the file has no axis.

    Raises:
        ModelError: several scales, and nobody says of which axis; or zero points outside of their integers.

    >>> weight = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
    >>> print(*resolved(TensorScale(8, (0.5, 0.25), (128, 128)), weight, "w"))
    int8 [-127, 127] symmetric per channel (axis 0) (0, 0)
    """
    signed = wanted.signed if stated.signed is None else stated.signed
    lowest = -(1 << (stated.bits - 1)) if signed else 0
    highest = lowest + (1 << stated.bits) - 1
    offset = tuple(one + lowest for one in stated.offset) if stated.signed is None else stated.offset
    axis = stated.axis
    if axis is None and len(stated.scale) in {channels, max(2, len(stated.scale))}:
        axis = wanted.axis
    if axis is None and len(stated.scale) > 1:
        cure = "use a target that quantizes it per channel, or a format that has the axis"
        raise ModelError("several scales of one tensor, and no axis", tensor, cure)
    low = lowest if stated.quant_min is None else stated.quant_min
    high = highest if stated.quant_max is None else stated.quant_max
    if not lowest <= low < high <= highest:
        which = f"{tensor}: [{low}, {high}] of [{lowest}, {highest}]"
        raise ModelError("a range that does not fit its integers", which, "repair the file")
    if not all(low <= one <= high for one in offset):
        raise ModelError("a zero point outside of its integers", f"{tensor}: {offset[0]}", "repair the file")
    same = (wanted.signed, wanted.axis) == (signed, axis) and stated.symmetric in (None, wanted.symmetric)
    if stated.quant_min is None:
        same = same and wanted.bits == stated.bits
    else:
        same = same and high == wanted.quant_max and max(low, lowest + 1) == max(wanted.quant_min, lowest + 1)
    legal = all(
        one == wanted.symmetric_offset if wanted.symmetric else wanted.quant_min <= one <= wanted.quant_max
        for one in offset
    )
    if same and legal:
        return wanted, offset
    middle = 0 if signed else (low + high + 1) // 2
    symmetric = all(one == middle for one in offset) if stated.symmetric is None else stated.symmetric
    return Scheme(stated.bits, signed, symmetric, low, high, axis, stated.power_of_two), offset


def loss(what: str, tensors: Iterable[str]) -> list[str]:
    """A line about the tensors that a format cannot say in full, or none.

    >>> loss("zero points are dropped", ["b", "a"]), loss("zero points are dropped", [])
    (['zero points are dropped: 2 tensors (a, b)'], [])
    """
    names = sorted(set(tensors))
    if not names:
        return []
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return [f"{what}: {len(names)} tensor{'s' if len(names) > 1 else ''} ({shown})"]


def second_scales(table: ScaleTable, said: Iterable[tuple[str, str]] = ()) -> list[str]:
    """The loss of every format with one scale per tensor.

    Args:
        said: of `ScaleTable.readers`, those that the format says after all.
    """
    left = table.readers.keys() - set(said)
    return loss("read by some ops with another scale, which is not written", (tensor for tensor, _ in left))


def narrow_ranges(table: ScaleTable, tensors: Iterable[str]) -> list[str]:
    """Tensors that use less of their integers than a format with bits alone can say."""
    found = []
    for tensor in tensors:
        scale = table.tensors[tensor]
        lowest = -(1 << (scale.bits - 1)) if scale.signed else 0
        narrow = scale.quant_max is not None and scale.quant_max < lowest + (1 << scale.bits) - 1
        if narrow or (scale.quant_min is not None and scale.quant_min > lowest + 1):
            found.append(tensor)
    return loss("a part of the integers is used, all are written", found)
