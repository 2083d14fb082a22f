"""What a solved run consists of, as plain data: settings, configs, groups, requantizes and their prices.

No third-party import, so that the store and the queries can use these types at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from qgraph.constraints.model import Grouping
from qgraph.tqc import TqcRecord

Parameter = int | float | str | bool

ForceOverlap = bool | Literal["auto"]
"""How far sharing goes through a tensor with several readers; ``auto``: where that lowers the predicted noise."""

AUTO_OVERLAP: Literal["auto"] = "auto"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run was asked to do.

    Attributes:
        target_version: version of the rule pack.
        observer: None for a run without scales (structure only).
        observer_parameters: as resolved, defaults included.
        observer_digest: tells a user's own observer from an edited one of that name; None for those of qgraph.
        weights: how weight scales are chosen, ``minmax`` or ``mse``.
        elementwise_merge_method, concat_merge_method, averagepool_method, resize_method: the alignment options, as
            resolved with the target's choice; None where the target's rules stand as they are.
        overrides: what the user asked for against the target's word, each as `qgraph.constraints.overrides` writes it.
    """

    target: str
    target_version: str
    force_overlap: ForceOverlap
    observer: str | None = None
    observer_parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None
    elementwise_merge_method: str | None = None
    concat_merge_method: str | None = None
    averagepool_method: str | None = None
    resize_method: str | None = None
    observer_digest: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The observer that ``auto`` took for a group, and why, in words."""

    observer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a run that the target would not like, or that its rule pack or the model is silent about.

    Attributes:
        kind: ``ratio`` (scales whose ratio is out of bounds), ``unlisted`` (ops that the pack does not name), or
            ``untyped`` (tensors of a custom op whose type the model does not tell).
        op: empty where it is about all ops of the type.
    """

    kind: str
    rule: str
    op: str
    op_type: str
    source: str
    slots: tuple[str, ...]
    message: str


FINDING_FIELDS = ("kind", "rule", "op", "op_type", "source", "slots", "message")


@dataclass(frozen=True, slots=True)
class RunData:
    """A solved run.

    Attributes:
        tqcs: one per slot on a float tensor, quantizable or not, sorted by slot.
        requantize_price_db: per slot of `grouping.requantizes`, the noise that quantizing a second time adds, in dB.
        events: one line each about what the solver did that a user should know, sorted.
        choices: which observer a group took, by its id, where the run's observer is ``auto``.
        findings: broken bounds on ratios by op, then types of ops that the pack does not name.
    """

    settings: RunSettings
    tqcs: tuple[TqcRecord, ...]
    grouping: Grouping
    requantize_price_db: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    events: tuple[str, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()
