"""Runs an ONNX model with onnxruntime and returns the activations that a plan wants.

The wanted tensors are added to the model's outputs, in one session at full optimisation. There a convolution may be
computed in another layout, or not, depending on which tensors are wanted beside it; so the session of a model and a
plan is always the same one, whatever part of its results is used, and the plan belongs to a calibration's identity.
One sample at a time is run in one thread: with more, onnxruntime cuts a convolution into pieces whose borders are
rounded differently, so results would depend on the machine's number of cores. Speed comes from running several
inferences at a time.

On a GPU the activations stay there: they are bound to its memory and handed on as torch tensors, without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray

from qgraph.calib.cpu.compiling import cpu_features
from qgraph.calib.runners import op_libraries
from qgraph.errors import DataError, ModelError, UsageError
from qgraph.ir.onnx_tensors import external_folder_entry

PROVIDERS = MappingProxyType({"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"})
"""By device."""

OPTIONS = MappingProxyType(
    {"CPUExecutionProvider": {}, "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}}
)
"""By provider: full float32 arithmetic, by algorithms that are not chosen by a race."""

LEVEL = "all"
"""Of graph optimisation: a third less time than ``basic`` on MobileNetV2, and as reproducible in one session."""

THREADS = 1
"""Of one inference: with more, results would depend on their number."""

_FATAL_ONLY = 4


class OnnxRunner:
    """A session that returns the planned activations of each inference. It may be shared by threads.

    Args:
        model: the normalised model; it is not changed.
        tensors: the activations to return; graph inputs among them are returned as they are fed.
        folder: where external data of the model lies.
        device: ``cpu``, or ``cuda`` with the package onnxruntime-gpu.
        libraries: shared libraries with the model's custom ops; see `qgraph.calib.runners.op_libraries`.

    Raises:
        ModelError: onnxruntime does not accept the model.
        UsageError: this onnxruntime cannot run on that device, or a library cannot be loaded.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Sequence[str],
        *,
        folder: Path | None = None,
        device: str = "cpu",
        libraries: Sequence[Path] = (),
    ) -> None:
        self._provider = _provider(device)
        self._on_gpu = device != "cpu"
        fed = {value.name for value in model.graph.input}
        self._echoed = [name for name in tensors if name in fed]
        self._outputs = [name for name in tensors if name not in fed]
        self._session = _session(_exposed(model, self._outputs), folder, self._provider, libraries)
        # Without libraries nothing is said of them: what calibrations are known by does not change.
        self._libraries = {"op_libraries": op_libraries.content_digest(libraries)} if libraries else {}

    @property
    def environment(self) -> Mapping[str, str]:
        """What the bits of an activation depend on besides model and data."""
        return MappingProxyType(
            {
                "runtime": "onnxruntime",
                "version": onnxruntime.__version__,
                "provider": self._provider,
                "level": LEVEL,
                "threads": str(THREADS),
                "cpu": cpu_features(),
                **self._libraries,
            }
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Run one inference.

        Args:
            inputs: an array for each graph input.

        Returns:
            An array for each planned tensor; from a GPU a torch tensor that is still there.

        Raises:
            DataError: onnxruntime fails on these inputs.
        """
        try:
            values = self._values(inputs) if self._outputs else []
        except Exception as error:
            # onnxruntime raises classes of its own with no common base.
            raise failure(inputs, error) from error
        results = dict(zip(self._outputs, values, strict=True))
        results.update({name: inputs[name] for name in self._echoed})
        return results

    def _values(self, inputs: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        if not self._on_gpu:
            values: Sequence[Any] = self._session.run(self._outputs, dict(inputs))
            return values
        from torch.utils.dlpack import from_dlpack  # only a GPU needs it

        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs:
            binding.bind_output(name, "cuda")
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return [from_dlpack(value._ortvalue.to_dlpack()) for value in binding.get_outputs()]


def _provider(device: str) -> str:
    """The provider for a device.

    Raises:
        UsageError: it is unknown, or this onnxruntime does not have it.
    """
    if device not in PROVIDERS:
        raise UsageError("unknown device for an ONNX model", ascii(device), "use cpu or cuda")
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        cure = "install onnxruntime-gpu in place of onnxruntime, or use --device cpu (device='cpu')"
        raise UsageError("this onnxruntime has no CUDA provider", f"onnxruntime {onnxruntime.__version__}", cure)
    return PROVIDERS[device]


def _exposed(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The serialised model with these tensors among its outputs.

    Protobuf messages merge by concatenation, so neither the model is changed nor its weights are copied twice.
    onnxruntime infers the types of outputs that have none.
    """
    present = {value.name for value in model.graph.output}
    added = [onnx.ValueInfoProto(name=name) for name in tensors if name not in present]
    outputs = onnx.ModelProto(graph=onnx.GraphProto(output=added))
    try:
        return bytes(model.SerializeToString()) + bytes(outputs.SerializeToString())
    except Exception as error:
        # protobuf's own error type, from a package that is not a dependency of ours.
        cure = "save its weights as external data"
        raise ModelError("a model too large to be run from memory", f"{model.graph.name} ({error})", cure) from error


def _session(
    model: bytes, folder: Path | None, provider: str, libraries: Sequence[Path]
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    op_libraries.register(options, libraries)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = THREADS
    if folder is not None:
        options.add_session_config_entry(*external_folder_entry(folder))
    try:
        return onnxruntime.InferenceSession(model, options, providers=[(provider, OPTIONS[provider])])
    except Exception as error:
        # onnxruntime raises classes of its own with no common base.
        if (lacking := op_libraries.unregistered(error)) is not None:
            raise lacking from error
        cure = "check that the model runs in onnxruntime"
        raise ModelError("onnxruntime does not accept the model", str(error), cure) from error


def failure(inputs: Mapping[str, NDArray[Any]], error: Exception) -> DataError:
    """What is told of a model that fails on these inputs, by name."""
    return DataError(
        "the model fails on this data",
        f"{', '.join(f'{name} {array.dtype}{list(array.shape)}' for name, array in inputs.items())} ({error})",
        "check its shapes and types against what the model can take",
    )
