"""What can be found of that which a model has written as several ops and targets run as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from qgraph.constraints.composites.gelus import gelus
from qgraph.constraints.composites.normalizations import normalizations
from qgraph.constraints.wiring import Wiring

FINDERS: Mapping[str, Callable[[Wiring], Mapping[str, str]]] = MappingProxyType(
    {"gelu": gelus, "normalization": normalizations}
)
"""By the name that rule packs have for it: a function to each op that is a part of one, with the tensor it is of."""
