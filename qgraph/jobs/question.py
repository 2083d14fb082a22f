"""What a run is asked to be, and its answer as far as the model's structure gives it: constraints and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.calib.observers.catalog import entry_of, resolve_parameters
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Grouping
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.errors import UsageError
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.solve.run import Parameter, RunSettings

WEIGHT_METHODS = ("minmax", "mse")


@dataclass(frozen=True, slots=True)
class Question:
    """What a run is asked to be: a target, how far sharing goes, and (with data) an observer.

    Attributes:
        weights: how weight scales are chosen; None follows the observer (``minmax`` for itself, else ``mse``).
    """

    target: str
    force_overlap: bool = False
    observer: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None

    def settings(self, target: str, version: str) -> RunSettings:
        """The settings as stored, every default resolved.

        Raises:
            NotFoundError: the observer or one of its parameters does not exist.
        """
        if self.observer is None:
            return RunSettings(target, version, self.force_overlap)
        entry = entry_of(self.observer)
        weights = self.weights or ("minmax" if entry.name == "minmax" else "mse")
        if weights not in WEIGHT_METHODS:
            raise UsageError("unknown weight method", weights, f"use {' or '.join(WEIGHT_METHODS)}")
        parameters = resolve_parameters(entry, self.parameters)
        return RunSettings(target, version, self.force_overlap, entry.name, parameters, weights)


@dataclass(frozen=True, slots=True)
class Posed:
    """A question about one model: its settings, constraints and groups. They need no data."""

    settings: RunSettings
    constraints: Constraints
    grouping: Grouping


def pose(structure: Structure, question: Question) -> Posed:
    """Apply a target's rules to a model and solve its groups.

    Raises:
        NotFoundError, PackError, ConflictError: unknown target or observer, bad pack, contradicting constraints.
    """
    pack = load_pack(question.target)
    settings = question.settings(pack.name, pack.version)
    constraints = constrain(Graph(structure), pack)
    return Posed(settings, constraints, solve_groups(constraints, force_overlap=question.force_overlap))
