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
    """A stored model.

    Attributes:
        path: where it was when it was stored.
        created: UTC in ISO format.
        parent: the model whose weights were changed to make this one; None for one that came as it is.
        derivation: how it was made from its parent.
    """

    id: str
    fingerprint: str
    name: str
    path: str | None
    opset: int
    created: str
    parent: str | None = None
    derivation: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class SampleOrigin:
    """Where a sample was found first.

    Attributes:
        index: its place in the data that it was given in, from 0.
        name: the file that it comes from, and where in it; None for data that is not in files.
    """

    index: int
    name: str | None = None


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
        shard: which part of the data, as ``1/3``; None for all of it.
    """

    model: str
    data: str | None = None
    preprocessing: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    runner: str | None = None
    capability: str | None = None
    shard: str | None = None

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
        if self.shard is not None:
            fields.append(self.shard)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Passes:
    """How far a calibration is that is made in several passes, each over all samples but some activations.

    Attributes:
        done: activations that all samples were counted for, sorted.
        current: those of the pass under way, sorted.
    """

    done: tuple[str, ...]
    current: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A stored calibration.

    Attributes:
        samples, inferences: totals.
        input_shapes: by input, a shape in which the model is fed.
        passes: while a calibration is made in several passes: which activations are finished, and which are being
            counted; None otherwise. The samples are those of the pass under way.
        created, updated: UTC in ISO format, by the database's clock.
        version: of the qgraph that began it.
    """

    id: str
    model: str
    identity: CalibrationIdentity
    status: CalibrationStatus
    samples: int
    inferences: int
    input_shapes: Mapping[str, tuple[int, ...]]
    passes: Passes | None
    created: str
    updated: str
    version: str


@dataclass(frozen=True, slots=True)
class Sibling:
    """An unfinished calibration of the same model, and the fields of the identity in which it differs."""

    calibration: str
    samples: int
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A stored run, without its configs.

    Attributes:
        samples: what its calibration had counted when it was solved.
        created: UTC in ISO format, by the database's clock.
        version: of the qgraph that solved it.
    """

    id: str
    name: str | None
    model: str
    calibration: str | None
    samples: int
    settings: RunSettings
    created: str
    version: str
