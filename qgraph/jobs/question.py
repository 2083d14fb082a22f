"""What a run is asked to be, and its answer as far as the model's structure gives it: constraints and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from qgraph.calib.evidence import METHODS
from qgraph.calib.observers.catalog import entry_of, resolve_parameters
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import Constraints, Grouping
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.errors import NotFoundError, UsageError
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.solve.run import Parameter, RunSettings


@dataclass(frozen=True, slots=True)
class Question:
    """What a run is asked to be: a target, how far sharing goes, and (with data) an observer.

    Attributes:
        weights: how weight scales are chosen; None follows the observer (``minmax`` for itself, else ``mse``).
        methods: the alignment options; one that is not given is the target's to choose.

    Raises:
        UsageError: `force_overlap` is not a bool.
    """

    target: str
    force_overlap: bool = False
    observer: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None
    methods: MergeMethods = UNCHANGED

    def __post_init__(self) -> None:
        """Refuse a text for `force_overlap`: ``"false"`` would be taken for true."""
        if not isinstance(self.force_overlap, bool):
            raise UsageError("force_overlap must be a bool", repr(self.force_overlap), "say True or False")


@dataclass(frozen=True, slots=True)
class Posed:
    """A question about one model: its settings, constraints and groups. They need no data."""

    settings: RunSettings
    constraints: Constraints
    grouping: Grouping


def settings_of(question: Question) -> RunSettings:
    """The settings as they are stored, every default resolved.

    Raises:
        NotFoundError: the target, the observer or one of its parameters does not exist.
        PackError: the rule pack is not valid.
    """
    pack = load_pack(question.target)
    chosen = question.methods.over(pack.merge_methods)
    methods: dict[str, Any] = {option: None if method is None else str(method) for option, method in chosen.items()}
    settings = replace(RunSettings(pack.name, pack.version, question.force_overlap), **methods)
    if question.observer is None:
        return settings
    entry = entry_of(question.observer)
    weights = question.weights or ("minmax" if entry.name == "minmax" else "mse")
    if weights not in METHODS:
        raise NotFoundError.among("method for weights", weights, METHODS, f"use {' or '.join(METHODS)}")
    parameters = resolve_parameters(entry, question.parameters)
    return replace(settings, observer=entry.name, observer_parameters=parameters, weights=weights)


def pose(structure: Structure, question: Question) -> Posed:
    """Apply a target's rules to a model and solve its groups.

    Raises:
        NotFoundError, PackError: as `settings_of`.
        UsageError: an alignment option None would untie what the target requires.
        ConflictError: the constraints contradict each other; it has all of the contradictions.
    """
    settings = settings_of(question)
    constraints = constrain(Graph(structure), load_pack(question.target), question.methods)
    return Posed(settings, constraints, solve_groups(constraints, force_overlap=question.force_overlap))
