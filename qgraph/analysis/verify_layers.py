"""Where an exported model leaves the float one, tensor by tensor, and how well the statistics foretold it.

Two errors are measured of each quantized tensor T::

    float model      x ─▶ … ─▶ T ─────────▶ quantize T alone     its own noise: what the statistics predict
    exported model   x ─▶ … ─▶ T' = T + all that the tensors before it have lost     its agreement
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log10
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qgraph.analysis.sessions import InMemory, Sample, open_session, run_float, with_outputs
from qgraph.analysis.verify_sums import OutputAgreement, Sums
from qgraph.errors import UsageError
from qgraph.formats.encoding import Encoding, encoding_of
from qgraph.ir.slots import graph_input, makes_its_tensor
from qgraph.solve.run import RunData
from qgraph.tqc import TqcRecord

AT_ONCE = 48
"""How many tensors are looked at in one pass over the samples, which bounds memory."""

DIVERGES_DB = 20.0
"""A tensor whose signal is less than this above its error has left the float model."""

DROP_DB = 10.0
"""What ops must lose to be told of: two or three factors of two are nothing special."""

NO_NOISE_DB = -140.0
"""What noise below the least that is told counts for; as in `qgraph.solve.noise`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantized tensor.

    Attributes:
        group: id of the group whose parameters its producer has.
        agreement: of the exported model with the float one there, with all that was lost before.
        error_in_steps: the largest error there in steps of its scale (the largest scale, where per channel).
        predicted_db: noise that the statistics predict for it alone, as noise power over signal power.
        measured_db: the same as it is on these samples, where the float model's values alone are quantized.
    """

    tensor: str
    op: str
    group: str | None
    agreement: OutputAgreement
    error_in_steps: float
    predicted_db: float | None
    measured_db: float | None


@dataclass(frozen=True, slots=True)
class GroupPrediction:
    """Noise of a group: noise power over signal power, summed over the tensors that are made in it, in dB.

    Attributes:
        deviation_db: how much more was measured than predicted.
    """

    group: str
    tensors: tuple[str, ...]
    predicted_db: float
    measured_db: float
    deviation_db: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Where most is lost from one quantized tensor to the next, other than by rounding and clipping the next.

    The ops between them make more of the errors that come in, those of rounded weights included: a logarithm of small
    values, the difference of two large ones. What they read is what needs finer steps, however small its own noise is.

    Attributes:
        tensor, snr_db: where it arrives.
        reads, reads_db: the worst of the quantized tensors that it is made of, and its SNR.
        through: the types of the ops from those to the tensor, in the order of the model.
        loss_db: the error there over that of all that it reads, and its own noise.
    """

    tensor: str
    snr_db: float
    reads: str
    reads_db: float
    through: tuple[str, ...]
    loss_db: float


@dataclass(frozen=True, slots=True)
class Layers:
    """All quantized tensors in the order of the model.

    Attributes:
        below_db: what the first tensor that diverges is below.
        first: the first tensor whose signal is less than `below_db` above its error; None where there is none.
        drop: where ops lose most, and that is `DROP_DB` at least; None where there is no such place.
        groups: what was predicted and measured of each, the worst deviation first.
        median_deviation_db, worst_deviation_db: of the groups, without and with its sign; None without groups.
    """

    tensors: tuple[Layer, ...]
    below_db: float
    first: str | None
    groups: tuple[GroupPrediction, ...]
    median_deviation_db: float | None
    worst_deviation_db: float | None
    drop: Drop | None = None


Quantize = Callable[[ModelProto], ModelProto]
"""Makes the exported form of the float model, or of the same with further outputs."""


