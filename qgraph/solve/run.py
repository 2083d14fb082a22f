"""What a solved run consists of, as plain data: settings, configs, groups, requantizes and their prices.

No third-party import, so that the store and the queries can use these types at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.constraints.model import Grouping
from qgraph.tqc import TqcRecord

Parameter = int | float | str | bool


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run was asked to do.

    Attributes:
        target_version: version of the rule pack.
        observer: None for a run without scales (structure only).
        observer_parameters: as resolved, defaults included.
        weights: how weight scales are chosen, ``minmax`` or ``mse``.
        elementwise_merge_method, concat_merge_method, averagepool_method, resize_method: the alignment options, as
            resolved with the target's choice; None where the target's rules stand as they are.
    """

    target: str
    target_version: str
    force_overlap: bool
    observer: str | None = None
    observer_parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    weights: str | None = None
    elementwise_merge_method: str | None = None
    concat_merge_method: str | None = None
    averagepool_method: str | None = None
    resize_method: str | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """A solved run.

    Attributes:
        tqcs: one per slot on a float tensor, quantizable or not, sorted by slot.
        requantize_price_db: per slot of `grouping.requantizes`, the noise that quantizing a second time adds, in dB.
        events: one line each about what the solver did that a user should know, sorted.
    """

    settings: RunSettings
    tqcs: tuple[TqcRecord, ...]
    grouping: Grouping
    requantize_price_db: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    events: tuple[str, ...] = ()
