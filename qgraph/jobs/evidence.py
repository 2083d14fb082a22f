"""A model's own numbers, looked at once: weight scales, bias magnitudes, statistics of its constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qgraph.calib.constants import constant_statistics
from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.calib.statistics import TensorStatistics
from qgraph.constraints.model import SlotPlan


@dataclass(frozen=True)
class Evidence:
    """What solving needs to know of a model's constants, so that it never needs the model file. All by name."""

    weights: tuple[WeightSolution, ...]
    biases: tuple[BiasMagnitude, ...]
    constants: Mapping[str, TensorStatistics]


def add_evidence(known: Evidence, plans: Iterable[SlotPlan], constant: Callable[[str], Any]) -> Evidence:
    """Look at every constant that some slot quantizes and that is not known yet; `known` itself if there is none.

    Args:
        plans: the slots of all targets that are to be served.
        constant: reads a constant by name as a numpy array.
    """
    quantized = {plan for plan in plans if plan.scheme is not None}
    solved = {(solution.tensor, solution.scheme) for solution in known.weights}
    weights = {(p.tensor, p.scheme) for p in quantized if p.role == "weight" and p.scheme is not None} - solved
    biases = {plan.tensor for plan in quantized if plan.role == "bias"} - {bias.tensor for bias in known.biases}
    constants = {plan.tensor for plan in quantized if plan.role == "constant"} - known.constants.keys()
    if not (weights or biases or constants):
        return known
    from qgraph.calib.weights.scales import bias_magnitude, solve_weight  # loads numba

    solutions = list(known.weights)
    for tensor in sorted({tensor for tensor, _ in weights}):
        schemes = sorted((scheme for name, scheme in weights if name == tensor), key=str)
        solutions.extend(solve_weight(tensor, constant(tensor), schemes))
    return Evidence(
        tuple(sorted(solutions, key=lambda w: (w.tensor, str(w.scheme), w.method))),
        tuple(sorted([*known.biases, *(bias_magnitude(t, constant(t)) for t in biases)], key=lambda b: b.tensor)),
        {**known.constants, **{tensor: constant_statistics(constant(tensor)) for tensor in sorted(constants)}},
    )