def verify_layers(
    model: ModelProto,
    quantize: Quantize,
    run: RunData,
    folder: Path,
    samples: Callable[[], Iterable[Sample]],
    *,
    below_db: float = DIVERGES_DB,
    optimized: bool = True,
    libraries: Sequence[Path] = (),
) -> Layers:
    """Compare the exported model with the float one at each tensor that the run quantizes where it is made.

    Args:
        model: the run's own float model, nodes in topological order.
        folder: where external data of the model lies.
        samples: starts a new pass over the samples; there is one for each `AT_ONCE` tensors.
        optimized: run the exported model with integer kernels.
        libraries: with the model's custom ops.

    Raises:
        ModelError, DataError: as `qgraph.analysis.verify.verify`.
        UsageError: nothing is quantized.
    """
    made = _made(model, run)
    if not made:
        raise UsageError("no tensor is quantized where it is made", run.settings.target, "see qgraph scales")
    layers: list[Layer] = []
    for start in range(0, len(made), AT_ONCE):
        part = made[start : start + AT_ONCE]
        layers += _compared(part, model, quantize, folder, samples(), libraries, optimized=optimized)
    first = next((one.tensor for one in layers if one.agreement.snr_db < below_db), None)
    groups = predictions(layers)
    deviations = [abs(one.deviation_db) for one in groups]
    worst = groups[0].deviation_db if groups else None
    middle = median(deviations) if deviations else None
    return Layers(tuple(layers), below_db, first, groups, middle, worst, largest_drop(model, layers))


def largest_drop(model: ModelProto, layers: Sequence[Layer]) -> Drop | None:
    """The place where ops make most of the errors that come in.

    Args:
        model: whose tensors the layers are, nodes in topological order.
    """
    known = {one.tensor: one for one in layers}
    made_of: dict[str, tuple[dict[str, None], dict[str, None]]] = {}  # by tensor: what it reads, and through what
    found: Drop | None = None
    for node in model.graph.node:
        reads: dict[str, None] = {}
        through: dict[str, None] = {}
        for name in node.input:
            if name in known:
                reads[name] = None
            else:
                further, ops = made_of.get(name, ({}, {}))
                reads |= further
                through |= ops
        through[node.op_type] = None
        made_of |= dict.fromkeys(node.output, (reads, through))
        for name in node.output:
            drop = (
                _drop(known[name], [known[one] for one in reads], tuple(through)) if name in known and reads else None
            )
            if drop is not None and drop.loss_db >= max(DROP_DB, found.loss_db if found else 0.0):
                found = drop
    return found


def _drop(layer: Layer, reads: Sequence[Layer], through: tuple[str, ...]) -> Drop | None:
    """What is lost on the way to a tensor; None where an SNR is not finite: no error, or no signal."""
    worst = min(reads, key=lambda one: one.agreement.snr_db)
    here, before = layer.agreement.snr_db, worst.agreement.snr_db
    if layer.measured_db is None or not isfinite(here) or not isfinite(before):
        return None
    loss = -here - 10 * log10(10 ** (-before / 10) + 10 ** (layer.measured_db / 10))
    return Drop(layer.tensor, here, worst.tensor, before, through, loss)


def predictions(layers: Iterable[Layer]) -> tuple[GroupPrediction, ...]:
    """Sum the noise of the tensors of each group; the worst deviation first, ties by id."""
    by_group: dict[str, list[Layer]] = {}
    for one in layers:
        if one.group is not None and one.predicted_db is not None and one.measured_db is not None:
            by_group.setdefault(one.group, []).append(one)
    found = []
    for group, members in by_group.items():
        predicted, measured = (
            _together([getattr(one, kind) for one in members]) for kind in ("predicted_db", "measured_db")
        )
        found.append(
            GroupPrediction(group, tuple(one.tensor for one in members), predicted, measured, measured - predicted)
        )
    return tuple(sorted(found, key=lambda one: (-abs(one.deviation_db), one.group)))


def _together(noises: Sequence[float | None]) -> float:
    power = sum(10 ** (one / 10) for one in noises if one is not None)
    return max(10 * log10(power) if power else NO_NOISE_DB, NO_NOISE_DB)


