"""What can be told of an observer without loading it: its name, what it chooses, what it can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Parameter = int | float | str | bool


@dataclass(frozen=True, slots=True)
class ObserverEntry:
    """One observer.

    Attributes:
        summary: what it optimises, for a list that people read.
        parameters: what it can be told, with defaults. A parameter has the type of its default.
        limits: the least and the greatest value of a parameter that is a number.
        aliases: other spellings of its name; what is stored has its name.
    """

    name: str
    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()
