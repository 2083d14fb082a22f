"""The rules of a pack by op type, and which of them apply to an op."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from qgraph.constraints.conditions import Condition
from qgraph.constraints.rule_pack import (
    FixedRule,
    FusionRule,
    NoValueRule,
    QuantizableRule,
    RatioRule,
    RulePack,
    SameRule,
    WeightedRule,
)
from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op, Tensor


class _HasOps(Protocol):
    @property
    def ops(self) -> tuple[str, ...]: ...


RuleT = TypeVar("RuleT", bound=_HasOps)


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The rules of a pack, looked up by op type. `fusions` are by the type of the consumer."""

    quantizable: Mapping[str, tuple[QuantizableRule, ...]]
    same: Mapping[str, tuple[SameRule, ...]]
    fixed: Mapping[str, tuple[FixedRule, ...]]
    weighted: Mapping[str, tuple[WeightedRule, ...]]
    no_values: Mapping[str, tuple[NoValueRule, ...]]
    fusions: Mapping[str, tuple[FusionRule, ...]]
    ratios: Mapping[str, tuple[RatioRule, ...]]

    def same_rules(self, op: Op, tensors: Mapping[str, Tensor]) -> list[SameRule]:
        """The `same` rules among the op's own slots whose conditions it meets."""
        return [rule for rule in self._same_rules(op, tensors) if rule.across is None]

    def rules_across(self, op: Op, tensors: Mapping[str, Tensor]) -> list[SameRule]:
        """The `same` rules that tie the op's slots to those of other ops, as far as it has their attribute."""
        return [rule for rule in self._same_rules(op, tensors) if rule.across in op.attributes]

    def _same_rules(self, op: Op, tensors: Mapping[str, Tensor]) -> Iterator[SameRule]:
        return (rule for rule in self.same.get(op.type, ()) if _all_hold(rule.when, op, tensors))

    def fixed_rules(self, op: Op, tensors: Mapping[str, Tensor]) -> list[FixedRule]:
        """The `fixed` rules whose conditions the op meets."""
        return [rule for rule in self.fixed.get(op.type, ()) if _all_hold(rule.when, op, tensors)]

    def ratio_rules(self, op: Op, tensors: Mapping[str, Tensor]) -> list[RatioRule]:
        """The `ratio` rules whose conditions the op meets."""
        return [rule for rule in self.ratios.get(op.type, ()) if _all_hold(rule.when, op, tensors)]

    def weighted_rule(self, op: Op, tensors: Mapping[str, Tensor]) -> WeightedRule | None:
        """The first weight rule whose conditions the op meets."""
        return next((rule for rule in self.weighted.get(op.type, ()) if _all_hold(rule.when, op, tensors)), None)

    def fusion_rule(
        self, producer: Op, consumer: Op, tensors: Mapping[str, Tensor], *, gated: bool = False
    ) -> FusionRule | None:
        """The first fusion rule that makes the two ops one; `gated`: where the producer makes the x of x · f(x)."""
        for rule in self.fusions.get(consumer.type, ()):
            if bool(rule.beside) != gated or (rule.producers is not None and producer.type not in rule.producers):
                continue
            if _all_hold(rule.producer_when, producer, tensors) and _all_hold(rule.when, consumer, tensors):
                return rule
        return None

    def no_value_reason(self, op: Op, position: int, tensors: Mapping[str, Tensor]) -> str | None:
        """Why an input is no value, or None if it is one."""
        for rule in self.no_values.get(op.type, ()):
            if rule.inputs is not None and position not in rule.inputs:
                continue
            name = op.inputs[position]
            if not rule.constants_only or (name is not None and tensors[name].constant):
                return rule.reason
        return None

    def value_inputs(self, op: Op, wiring: Wiring) -> list[int]:
        """Indices of the inputs that are values: float tensors that no rule says are mere parameters."""
        floats = [position for position, name in enumerate(op.inputs) if name in wiring.floats]
        if op.type not in self.no_values:
            return floats
        return [position for position in floats if self.no_value_reason(op, position, wiring.tensors) is None]


def index_rules(pack: RulePack) -> RuleIndex:
    """Sort a pack's rules by op type, keeping their order within each."""
    fusions: dict[str, list[FusionRule]] = {}
    for rule in pack.fusions:
        for consumer in rule.consumers:
            fusions.setdefault(consumer, []).append(rule)
    return RuleIndex(
        _by_op(pack.quantizable),
        _by_op(pack.same),
        _by_op(pack.fixed),
        _by_op(pack.weighted),
        _by_op(pack.no_values),
        {consumer: tuple(rules) for consumer, rules in fusions.items()},
        _by_op(pack.ratios),
    )


def _by_op(rules: Iterable[RuleT]) -> dict[str, tuple[RuleT, ...]]:
    table: dict[str, list[RuleT]] = {}
    for rule in rules:
        for op in rule.ops:
            table.setdefault(op, []).append(rule)
    return {op: tuple(entries) for op, entries in table.items()}


def _all_hold(conditions: tuple[Condition, ...], op: Op, tensors: Mapping[str, Tensor]) -> bool:
    return not conditions or all(condition.holds(op, tensors) for condition in conditions)
