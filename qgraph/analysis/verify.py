"""How far an exported model's outputs are from the float model's, on the same samples.

Only sums are kept, so memory does not grow with the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qgraph.analysis.sessions import DTYPES, InMemory, Sample, open_session
from qgraph.errors import DataError, ModelError


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How one output agrees, over all samples.

    Attributes:
        exact: every value is finite and the float model's.
        snr_db: signal power over error power, in dB; inf where there is no error, -inf where there is no signal: the
            float model's output is all zero. JSON has null for both, and `exact` tells which.
        cosine: of all values as one vector; None where one of the two is all zero.
        top1: share of rows along the last axis whose largest value is at the same place; None where rows have
            one value.
        max_abs_error: the largest absolute difference.
        nonfinite: values that are NaN or infinite on either side; they count nowhere else.
    """

    exact: bool
    snr_db: float
    cosine: float | None
    top1: float | None
    max_abs_error: float
    nonfinite: int


@dataclass(frozen=True, slots=True)
class Verification:
    """The outputs by name, sorted, and how many samples (feeds) were run."""

    outputs: Mapping[str, OutputAgreement]
    samples: int


def verify(
    reference: Path | InMemory,
    exported: Path | InMemory,
    samples: Iterable[Sample],
    *,
    optimized: bool = True,
    libraries: Sequence[Path] = (),
) -> Verification:
    """Run both models on the same samples and compare their outputs.

    Args:
        reference: the float model.
        exported: a model with the same inputs and outputs.
        samples: one array per input each; read once.
        optimized: at onnxruntime's default optimisation (integer kernels); False: every node as it is written.
        libraries: with the models' custom ops; see `qgraph.calib.op_libraries`.

    Raises:
        ModelError: a model cannot be loaded, or the outputs have other names or shapes.
        DataError: there is no sample, or the float model does not take one.
    """
    float_session = open_session(reference, optimized=optimized, libraries=libraries)
    exported_session = open_session(exported, optimized=optimized, libraries=libraries)
    names, other = _numeric_outputs(float_session), _numeric_outputs(exported_session)
    if names != other:
        raise ModelError("the models have other outputs", f"{names} and {other}", "verify an export of this model")
    sums = {name: _Sums() for name in names}
    count = 0
    for count, sample in enumerate(samples, start=1):
        try:
            expected = float_session.run(names, dict(sample))
        except Exception as error:  # the runtime's errors have no common class
            reason = " ".join(str(error).split())
            raise DataError(
                "the model does not take a sample", f"sample {count}: {reason}", "check the data"
            ) from error
        for name, a, b in zip(names, expected, exported_session.run(names, dict(sample)), strict=True):
            sums[name].add(np.asarray(a), np.asarray(b), name)
    if not count:
        raise DataError("no samples to verify on", str(exported), "give at least one")
    return Verification({name: sums[name].agreement() for name in names}, count)


def _numeric_outputs(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of the outputs that are tensors of numbers, sorted; text and sequences have no distance."""
    return sorted(value.name for value in session.get_outputs() if value.type in DTYPES)


@dataclass
class _Sums:
    """What one output's agreement is computed from; float64 sums."""

    signal: float = 0.0
    exported: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_abs_error: float = 0.0
    nonfinite: int = 0
    rows: int = 0
    hits: int = 0

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic], name: str) -> None:
        """Count one sample's output."""
        if expected.shape != actual.shape:
            raise ModelError(
                "an output has another shape", f"{name}: {expected.shape} and {actual.shape}", "export the model again"
            )
        x, y = expected.astype("float64"), actual.astype("float64")
        if x.ndim and x.shape[-1] > 1:
            same = x.argmax(axis=-1) == y.argmax(axis=-1)
            self.rows += same.size
            self.hits += int(same.sum())
        finite = np.isfinite(x) & np.isfinite(y)
        self.nonfinite += finite.size - int(finite.sum())
        x, y = x[finite], y[finite]
        difference = x - y
        self.signal += float(x @ x)
        self.exported += float(y @ y)
        self.product += float(x @ y)
        self.error += float(difference @ difference)
        self.max_abs_error = max(self.max_abs_error, float(np.abs(difference).max(initial=0.0)))

    def agreement(self) -> OutputAgreement:
        """The figures that the sums give."""
        norms = math.sqrt(self.signal) * math.sqrt(self.exported)
        return OutputAgreement(
            exact=not self.error and not self.nonfinite,
            snr_db=_decibels(self.signal, self.error),
            cosine=self.product / norms if norms else None,
            top1=self.hits / self.rows if self.rows else None,
            max_abs_error=self.max_abs_error,
            nonfinite=self.nonfinite,
        )


def _decibels(signal: float, error: float) -> float:
    if not error:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf
