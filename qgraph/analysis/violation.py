"""What a check finds, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.analysis.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a model breaks a rule of the target.

    Attributes:
        rule: the name of the rule in the pack, or what part of the scheme it is (``weight_range``).
        kind: ``same``, ``fixed``, ``derived``, ``fused``, ``ratio``, ``scheme``, ``requantize`` or ``pair``.
        op: the op that the rule is about; the first one where a wrong scheme runs through the model.
        tensors: those that break the rule, with their parameters.
        expected: the scales that the rule asks for, where it asks for given ones.
        alternatives: where statistics tell what they cost, the single changes that repair it, cheapest first.
    """

    rule: str
    kind: str
    op: str
    op_type: str
    source: str
    tensors: tuple[Parameters, ...]
    message: str
    repair: str
    expected: tuple[float, ...] | None = None
    alternatives: tuple[Change, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other violations, whatever is said about its repair."""
        return self.rule, self.kind, self.op, self.tensors, self.message

    @property
    def ratio(self) -> float | None:
        """The second tensor's scale over the first's, where the two must be equal per tensor."""
        if self.kind not in ("same", "requantize", "pair") or len(self.tensors) != 2:
            return None
        a, b = self.tensors
        return b.scale[0] / a.scale[0] if len(a.scale) == len(b.scale) == 1 and a.scale[0] else None

    def as_json(self) -> Mapping[str, object]:
        """As the command's JSON has it; a scale is a number, or a list where per channel."""
        return {
            "rule": self.rule,
            "kind": self.kind,
            "op": self.op,
            "op_type": self.op_type,
            "source": self.source,
            "message": self.message,
            "tensors": [
                {"name": t.name, "dtype": t.dtype, "scale": _one_or_all(t.scale), "offset": _one_or_all(t.offset)}
                for t in self.tensors
            ],
            "ratio": self.ratio,
            "repair": self.repair,
            "alternatives": [change.as_json() for change in self.alternatives],
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a file.

    Attributes:
        kind: ``parameters`` (the tensor is made otherwise), ``requantize`` (one op reads it otherwise), ``bias``.
        op: of a requantize, the op that it stands in front of; None where it is a graph output.
        was: the parameters at that place before the change; of a requantize those that the tensor is made with.
        price_db: by how much the noise of the tensor grows; None where no statistics tell.
    """

    kind: str
    tensor: str
    op: str | None
    was: Parameters
    to: Parameters
    price_db: float | None = None

    @property
    def text(self) -> str:
        """The change in words."""
        price = "" if self.price_db is None else f" ({self.price_db:+.2f} dB)"
        if self.kind == "bias":
            return f"store {self.tensor} as {self.to.dtype} with {self.to.values}"
        if self.kind == "requantize":
            place = f"in front of {self.op}" if self.op else "for the graph output"
            return f"requantize {self.tensor} {place} to {self.to.values}{price}"
        return f"quantize {self.tensor} with {self.to.values}{price}"

    def as_json(self) -> Mapping[str, object]:
        """As the command's JSON has it."""
        return {
            "kind": self.kind,
            "tensor": self.tensor,
            "op": self.op,
            "scale": _one_or_all(self.to.scale),
            "offset": _one_or_all(self.to.offset),
            "price_db": self.price_db,
        }


@dataclass(frozen=True, slots=True)
class Repair:
    """Violations that hang together, and the fewest changes that repair all of them."""

    violations: tuple[Violation, ...]
    changes: tuple[Change, ...]

    @property
    def text(self) -> str:
        """All changes in words."""
        what = "; ".join(change.text for change in self.changes)
        if len(self.violations) == 1:
            return what
        count = len(self.changes)
        verb = "change repairs" if count == 1 else "changes repair"
        return f"{count} {verb} these {len(self.violations)} violations: {what}"


def _one_or_all(values: tuple[float, ...] | tuple[int, ...]) -> object:
    return values[0] if len(values) == 1 else list(values)


@dataclass(frozen=True, slots=True)
class Summary:
    """What was looked at.

    Attributes:
        quantized: number of tensors that are quantized somewhere.
        left_float: tensors that the target would quantize, but the file does not.
        not_wanted: tensors that the file quantizes, but the target would not.
        unread: nodes whose scales are computed at run time or given per block; they were not checked.
    """

    ops: int
    quantized: int
    left_float: tuple[str, ...]
    not_wanted: tuple[str, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model was held against: a rule of the pack, or a part of its schemes.

    Attributes:
        kind: as of `Violation`.
        preferred: the target would rather have it so, and takes a model that is not.
    """

    name: str
    kind: str
    source: str
    preferred: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All violations of a target's rules in a model.

    Attributes:
        version: of the rule pack.
        rules: those of the pack, and every other one that a violation names; sorted by name.
        repairs: of the violations that other parameters repair, the fewest changes.
        notes: rules that the target only prefers and the model breaks; they are no violations.
    """

    target: str
    version: str
    rules: tuple[Rule, ...]
    violations: tuple[Violation, ...]
    summary: Summary
    repairs: tuple[Repair, ...] = ()
    notes: tuple[Violation, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The report as a dict for JSON; a repair has the places of its violations in their list."""
        place = {violation.key: index for index, violation in enumerate(self.violations)}
        return {
            "target": self.target,
            "target_version": self.version,
            "violations": [violation.as_json() for violation in self.violations],
            "repairs": [
                {
                    "violations": sorted(place[violation.key] for violation in repair.violations),
                    "changes": [change.as_json() for change in repair.changes],
                    "text": repair.text,
                }
                for repair in self.repairs
            ],
            "notes": [note.as_json() for note in self.notes],
            "summary": {
                "ops": self.summary.ops,
                "quantized_tensors": self.summary.quantized,
                "left_float": list(self.summary.left_float),
                "not_wanted": list(self.summary.not_wanted),
                "unread": list(self.summary.unread),
            },
        }
