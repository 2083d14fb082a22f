"""Tensors whose statistics follow exactly from those of others, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Rule = Literal["same", "relu", "clip", "sum"]


@dataclass(frozen=True, slots=True)
class Follower:
    """A tensor whose statistics follow exactly from others.

    Attributes:
        rule: ``same`` histogram, ``relu`` or ``clip`` of it, or ``sum`` of all.
        bounds: of a clip; infinite where it has none.
        sources: tensors that are collected or follow themselves; one may occur twice in a sum.
    """

    tensor: str
    rule: Rule
    sources: tuple[str, ...]
    atoms: tuple[float, ...]
    bounds: tuple[float, float] = (-math.inf, math.inf)
