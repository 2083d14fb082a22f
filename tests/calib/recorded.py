"""What a plan records of one inference, the slow and obvious way."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import channels_of
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.provenance import Provenance
from qgraph.calib.rows import rows_of
from qgraph.calib.statistics import TensorStatistics, as_float32, empty_statistics, merge, statistics_of


def attributed(statistics: TensorStatistics, sample: str) -> TensorStatistics:
    """Statistics of one sample, with its hash as provenance of all that it has."""
    some, odd = statistics.minimum is not None, statistics.finite < statistics.elements
    return replace(
        statistics,
        provenance=Provenance(sample if some else None, sample if some else None, sample if odd else None),
    )


def recorded_of(plan: CollectionPlan, values: Mapping[str, NDArray[Any]], sample: str) -> dict[str, TensorStatistics]:
    found = {}
    for name, atoms in plan.recorded.items():
        whole = empty_statistics(atoms)
        if name in plan.atoms:
            whole = attributed(statistics_of(values[name], atoms), sample)
        if name in plan.parts:
            parts = plan.parts[name]
            array = as_float32(values[parts.source])
            array = np.clip(array, np.float32(parts.bounds[0]), np.float32(parts.bounds[1]))
            channels = [
                channels_of(array, one.axis, binned=one.binned, atoms=parts.atoms if one.binned else ())
                for one in parts.channels
            ]
            whole = replace(whole, channels=tuple(channels), rows=tuple(rows_of(array, axis) for axis in parts.rows))
        found[name] = whole
    return found


def merged(parts: list[dict[str, TensorStatistics]]) -> dict[str, TensorStatistics]:
    return {name: reduce(merge, (part[name] for part in parts)) for name in parts[0]}
