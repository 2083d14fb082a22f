"""What differs between two runs, as data.

Plain Python: the query commands compute it from the database and must start at once. A tensor means the slot
of its producer; where no run quantizes that one, the first slot by name that reads the tensor and is quantized.
``diff(a, a)`` is empty, and ``diff(b, a)`` is ``diff(a, b)`` with both sides swapped and every damage negated. Of two
versions of a model the names are those of a: b's run is renamed first, see `qgraph.analysis.diff_match`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType

from qgraph.constraints.model import Group
from qgraph.ir import slots
from qgraph.solve.run import Parameter, RunData, RunSettings
from qgraph.tqc import TqcRecord

Setting = Parameter | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Change:
    """A setting or a state on both sides; None where a side does not have it."""

    a: Setting
    b: Setting


@dataclass(frozen=True, slots=True)
class ScaleAndOffset:
    """Parameters of a slot: numbers, or one per channel; None in a run of structure only."""

    scale: float | tuple[float, ...] | None
    offset: int | tuple[int, ...] | None


UNSOLVED = ScaleAndOffset(None, None)
"""Parameters that exist and are not known."""


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A tensor whose parameters differ.

    Attributes:
        a, b: None where the run does not quantize the tensor, or its model does not have it.
        ratio: scale in b over scale in a, per channel where both are; None where they cannot be compared.
        damage_db: noise in b minus noise in a, in dB: positive where b is worse. None where one is not known.
    """

    tensor: str
    a: ScaleAndOffset | None
    b: ScaleAndOffset | None
    ratio: float | tuple[float, ...] | None
    damage_db: float | None


@dataclass(frozen=True, slots=True)
class StateChange:
    """A tensor in another state; None where the run's model does not have it."""

    tensor: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Noises:
    """The predicted noise of a tensor in both runs, in dB, changed or not."""

    tensor: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Regrouping:
    """A group of one run whose slots lie in several groups of the other.

    Attributes:
        group: its id.
        tensors: its tensors.
        others: ids of the other run's groups, sorted.
    """

    group: str
    tensors: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupChanges:
    """`split`: groups of a, and what they became in b. `merged`: groups of b, and what they were in a. By id."""

    split: tuple[Regrouping, ...]
    merged: tuple[Regrouping, ...]


@dataclass(frozen=True, slots=True)
class RequantizeChange:
    """A requantize that only one run has (None on the other side), or that both have with different parameters."""

    tensor: str
    slot: str
    a: ScaleAndOffset | None
    b: ScaleAndOffset | None


