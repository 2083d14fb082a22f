"""What the store answers with: frozen plain data, no rows, no third party."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from qgraph.solve.run import RunSettings


class CalibrationStatus(StrEnum):
    """Whether all data of a calibration has been counted."""

    PARTIAL = "partial"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A stored model. `path` is where it was when it was stored, `created` is UTC in ISO format."""

    id: str
    fingerprint: str
    name: str
    path: str | None
    opset: int
    created: str


@dataclass(frozen=True, slots=True)
class CalibrationIdentity:
    """What makes two calibrations the same: equal identities count the same statistics.

    Attributes:
        model: the model's fingerprint.
        data: digest of the data set.
        preprocessing: how the data is made ready, as text.
        steps: number of batches; None for all.
        batch_size: None where the data comes in batches of its own.
        runner: what runs the model: provider, level, versions, CPU features.
        capability: digest of what is collected.
    """

    model: str
    data: str | None = None
    preprocessing: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    runner: str | None = None
    capability: str | None = None

    @property
    def digest(self) -> str:
        """Equal for equal identities, different for different ones."""
        fields = [
            self.model,
            self.data,
            self.preprocessing,
            self.steps,
            self.batch_size,
            self.runner,
            self.capability,
        ]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A stored calibration.

    Attributes:
        samples, inferences: totals.
        input_shapes: by input, a shape in which the model is fed.
        created, updated: UTC in ISO format, by the database's clock.
    """

    id: str
    model: str
    identity: CalibrationIdentity
    status: CalibrationStatus
    samples: int
    inferences: int
    input_shapes: Mapping[str, tuple[int, ...]]
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class Sibling:
    """An unfinished calibration of the same model, and the fields of the identity in which it differs."""

    calibration: str
    samples: int
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A stored run, without its configs. `samples` is what its calibration had counted when it was solved."""

    id: str
    name: str | None
    model: str
    calibration: str | None
    samples: int
    settings: RunSettings
    created: str
