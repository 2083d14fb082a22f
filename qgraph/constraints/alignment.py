"""Apply the alignment options: to a rule pack, where they tie and untie, and to a model, where they silence.

What a method ties is one more `same` rule of strength `preferred`, whose source is the option. So everything that
holds for rules (families, requantizes, reasons) holds for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qgraph.constraints.merge_methods import FAMILIES, MergeMethod, MergeMethods, in_words, short
from qgraph.constraints.model import Strength
from qgraph.constraints.rule_pack import RulePack, SameRule
from qgraph.constraints.target import Target
from qgraph.errors import UsageError
from qgraph.ir.elements import Op

REMOVING = (MergeMethod.NONE, MergeMethod.FORCE_NONE)
"""The methods that untie."""

KEPT = (Strength.EXACT, Strength.REQUIRED)
"""Strengths that the method None leaves alone: an exact tie costs nothing, a required one is refused."""


def apply_methods(pack: RulePack, methods: MergeMethods) -> RulePack:
    """The pack with the ties that the methods make, and without those that they remove.

    Args:
        methods: an option without one has the pack's own; where that has none either, the rules stand as they are.
    """
    same = list(pack.same)
    methods = methods.over(pack.merge_methods)
    for option, method in methods.items():
        if method in REMOVING:
            kept = KEPT if method == MergeMethod.NONE else (Strength.EXACT,)
            same = [left for rule in same if (left := _without(rule, FAMILIES[option].ops, kept)) is not None]
        elif method is not None:
            same.append(_rule(option, method))
    return replace(pack, same=tuple(same), merge_methods=methods)


def _without(rule: SameRule, ops: tuple[str, ...], kept: tuple[Strength, ...]) -> SameRule | None:
    """The rule for other ops than these; None where none is left."""
    left = tuple(op for op in rule.ops if op not in ops)
    if rule.strength in kept or left == rule.ops:
        return rule
    return replace(rule, ops=left) if left else None


def _rule(option: str, method: MergeMethod) -> SameRule:
    family = FAMILIES[option]
    ties_output = family.output_follows or method == MergeMethod.OUTPUT
    return SameRule(
        name=option,
        ops=family.ops,
        inputs=family.inputs,
        outputs=(0,) if ties_output else (),
        strength=Strength.PREFERRED,
        source=f"the option {option} is {method}",
        optional=True,
    )


def refuse_broken_rules(ops: Iterable[Op], target: Target) -> None:
    """Refuse a method None where the target requires what it would untie.

    Args:
        ops: the quantized ops.

    Raises:
        UsageError: names the rule, its source, and the first op that it applies to.
    """
    refused = {
        op_type: option
        for option, method in target.pack.merge_methods.items()
        if method == MergeMethod.NONE
        for op_type in FAMILIES[option].ops
    }
    for op in sorted((op for op in ops if op.type in refused), key=lambda op: op.name):
        for rule in target.same_rules(op):
            if rule.strength == Strength.REQUIRED:
                raise UsageError(
                    f"{in_words(refused[op.type])} cannot be none, {target.pack.name} requires the rule {rule.name}",
                    f"{op.name} ({op.type}): {rule.source}",
                    "choose another method, or insist with force-none",
                )


def removing_methods(methods: MergeMethods) -> dict[str, str]:
    """By op type, the option that unties it, in words.

    >>> removing_methods(MergeMethods(concat_merge_method=MergeMethod.NONE))
    {'Concat': 'the concat merge none'}
    """
    return {
        op_type: f"{in_words(option)} {short(method)}"
        for option, method in methods.items()
        if method is not None and method in REMOVING
        for op_type in FAMILIES[option].ops
    }


def silencing_methods(target: Target) -> dict[str, list[MergeMethod]]:
    """By op type, the methods that say whose statistics count; Joint and None let all of them count."""
    found: dict[str, list[MergeMethod]] = {}
    for option, method in target.pack.merge_methods.items():
        if method in (MergeMethod.INPUT, MergeMethod.OUTPUT, MergeMethod.LARGE):
            for op_type in FAMILIES[option].ops:
                found.setdefault(op_type, []).append(method)
    return found
