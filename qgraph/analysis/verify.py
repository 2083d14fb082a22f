"""How far an exported model's outputs are from the float model's, on the same samples.

The exported model is run in two ways: at onnxruntime's default optimisation, which makes integer kernels of it as in
deployment and merges away a requantize that has one reader; and every node as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qgraph.analysis.sessions import DTYPES, InMemory, Sample, open_session, run_float
from qgraph.analysis.verify_labels import Accuracy, Hits, Label, rows_of_classes
from qgraph.analysis.verify_layers import Layers
from qgraph.analysis.verify_slices import HiddenSlices, SliceSums
from qgraph.analysis.verify_sums import OutputAgreement as OutputAgreement
from qgraph.analysis.verify_sums import Sums
from qgraph.errors import DataError, ModelError


@dataclass(frozen=True, slots=True)
class Verification:
    """The outputs by name, sorted, and how many samples (feeds) were run.

    Attributes:
        outputs: of the exported model as it was asked for; optimised, where both were.
        unoptimized: of the exported model with every node as it is written, where both were asked for.
        accuracy: by output, on labelled samples.
        layers: tensor by tensor, where it was asked for.
        hidden: by output, slices that are far worse than it is as a whole, of the same model as `outputs`.
    """

    outputs: Mapping[str, OutputAgreement]
    samples: int
    unoptimized: Mapping[str, OutputAgreement] | None = None
    accuracy: Mapping[str, Accuracy] | None = None
    layers: Layers | None = None
    hidden: Mapping[str, HiddenSlices] = field(default_factory=dict)


def verify(
    reference: Path | InMemory,
    exported: Path | InMemory,
    samples: Iterable[Sample],
    *,
    optimized: bool | None = True,
    labels: Iterable[Sequence[Label]] | None = None,
    libraries: Sequence[Path] = (),
) -> Verification:
    """Run both models on the same samples and compare their outputs.

    Args:
        reference: the float model.
        exported: a model with the same inputs and outputs.
        samples: one array per input each; read once.
        optimized: at onnxruntime's default optimisation (integer kernels); False: every node as it is written; None:
            both.
        labels: the true classes of the rows of each sample, or of their pixels, in step with `samples`.
        libraries: with the models' custom ops; see `qgraph.calib.runners.op_libraries`.

    Raises:
        ModelError: a model cannot be loaded, or the outputs have other names or shapes.
        DataError: there is no sample, or the float model does not take one; a label is no class of an output, or no
            output has a row of classes per label.
    """
    float_session = open_session(reference, optimized=optimized is not False, libraries=libraries)
    ways = (True, False) if optimized is None else (optimized,)
    sessions = {way: open_session(exported, optimized=way, libraries=libraries) for way in ways}
    names = _numeric_outputs(float_session)
    for session in sessions.values():
        if (other := _numeric_outputs(session)) != names:
            raise ModelError("the models have other outputs", f"{names} and {other}", "verify an export of this model")
    sums = {way: {name: Sums() for name in names} for way in ways}
    slices = {name: SliceSums() for name in names}
    true_classes = None if labels is None else iter(labels)
    hits: dict[str, Hits] = {}
    count = 0
    for count, sample in enumerate(samples, start=1):
        expected = run_float(float_session, names, sample, count)
        found = {
            way: dict(zip(names, session.run(names, dict(sample)), strict=True)) for way, session in sessions.items()
        }
        for name, array in expected.items():
            for way in ways:
                sums[way][name].add(array, np.asarray(found[way][name]), name)
            slices[name].add(array, np.asarray(found[ways[0]][name]))
        if true_classes is not None:
            _judge(expected, found[ways[0]], np.asarray(next(true_classes)), hits)
    if not count:
        raise DataError("no samples to verify on", str(exported), "give at least one")
    agreements = {way: {name: one.agreement() for name, one in by_name.items()} for way, by_name in sums.items()}
    accuracy = None if labels is None else {name: one.accuracy() for name, one in sorted(hits.items())}
    unoptimized = agreements[False] if len(ways) > 1 else None
    hidden = {name: far for name, one in slices.items() if (far := one.hidden()) is not None}
    return Verification(agreements[ways[0]], count, unoptimized, accuracy, hidden=hidden)


def _judge(
    expected: Mapping[str, NDArray[np.generic]],
    found: Mapping[str, NDArray[np.generic]],
    labels: NDArray[np.integer],
    hits: dict[str, Hits],
) -> None:
    for name, array in expected.items():
        rows = [rows_of_classes(np.asarray(one), labels.shape) for one in (array, found[name])]
        if rows[0] is not None and rows[1] is not None:
            hits.setdefault(name, Hits()).add(rows[0], rows[1], labels)
    if not hits:
        which = ", ".join(f"{name} {list(np.shape(array))}" for name, array in expected.items())
        cure = (
            "make the masks of the output's size, or leave them out"
            if labels.ndim > 1
            else "give masks, or leave them out"
        )
        raise DataError("no output has a row of classes per label", f"{which}; labels {list(labels.shape)}", cure)


def _numeric_outputs(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of the outputs that are tensors of numbers, sorted; text and sequences have no distance."""
    return sorted(value.name for value in session.get_outputs() if value.type in DTYPES)