@dataclass(frozen=True, slots=True)
class _Made:
    tensor: str
    op: str
    record: TqcRecord
    encoding: Encoding

    @property
    def is_input(self) -> bool:
        return self.record.slot == graph_input(self.tensor)


def _made(model: ModelProto, run: RunData) -> list[_Made]:
    """The tensors that are quantized where they are made, but for constants, in the order of the model."""
    records = {one.tensor: one for one in run.tqcs if makes_its_tensor(one.slot) and one.role == "activation"}
    begins = [(value.name, "") for value in model.graph.input]
    begins += [(name, node.name) for node in model.graph.node for name in node.output]
    found = []
    for name, op in begins:
        encoding = encoding_of(records[name]) if name in records else None
        if encoding is not None:
            found.append(_Made(name, op, records[name], encoding))
    return found


def _compared(
    made: Sequence[_Made],
    model: ModelProto,
    quantize: Quantize,
    folder: Path,
    samples: Iterable[Sample],
    libraries: Sequence[Path],
    *,
    optimized: bool,
) -> list[Layer]:
    names = [one.tensor for one in made if not one.is_input]
    exposed = with_outputs(model, names)
    reference = InMemory(exposed.SerializeToString(), folder, "the float model")
    exported = InMemory(quantize(exposed).SerializeToString(), folder, "the exported model")
    float_session = open_session(reference, optimized=optimized, libraries=libraries)
    session = open_session(exported, optimized=optimized, libraries=libraries)
    together, alone = ({one.tensor: Sums() for one in made} for _ in range(2))
    for count, sample in enumerate(samples, start=1):
        expected = {**sample, **run_float(float_session, names, sample, count)}
        actual = dict(zip(names, session.run(names, dict(sample)), strict=True)) if names else {}
        for one in made:
            values = expected[one.tensor]
            quantized = fake_quantized(values, one.encoding)
            alone[one.tensor].add(values, quantized, one.tensor)
            together[one.tensor].add(values, np.asarray(actual.get(one.tensor, quantized)), one.tensor)
    return [_layer(one, together[one.tensor], alone[one.tensor]) for one in made]


def _layer(made: _Made, together: Sums, alone: Sums) -> Layer:
    agreement, measured = together.agreement(), alone.agreement()
    return Layer(
        tensor=made.tensor,
        op=made.op,
        group=made.record.group,
        agreement=agreement,
        error_in_steps=agreement.max_abs_error / max(made.encoding.scale),
        predicted_db=made.record.noise_db,
        measured_db=max(-measured.snr_db, NO_NOISE_DB) if measured.snr_db != -inf else None,
    )


def fake_quantized(values: NDArray[np.generic], encoding: Encoding) -> NDArray[np.generic]:
    """Values as QuantizeLinear and DequantizeLinear leave them, in float32.

    >>> code = Encoding("int8", -128, 127, None, (0.5,), (0,))
    >>> fake_quantized(np.array([0.3, 0.75, 99.0], "float32"), code).tolist()
    [0.5, 1.0, 63.5]
    """
    along = [1] * values.ndim
    if encoding.axis is not None:
        along[encoding.axis] = len(encoding.scale)
    scale = np.array(encoding.scale, "float32").reshape(along if values.ndim else ())
    offset = np.array(encoding.offset, "float32").reshape(along if values.ndim else ())
    low, high = bounds(encoding)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.clip(np.rint(values.astype("float32", copy=False) / scale), low - offset, high - offset)
    return np.asarray(steps * scale)


def bounds(encoding: Encoding) -> tuple[int, int]:
    """The integers that QuantizeLinear saturates to: of the whole type, unless the encoding needs a Clip."""
    if encoding.is_narrow:
        return encoding.quant_min, encoding.quant_max
    whole = np.iinfo(encoding.dtype)
    return int(whole.min), int(whole.max)
