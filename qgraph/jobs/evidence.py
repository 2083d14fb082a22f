"""A model's own numbers, looked at once for all shipped targets: weight scales, bias magnitudes, constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.calib.weights import bias_magnitude, solve_weight
from qgraph.constraints.model import SlotPlan


@dataclass(frozen=True)
class Evidence:
    """What solving needs to know of a model's constants, so that it never needs the model file."""

    weights: tuple[WeightSolution, ...]
    biases: tuple[BiasMagnitude, ...]
    constants: dict[str, TensorStatistics]


def gather_evidence(plans: Iterable[SlotPlan], constant: Callable[[str], Any]) -> Evidence:
    """Look at every constant that some slot quantizes.

    Args:
        plans: the slots of all targets.
        constant: reads a constant by name as a numpy array.
    """
    quantized = {plan for plan in plans if plan.scheme is not None}
    weights = {(plan.tensor, plan.scheme) for plan in quantized if plan.role == "weight" and plan.scheme is not None}
    solutions: list[WeightSolution] = []
    for tensor in sorted({tensor for tensor, _ in weights}):
        schemes = sorted((scheme for name, scheme in weights if name == tensor), key=str)
        solutions.extend(solve_weight(tensor, constant(tensor), schemes))
    biases = sorted({plan.tensor for plan in quantized if plan.role == "bias"})
    constants = sorted({plan.tensor for plan in quantized if plan.role == "constant"})
    return Evidence(
        tuple(solutions),
        tuple(bias_magnitude(tensor, constant(tensor)) for tensor in biases),
        {tensor: statistics_of(constant(tensor)) for tensor in constants},
    )
