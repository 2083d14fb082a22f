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
        kind: ``same``, ``fixed``, ``derived``, ``fused``, ``scheme``, ``requantize`` or ``pair``.
        op: the op that the rule is about; the first one where a wrong scheme runs through the model.
        tensors: those that break the rule, with their parameters.
        expected: the scales that the rule asks for, where it asks for given ones.
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
        }


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
    """What a model was held against: a rule of the pack, or a part of its schemes. `kind` as of `Violation`."""

    name: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Report:
    """All violations of a target's rules in a model.

    Attributes:
        version: of the rule pack.
        rules: those of the pack, and every other one that a violation names; sorted by name.
    """

    target: str
    version: str
    rules: tuple[Rule, ...]
    violations: tuple[Violation, ...]
    summary: Summary
