"""Golden values of a quantized model: what every quantized tensor holds on some samples, to compare a device with.

::

    folder/model.onnx        the quantized model
           manifest.json     its tensors in its order: integer type, scale, zero point
           0000.inputs.npz   a sample as it is fed, by input
           0000.float.npz    the float model's outputs
           0000.npz          the integers of every quantized tensor, and the outputs that are not quantized, by name

A device's own values are compared as integers; floats are first put into steps of the tensor's scale.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

from qgraph.analysis.sessions import InMemory, Sample, open_session, run_float
from qgraph.errors import DataError, NotFoundError

MODEL, MANIFEST = "model.onnx", "manifest.json"
"""The names of files."""

SCHEMA = 1

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class GoldenTensor:
    """A tensor whose values are in the files.

    Attributes:
        name: of the float model; with ``/requantized`` behind it where a reader takes other parameters.
        integers: the name in the quantized model; None for an output that is not quantized.
        axis: of the channels; None where there is one scale.
    """

    name: str
    integers: str | None
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """How a tensor of a device differs, over all samples.

    Attributes:
        different: how many of the values.
        largest: difference, in steps of the scale; None for floats.
        largest_error: difference of an output that is not quantized; None for integers.
    """

    name: str
    values: int
    different: int
    largest: int | None
    largest_error: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Attributes:
        first: the first tensor that is further off than `tolerance` steps, in the model's order.
        tensors: that are in both, in the model's order.
        missing: that the device did not write.
        unknown: that the model does not have.
    """

    samples: int
    tolerance: int
    first: str | None
    tensors: tuple[Difference, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def golden_tensors(exported: ModelProto, own: Iterable[str]) -> tuple[GoldenTensor, ...]:
    """The quantized tensors of an exported model in its order, and its outputs that are not quantized.

    Args:
        own: the names of the float model's ops: what they quantize is not the export's.
    """
    ops, constants = set(own), {tensor.name: tensor for tensor in exported.graph.initializer}
    clipped = {node.input[0]: node.output[0] for node in exported.graph.node if node.op_type == "Clip"}
    dequantized: dict[str, str] = {}
    found = []
    for node in exported.graph.node:
        if node.name in ops:
            continue
        if node.op_type == "QuantizeLinear":
            scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            found.append(
                GoldenTensor(
                    node.name.removesuffix("/QuantizeLinear"),
                    clipped.get(node.output[0], node.output[0]),
                    str(zero_point.dtype),
                    tuple(map(float, scale.reshape(-1))),
                    tuple(map(int, zero_point.reshape(-1))),
                    _axis(node) if scale.ndim else None,
                )
            )
        elif node.op_type == "DequantizeLinear":
            dequantized[node.output[0]] = node.input[0]
    plain = [value.name for value in exported.graph.output if value.name not in dequantized]
    return (*found, *(GoldenTensor(name, None, "") for name in plain))


def _axis(node: NodeProto) -> int:
    return next((one.i for one in node.attribute if one.name == "axis"), 1)


def write_golden(
    folder: Path,
    exported: ModelProto,
    tensors: Sequence[GoldenTensor],
    reference: Path | InMemory,
    samples: Sequence[Sample],
    about: Mapping[str, str],
    *,
    weights: Path,
    libraries: Sequence[Path] = (),
) -> None:
    """Run both models on samples, every node as it is written, and write all but the model.

    Args:
        exported: the quantized model.
        tensors: of it, see `golden_tensors`.
        about: goes into the manifest.
        weights: the folder of external data.
        libraries: with the model's custom ops.

    Raises:
        ModelError: a model cannot be loaded.
        DataError: the float model does not take a sample.
    """
    integers = {one.integers or one.name: one.name for one in tensors}
    model = ModelProto()
    model.CopyFrom(exported)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in integers if name not in known)
    quantized = open_session(InMemory(model.SerializeToString(), weights, MODEL), optimized=False, libraries=libraries)
    plain = open_session(reference, optimized=False, libraries=libraries)
    outputs = [value.name for value in plain.get_outputs()]
    for number, sample in enumerate(samples):
        expected = run_float(plain, outputs, sample, number + 1)
        found = dict(zip(integers.values(), quantized.run(list(integers), dict(sample)), strict=True))
        for end, arrays in ((".inputs", sample), (".float", expected), ("", found)):
            _write(folder / f"{number:04}{end}.npz", arrays)
    document = {
        "schema": SCHEMA,
        **about,
        "model": MODEL,
        "samples": len(samples),
        "inputs": {value.name: list(np.shape(samples[0][value.name])) for value in plain.get_inputs()},
        "outputs": outputs,
        "tensors": [asdict(one) for one in tensors],
    }
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """An ``.npz`` whose arrays can have any name; `numpy.savez` takes none that is one of its own arguments."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def compare_golden(golden: str | Path, actual: str | Path, *, tolerance: int = 0) -> Comparison:
    """Compare what a device made of the samples.

    Args:
        golden: a folder that ``qgraph golden`` or `Run.golden` wrote.
        actual: a folder with the device's ``0000.npz`` and so on: integers or floats by name, as many as it has.
        tolerance: how many steps off is still taken for equal.

    Raises:
        NotFoundError: a folder without its files.
        DataError: a file is not as it should be, a shape is another, or there is nothing to compare.
    """
    golden, actual = Path(golden), Path(actual)
    tensors = _manifest(golden)
    sums = {one.name: _Sum(one) for one in tensors}
    unknown: dict[str, None] = {}
    count = 0
    for file in sorted(actual.glob("[0-9]*.npz")):
        if not file.stem.isdigit():
            continue
        if not (golden / file.name).is_file():
            raise NotFoundError("no golden values of a sample", str(golden / file.name), "compare the samples there")
        expected, found = _read(golden / file.name), _read(file)
        count += 1
        for name, array in found.items():
            if name in expected and name in sums:
                sums[name].add(expected[name], array, str(file))
            else:
                unknown[name] = None
    if not count:
        raise NotFoundError("no values of a device", f"{actual}/0000.npz", "write one .npz for each sample, by name")
    both = [one.difference(tolerance) for one in sums.values() if one.values]
    if not both:
        raise DataError("no tensor of the model among the device's", str(actual), f"use the names of {MANIFEST}")
    first = next((name for one, is_off in both if is_off for name in [one.name]), None)
    missing = tuple(name for name, one in sums.items() if not one.values)
    return Comparison(count, tolerance, first, tuple(one for one, _ in both), missing, tuple(unknown))


def _manifest(folder: Path) -> list[GoldenTensor]:
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return [
            GoldenTensor(**{**one, "scale": tuple(one["scale"]), "zero_point": tuple(one["zero_point"])})
            for one in document["tensors"]
        ]
    except OSError as error:
        raise NotFoundError("no golden values", str(folder / MANIFEST), "write them with qgraph golden") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("not a manifest of golden values", str(folder / MANIFEST), "write it anew") from error


def _read(file: Path) -> Arrays:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError("not an .npz of plain arrays", str(file), "write it with numpy.savez") from error


class _Sum:
    """Counts the differences of one tensor. State: the counts."""

    def __init__(self, tensor: GoldenTensor) -> None:
        self._tensor = tensor
        self.values = self._different = 0
        self._largest = 0.0

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic], where: str) -> None:
        """Count the values of one sample."""
        name = self._tensor.name
        if expected.shape != actual.shape or not np.issubdtype(actual.dtype, np.number):
            shapes = (
                f"{name} in {where}: {actual.dtype}{list(actual.shape)}, not {expected.dtype}{list(expected.shape)}"
            )
            raise DataError("another shape or type", shapes, "write the values in the layout of the ONNX model")
        is_steps = self._tensor.integers is not None and np.issubdtype(actual.dtype, np.floating)
        given = self._steps(actual) if is_steps else actual.astype("float64")
        distance = np.abs(given - expected.astype("float64"))
        distance[np.isnan(distance)] = np.inf
        self.values += distance.size
        self._different += int(np.count_nonzero(distance))
        self._largest = max(self._largest, float(distance.max(initial=0.0)))

    def _steps(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Floats as integers of the tensor's scale."""
        one = self._tensor
        scale, zero_point = np.array(one.scale), np.array(one.zero_point, "float64")
        if one.axis is not None:
            along = [-1 if axis == one.axis % values.ndim else 1 for axis in range(values.ndim)]
            scale, zero_point = scale.reshape(along), zero_point.reshape(along)
        return np.asarray(np.rint(values.astype("float64") / scale + zero_point))

    def difference(self, tolerance: int) -> tuple[Difference, bool]:
        """What was counted, and whether it is more than is tolerated; of floats none is."""
        one = self._tensor
        if one.integers is None:
            return Difference(one.name, self.values, self._different, None, self._largest), False
        largest = int(min(self._largest, np.iinfo("int64").max))
        return Difference(one.name, self.values, self._different, largest, None), self._largest > tolerance
