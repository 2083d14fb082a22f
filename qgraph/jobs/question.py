"""What a run is asked to be, and its answer as far as the model's structure gives it: constraints and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from qgraph.calib.evidence import METHODS
from qgraph.calib.observers.catalog import entry_of, observer_digest, resolve_parameters
from qgraph.constraints.alignment import REMOVING
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.merge_methods import FAMILIES, UNCHANGED, MergeMethods, merge_methods
from qgraph.constraints.model import Constraints, Grouping, Same
from qgraph.constraints.overrides import Overrides, parse_override
from qgraph.constraints.overriding import UNSHARING, constrain_overridden, dropped_ties
from qgraph.constraints.pack import load_pack
from qgraph.errors import NotFoundError, PackError, UsageError
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.solve.run import AUTO_OVERLAP, ForceOverlap, Parameter, RunSettings


@dataclass(frozen=True, slots=True)
class Question:
    """What a run is asked to be: a target, how far sharing goes, and (with data) an observer.

    Attributes:
        weights: how weight scales are chosen; None follows the observer (``minmax`` for itself, else ``mse``).
        methods: the alignment options; one that is not given is the target's to choose.
        overrides: what the user asks for against the target's word.

    Raises:
        UsageError: `force_overlap` is neither a bool nor ``"auto"``.
    """

    target: str
    force_overlap: ForceOverlap = False
    observer: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None
    methods: MergeMethods = UNCHANGED
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Refuse another text for `force_overlap`: ``"false"`` would be taken for true."""
        if not isinstance(self.force_overlap, bool) and self.force_overlap != AUTO_OVERLAP:
            raise UsageError(
                'force_overlap must be a bool or "auto"', repr(self.force_overlap), 'say True, False or "auto"'
            )


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
    wishes = tuple(map(str, question.overrides))
    settings = replace(RunSettings(pack.name, pack.version, question.force_overlap), **methods, overrides=wishes)
    if question.observer is None:
        return settings
    entry = entry_of(question.observer)
    weights = question.weights or ("minmax" if entry.name == "minmax" else "mse")
    if weights not in METHODS:
        raise NotFoundError.among("method for weights", weights, METHODS, f"use {' or '.join(METHODS)}")
    parameters = resolve_parameters(entry, question.parameters)
    own = observer_digest(entry.name, parameters)
    return replace(settings, observer=entry.name, observer_parameters=parameters, observer_digest=own, weights=weights)


def pose(
    structure: Structure, question: Question, noise: Callable[[Constraints], Mapping[str, float]] | None = None
) -> Posed:
    """Apply a target's rules to a model and solve its groups.

    With ``force_overlap="auto"`` they are those that it starts from: of False, or of True where the target cannot
    requantize, so that there is nothing to choose.

    Args:
        noise: where there is data, what rounding the tensor of each slot once more adds; it prices contradictions.

    Raises:
        NotFoundError, PackError: as `settings_of`.
        UsageError: an alignment option None would untie what the target requires, or an override cannot work.
        ConflictError: the constraints contradict each other; it has all of the contradictions.
    """
    settings = settings_of(question)
    pack = load_pack(question.target)
    constraints = constrain_overridden(Graph(structure), pack, question.methods, question.overrides)
    overlap = question.force_overlap
    if overlap == AUTO_OVERLAP:
        overlap = not constraints.can_requantize
    priced = None if noise is None else partial(noise, constraints)
    return Posed(settings, constraints, solve_groups(constraints, force_overlap=bool(overlap), noise=priced))


def ties_dropped(structure: Callable[[], Structure], settings: RunSettings) -> tuple[tuple[Same, str], ...]:
    """The `same` constraints that a run's options and overrides dropped, each with that; none once its pack is gone."""
    question = question_of(settings)
    try:
        pack = load_pack(question.target)
    except (NotFoundError, PackError):
        return ()
    defaults = dict(pack.merge_methods.items())
    removed = any(method in REMOVING and method != defaults[option] for option, method in question.methods.items())
    if not removed and not any(entry.action in UNSHARING for entry in question.overrides):
        return ()
    return dropped_ties(Graph(structure()), pack, question.methods, question.overrides)


IMPORTED: Final = "imported"
"""What stands for the observer in a run whose scales came from a file."""

REFERENCE: Final = "mse"
"""The observer whose scales a tensor of such a run would have alone: what the imported ones are priced against."""


def refuse_imported(run: str, settings: RunSettings) -> None:
    """Refuse a run that has no observer to solve it anew with.

    Raises:
        UsageError: its scales were imported.
    """
    if settings.observer == IMPORTED:
        cure = "name a run that qgraph solve made from its calibration"
        raise UsageError("the scales of this run were imported, not solved", run, cure)


def question_of(settings: RunSettings) -> Question:
    """The question that a stored run answers, so that it can be asked of another model.

    >>> asked = Question("tflite", observer="mse", overrides=(parse_override("float type:Resize"),))
    >>> settings_of(question_of(settings_of(asked))) == settings_of(asked)
    True
    """
    return Question(
        settings.target,
        settings.force_overlap,
        settings.observer,
        settings.observer_parameters,
        settings.weights,
        merge_methods(**{option: getattr(settings, option) for option in FAMILIES}),
        tuple(map(parse_override, settings.overrides)),
    )
