"""Stored statistics of one model on one data set, and the runs that are solved from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from qgraph import arguments
from qgraph.constraints.merge_methods import MergeOptions
from qgraph.constraints.overrides import Given as GivenOverrides
from qgraph.errors import UsageError
from qgraph.run import Run
from qgraph.solve.run import ForceOverlap, Parameter

if TYPE_CHECKING:
    from qgraph.api import Database
    from qgraph.calib.statistics import TensorStatistics

DEFAULT_OBSERVER = "mse"


class Calibration:
    """Stored statistics of one model on one data set.

    Attributes:
        id: ``c1``, ``c2``, …
        location: the database that it is in.
        status: ``complete``, ``reused`` or ``partial``.
        samples: samples counted.
        resumed_from: samples that were counted before the call that returned this.
        inferences: samples that it ran.
    """

    def __init__(
        self, database: Database, reference: str, status: str, samples: int, resumed_from: int, inferences: int
    ) -> None:
        self._database = database
        self.location = database.location
        self.id = reference
        self.status = status
        self.samples = samples
        self.resumed_from = resumed_from
        self.inferences = inferences

    def __repr__(self) -> str:
        return f"<Calibration {self.id} ({self.status}, {self.samples} samples) in {self._database!r}>"

    def solve(
        self,
        *,
        target: str | Path,
        observer: str = DEFAULT_OBSERVER,
        force_overlap: ForceOverlap = False,
        weights: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        name: str | None = None,
        allow_partial: bool = False,
        overrides: GivenOverrides = None,
        device: str = "cpu",
        **alignment: Unpack[MergeOptions],
    ) -> Run:
        """Solve a run: groups, scales, noise and prices on a target. No inference, no model file.

        Args:
            overrides: as for `Database.analyze`.
            device: as for `Database.solve`.
            **alignment: as for `Database.analyze`.
        """
        return self._database.solve(
            self.id,
            target=target,
            observer=observer,
            force_overlap=force_overlap,
            weights=weights,
            parameters=parameters,
            name=name,
            allow_partial=allow_partial,
            overrides=overrides,
            device=device,
            **alignment,
        )

    def statistics(self) -> Mapping[str, TensorStatistics]:
        """The statistics of every tensor that was collected."""
        from qgraph.jobs.calibrating import load_statistics  # heavy

        return load_statistics(self._database.store(), self.id)


def own_reference(calibration: Calibration | str, location: str) -> str:
    """The id of a calibration that must be of the database at a location.

    Raises:
        UsageError: it is of another one.
    """
    if not isinstance(calibration, Calibration):
        return arguments.text("calibration", calibration, "pass its id, as c1")
    if calibration.location != location:
        raise UsageError("a calibration of another database", calibration.location, "pass one of this database")
    return calibration.id
