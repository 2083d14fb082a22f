"""What is known of a model's own numbers: weight scales, bias magnitudes, statistics of its constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.store.blobs import checked, digest
from qgraph.store.bulk import insert_rows
from qgraph.store.columns import MOST_BITS
from qgraph.store.encoding import decode, encode
from qgraph.store.references import model_row
from qgraph.store.tables import bias_magnitudes, constant_statistics, models, weight_solutions
from qgraph.tqc import Scheme

SCHEME_FIELDS = tuple(field.name for field in fields(Scheme))
_WEIGHT_COLUMNS = ("model_id", "position", "tensor", "method", *SCHEME_FIELDS, "scales", "noise_db")


@dataclass(frozen=True, slots=True)
class Served:
    """What the evidence of a model serves, so that the packs need not be applied to it again.

    Attributes:
        packs: digest of the shipped rule packs.
        channel_axes: the axes along which they quantize activations per channel, by tensor.
    """

    packs: str
    channel_axes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelEvidence:
    """All of it. `constants` maps a tensor to its statistics, as the bytes that were saved."""

    weights: tuple[WeightSolution, ...]
    biases: tuple[BiasMagnitude, ...]
    constants: Mapping[str, bytes]


def scheme_values(scheme: Scheme) -> tuple[object, ...]:
    """The fields of a scheme, in the order of `SCHEME_FIELDS`."""
    return tuple(getattr(scheme, name) for name in SCHEME_FIELDS)


def read_scheme(row: sa.Row[Any]) -> Scheme:
    """The scheme in a row; raises ValueError for one that would make integers as long as the memory."""
    if row.bits > MOST_BITS:
        raise ValueError(f"a scheme of {row.bits} bits")
    return Scheme(**{name: getattr(row, name) for name in SCHEME_FIELDS})


def save_evidence(
    connection: sa.Connection,
    model: str,
    weights: Iterable[WeightSolution],
    biases: Iterable[BiasMagnitude],
    constants: Mapping[str, bytes],
) -> None:
    """Store the evidence of a model in place of what is stored of it.

    Raises:
        NotFoundError: no such model.
    """
    number = model_row(connection, model)
    for table in (weight_solutions, bias_magnitudes, constant_statistics):
        connection.execute(table.delete().where(table.c.model_id == number))
    insert_rows(
        connection,
        weight_solutions,
        _WEIGHT_COLUMNS,
        (
            (number, position, w.tensor, w.method, *scheme_values(w.scheme), encode(w.scale), w.noise_db)
            for position, w in enumerate(weights)
        ),
    )
    insert_rows(
        connection,
        bias_magnitudes,
        ("model_id", "position", "tensor", "magnitudes"),
        ((number, position, b.tensor, encode(b.magnitude)) for position, b in enumerate(biases)),
    )
    insert_rows(
        connection,
        constant_statistics,
        ("model_id", "tensor", "digest", "blob"),
        ((number, tensor, digest(blob), blob) for tensor, blob in sorted(constants.items())),
    )


def load_evidence(connection: sa.Connection, model: str) -> ModelEvidence:
    """Restore what `save_evidence` stored, exactly and in the same order.

    Raises:
        NotFoundError: no such model.
        StatisticsError: a blob is damaged.
    """
    number = model_row(connection, model)
    weights = sa.select(weight_solutions).where(weight_solutions.c.model_id == number)
    biases = sa.select(bias_magnitudes).where(bias_magnitudes.c.model_id == number)
    blobs = sa.select(constant_statistics).where(constant_statistics.c.model_id == number)
    return ModelEvidence(
        weights=tuple(
            WeightSolution(
                row.tensor,
                read_scheme(row),
                row.method,
                decode(row.scales),
                row.noise_db,
            )
            for row in connection.execute(weights.order_by(weight_solutions.c.position))
        ),
        biases=tuple(
            BiasMagnitude(row.tensor, decode(row.magnitudes))
            for row in connection.execute(biases.order_by(bias_magnitudes.c.position))
        ),
        constants={
            row.tensor: checked(row.blob, row.digest, row.tensor)
            for row in connection.execute(blobs.order_by(constant_statistics.c.tensor))
        },
    )


def save_served(connection: sa.Connection, model: str, served: Served) -> None:
    """Note what the stored evidence of a model serves; raises `NotFoundError`."""
    noted = encode((served.packs, served.channel_axes))
    connection.execute(models.update().where(models.c.id == model_row(connection, model)).values(served=noted))


def load_served(connection: sa.Connection, fingerprint: str) -> Served | None:
    """What was noted of the model with that fingerprint, if anything was."""
    noted = connection.scalar(sa.select(models.c.served).where(models.c.fingerprint == fingerprint))
    return None if noted is None else Served(*decode(noted))
