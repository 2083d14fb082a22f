"""What a model is fed at once: single samples, or for a model with a fixed batch as many as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.data.samples import Sample
from qgraph.calib.data.source import DataSource
from qgraph.errors import DataError, UsageError


def samples_per_step(source: DataSource, batch_size: int | None, steps: int | None) -> int:
    """How many samples one of the `steps` stands for: the model's fixed batch, or what is asked for, or 1.

    Raises:
        UsageError: steps or batch size cannot work with this model.
    """
    for name, value in (("batch size", batch_size), ("steps", steps)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1", str(value), "give a larger number")
    fixed = source.fixed_batch
    if fixed is not None and batch_size not in (None, fixed):
        raise UsageError("the model takes one batch size only", f"{batch_size}", f"use batch size {fixed}")
    return fixed or batch_size or 1


def batches(samples: Iterable[Sample], source: DataSource) -> Iterator[list[Sample]]:
    """Single samples, or for a fixed batch as many of equal shape as it takes.

    Raises:
        DataError: samples are left over that fill no batch.
    """
    size = source.fixed_batch or 1
    batch: list[Sample] = []
    for sample in samples:
        if batch and _shapes(batch[0]) != _shapes(sample):
            check_full_batch(len(batch), source)
        batch.append(sample)
        if len(batch) == size or not sample.batchable:
            yield batch
            batch = []
    if batch:
        check_full_batch(len(batch), source)


def check_full_batch(samples: int, source: DataSource) -> None:
    """Refuse a number of samples that leaves a fixed batch half empty.

    Raises:
        DataError: with the number of steps that can be filled.
    """
    size = source.fixed_batch
    if size is None or samples % size == 0:
        return
    full = samples // size
    fitting = f"use --steps {full} (steps={full})" if full else f"give at least {size}"
    raise DataError(
        f"the model takes batches of {size} only",
        f"{source.name} has {samples} samples that can be joined",
        f"{fitting}, a multiple of {size}, or export the model with a dynamic batch "
        '(dynamic_shapes="batch" for a module)',
    )


def joined(batch: Sequence[Sample]) -> dict[str, NDArray[Any]]:
    """The arrays to feed for a batch, by input name."""
    if len(batch) == 1:
        return dict(batch[0].arrays)
    return {name: np.concatenate([sample.arrays[name] for sample in batch]) for name in batch[0].arrays}


def _shapes(sample: Sample) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for _, array in sorted(sample.arrays.items()))
