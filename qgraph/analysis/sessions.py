"""Models opened in onnxruntime, and one run of one on a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from qgraph.calib.runners.op_libraries import register, unregistered
from qgraph.errors import DataError, ModelError, QgraphError
from qgraph.ir.onnx_tensors import external_folder_entry

Sample = Mapping[str, NDArray[np.generic]]
"""One array per graph input."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""onnxruntime's names of types, and numpy's."""

FATAL_ONLY = 4
"""onnxruntime's log level; every error is raised as well, and said once."""

TRIAL_SIZES = (1, 32, 224)
"""What to try for dynamic dimensions: small, a multiple of the usual strides, the usual image."""


@dataclass(frozen=True)
class InMemory:
    """A model that is in no file.

    Attributes:
        serialized: the model, without its external weights.
        folder: where those lie.
        name: for errors.
    """

    serialized: bytes
    folder: Path
    name: str

    def __str__(self) -> str:
        return self.name


def open_session(
    model: Path | InMemory, *, optimized: bool = True, libraries: Sequence[Path] = (), threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Open a model for the CPU.

    Args:
        model: a file, or a model in memory.
        optimized: onnxruntime's default optimisation, which turns Q/DQ into integer kernels; without it every node
            runs as it is written.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.
        threads: that one inference uses; None for as many as there are cores.

    Raises:
        ModelError: onnxruntime cannot load the model.
        UsageError: a library cannot be loaded.
    """
    try:
        return _session(model, optimized=optimized, libraries=libraries, threads=threads)
    except QgraphError:
        raise
    except Exception as error:  # the runtime's errors have no common class
        reason = " ".join(str(error).split())
        raise ModelError("onnxruntime cannot load the model", f"{model}: {reason}", "check the model") from error


def run_float(
    session: onnxruntime.InferenceSession, names: Sequence[str], sample: Sample, position: int
) -> dict[str, NDArray[np.generic]]:
    """Outputs of the float model by name.

    Raises:
        DataError: it does not take the sample.
    """
    try:
        found = session.run(list(names), dict(sample))
    except Exception as error:  # the runtime's errors have no common class
        reason = " ".join(str(error).split())
        raise DataError("the model does not take a sample", f"sample {position}: {reason}", "check the data") from error
    return {name: np.asarray(one) for name, one in zip(names, found, strict=True)}


def run_once(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, *, libraries: Sequence[Path] = ()
) -> None:
    """Run a model once on zeros, at default optimisation, to see that it runs.

    Args:
        shapes: of the inputs, by name. Where they are not known, dynamic dimensions have the first of `TRIAL_SIZES`
            that the model takes, the first dimension of an input always 1.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.

    Raises:
        ModelError: the model has an op that nobody registered.
        UsageError: a library cannot be loaded.
        DataError: an input's type has no zeros.
        Exception: whatever onnxruntime raises when it cannot load or run the file.
    """
    session = _session(path, optimized=True, libraries=libraries)
    if shapes:
        session.run(None, {value.name: np.zeros(shapes[value.name], _dtype(value)) for value in session.get_inputs()})
        return
    failures: list[Exception] = []
    for size in TRIAL_SIZES:
        feed = {value.name: _zeros(value, size) for value in session.get_inputs()}
        try:
            session.run(None, feed)
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no common class; the first is raised below
            failures.append(error)
        else:
            return
    raise failures[0]


def with_outputs(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """A copy of a model with further outputs, whose types the runtime infers where the model does not tell them."""
    proto = ModelProto()
    proto.CopyFrom(model)
    known = {value.name for value in proto.graph.output}
    described = {value.name: value for value in proto.graph.value_info}
    proto.graph.output.extend(
        described.get(name, ValueInfoProto(name=name)) for name in dict.fromkeys(tensors) if name not in known
    )
    return proto


def _session(
    model: Path | InMemory, *, optimized: bool, libraries: Sequence[Path], threads: int | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    register(options, libraries)
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0  # 0: onnxruntime's choice
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source: bytes | str = str(model)
    if isinstance(model, InMemory):
        options.add_session_config_entry(*external_folder_entry(model.folder))
        source = model.serialized
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common class
        if (lacking := unregistered(error)) is not None:
            raise lacking from error
        raise


def _zeros(value: onnxruntime.NodeArg, dynamic: int) -> NDArray[np.generic]:
    sizes = [size if isinstance(size, int) else dynamic if axis else 1 for axis, size in enumerate(value.shape)]
    return np.zeros(sizes, _dtype(value))


def _dtype(value: onnxruntime.NodeArg) -> str:
    dtype = DTYPES.get(value.type)
    if dtype is None:
        raise DataError("cannot make up an input", f"{value.name} of type {value.type}", "export a model without it")
    return dtype