@dataclass(frozen=True, slots=True)
class Renaming:
    """A tensor that has another name in each of two versions of a model."""

    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many slots are in each state, by run; both empty where they are equal."""

    a: Mapping[str, int]
    b: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs between run a and run b.

    Attributes:
        settings: by name; an observer's parameters as ``observer_parameters.NAME``.
        provenance: what else differs that the runs come from, by field: ``model.graph``, ``calibration.data``, …
        scales: largest damage first, unknown damage last, ties by tensor.
        states: by tensor.
        requantize: by slot.
        renamed: by name in a.
        added, removed: float tensors that only b, only a has; sorted.
    """

    settings: Mapping[str, Change]
    provenance: Mapping[str, Change]
    scales: tuple[ScaleChange, ...]
    groups: GroupChanges
    states: tuple[StateChange, ...]
    requantize: tuple[RequantizeChange, ...]
    coverage: Coverage
    renamed: tuple[Renaming, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the runs are the same, wherever they come from."""
        # A tensor that only one run has is in another state.
        parts = (self.settings, self.scales, self.groups.split, self.groups.merged, self.states, self.requantize)
        return not any((*parts, self.coverage.a, self.coverage.b, self.renamed))


def diff(
    a: RunData,
    b: RunData,
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
    provenance: Mapping[str, tuple[Setting, Setting]] = MappingProxyType({}),
) -> Diff:
    """Compare two runs, of one model or of two.

    Args:
        b: under the names of a.
        renamed: names of tensors in b by their names in a, where they differ.
        provenance: what differs of what the runs come from, by field.
    """
    records_a, records_b = ({record.slot: record for record in run.tqcs} for run in (a, b))
    pairs = {
        tensor: (records_a.get(slot), records_b.get(slot))
        for tensor, slot in _slot_of_tensor(records_a, records_b).items()
    }
    changes = [change for tensor, (x, y) in pairs.items() if (change := _scale_change(tensor, x, y)) is not None]
    in_a, in_b = ({record.tensor for record in run.tqcs} for run in (a, b))
    return Diff(
        settings=_settings(a.settings, b.settings),
        provenance={name: Change(*both) for name, both in sorted(provenance.items())},
        scales=tuple(sorted(changes, key=_by_damage)),
        groups=GroupChanges(
            split=_regrouped(a.grouping.groups, b.grouping.groups),
            merged=_regrouped(b.grouping.groups, a.grouping.groups),
        ),
        states=tuple(
            StateChange(tensor, x.state.value if x else None, y.state.value if y else None)
            for tensor, (x, y) in pairs.items()
            if x is None or y is None or x.state != y.state
        ),
        requantize=_requantizes(a, b, records_a, records_b),
        coverage=_coverage(a, b),
        renamed=tuple(Renaming(x, y) for x, y in sorted(renamed.items())),
        added=tuple(sorted(in_b - in_a)),
        removed=tuple(sorted(in_a - in_b)),
    )


def noises(a: RunData, b: RunData) -> tuple[Noises, ...]:
    """The noise of every tensor for which both runs know it, by tensor; b under the names of a."""
    records_a, records_b = ({record.slot: record for record in run.tqcs} for run in (a, b))
    found = []
    for tensor, slot in _slot_of_tensor(records_a, records_b).items():
        x, y = records_a.get(slot), records_b.get(slot)
        if x is not None and y is not None and x.noise_db is not None and y.noise_db is not None:
            found.append(Noises(tensor, x.noise_db, y.noise_db))
    return tuple(found)


def _coverage(a: RunData, b: RunData) -> Coverage:
    x, y = (dict(sorted(Counter(record.state.value for record in run.tqcs).items())) for run in (a, b))
    return Coverage({}, {}) if x == y else Coverage(x, y)


def _settings(a: RunSettings, b: RunSettings) -> dict[str, Change]:
    flat_a, flat_b = _flat(a), _flat(b)
    changes = {name: Change(flat_a.get(name), flat_b.get(name)) for name in sorted(flat_a.keys() | flat_b.keys())}
    return {name: change for name, change in changes.items() if change.a != change.b}


def _flat(settings: RunSettings) -> dict[str, Setting]:
    flat: dict[str, Setting] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Mapping):
            flat |= {f"{field.name}.{name}": item for name, item in value.items()}
        else:
            flat[field.name] = value
    return flat


def _slot_of_tensor(*runs: Mapping[str, TqcRecord]) -> dict[str, str]:
    """The slot that a tensor means, the same for both runs; tensors sorted by name."""
    best: dict[str, tuple[bool, bool, str]] = {}
    for slot in sorted({slot for records in runs for slot in records}):
        found = [records[slot] for records in runs if slot in records]
        is_float = all(record.scale is None for record in found)
        for record in found:
            rank = (is_float, not _is_producer(slot), slot)
            best[record.tensor] = min(rank, best.get(record.tensor, rank))
    return {tensor: best[tensor][-1] for tensor in sorted(best)}


def _is_producer(slot: str) -> bool:
    op, side, _ = slots.parts(slot)
    return side in ("out", "const") if op is not None else side in ("in", "const")


def _scale_change(tensor: str, a: TqcRecord | None, b: TqcRecord | None) -> ScaleChange | None:
    x, y = _parameters(a), _parameters(b)
    if x == y:
        return None
    damage = None
    if a is not None and b is not None and a.noise_db is not None and b.noise_db is not None:
        # Equal noises differ by nothing, also where both are infinite.
        damage = 0.0 if a.noise_db == b.noise_db else b.noise_db - a.noise_db
    return ScaleChange(tensor, x, y, _ratio(x, y), damage)


def _parameters(record: TqcRecord | None) -> ScaleAndOffset | None:
    if record is None or record.scale is None or record.offset is None:
        return None
    if record.scheme is not None and record.scheme.axis is not None:
        return ScaleAndOffset(record.scale, record.offset)
    return ScaleAndOffset(record.scale[0], record.offset[0])


def _ratio(a: ScaleAndOffset | None, b: ScaleAndOffset | None) -> float | tuple[float, ...] | None:
    x, y = (one.scale if one is not None else None for one in (a, b))
    if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
        return tuple(new / old for old, new in zip(x, y, strict=True))
    return y / x if isinstance(x, float) and isinstance(y, float) else None


def _by_damage(change: ScaleChange) -> tuple[bool, float, str]:
    return change.damage_db is None, -(change.damage_db or 0.0), change.tensor


def _regrouped(groups: Iterable[Group], others: Iterable[Group]) -> tuple[Regrouping, ...]:
    """The groups whose slots lie in more than one of the others; slots in none of them do not count."""
    other_of = {slot: group.id for group in others for slot in group.slots}
    found = []
    for group in groups:
        hits = sorted({other_of[slot] for slot in group.slots if slot in other_of})
        if len(hits) > 1:
            found.append(Regrouping(group.id, group.tensors, tuple(hits)))
    return tuple(sorted(found, key=lambda one: one.group))


def _requantizes(
    a: RunData, b: RunData, records_a: Mapping[str, TqcRecord], records_b: Mapping[str, TqcRecord]
) -> tuple[RequantizeChange, ...]:
    in_a, in_b = ({one.slot: one.tensor for one in run.grouping.requantizes} for run in (a, b))
    changes = []
    for slot in sorted(in_a.keys() | in_b.keys()):
        x = (_parameters(records_a.get(slot)) or UNSOLVED) if slot in in_a else None
        y = (_parameters(records_b.get(slot)) or UNSOLVED) if slot in in_b else None
        if x != y:
            tensor = in_a[slot] if slot in in_a else in_b[slot]
            changes.append(RequantizeChange(tensor, slot, x, y))
    return tuple(changes)


def as_json(found: Diff) -> dict[str, object]:
    """A diff as strict JSON has it: lists for tuples, null for a damage without limit."""
    answer = asdict(found)
    for change in answer["scales"]:
        if change["damage_db"] is not None and not math.isfinite(change["damage_db"]):
            change["damage_db"] = None
    strict: dict[str, object] = json.loads(json.dumps(answer, allow_nan=False))
    return strict
