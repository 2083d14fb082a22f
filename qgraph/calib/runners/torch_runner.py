"""Runs a torch module's exported program and returns the activations that a plan wants, on the device that made them.

The tensors of the ONNX model have the names of the program's nodes, so most are taken as they pass by. The rest lies
inside what torch runs as one op and ONNX writes as several, as attention. It is computed from what passed by::

    program   q ─┐                        in ONNX   q ─▶ MatMul ─▶ a ─▶ Softmax ─▶ b ─▶ MatMul ─▶ attention
              k ─┼─▶ attention                      k ───┘                              │
              v ─┘                                  v ──────────────────────────────────┘      a, b: computed

with torch where `qgraph.calib.runners.torch_ops` knows the ops, else with onnxruntime on the CPU. A tensor that has a
normalised op behind it (a Conv with its BatchNorm folded in) is that of the program's own ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec

from qgraph.calib.cpu.compiling import cpu_features
from qgraph.calib.runners.onnx_runner import OnnxRunner, failure
from qgraph.calib.runners.torch_ops import OPS, TorchOp
from qgraph.errors import DataError, UsageError
from qgraph.ir.elements import Op, Structure
from qgraph.ir.torch_import import TorchModel

Values = Mapping[str, Any]

THREADS = 1
"""Of one inference on the CPU: with more, results would depend on their number."""


class TorchRunner:
    """An exported program that returns the planned activations of each inference.

    It may be shared by threads; their inferences wait for each other, so one thread computes while another counts.

    Args:
        model: the program and its structure; neither is changed.
        tensors: the activations to return.
        device: ``cpu`` or ``cuda``; also ``cuda:1``.

    Raises:
        UsageError: there is no such device.
        ModelError: a tensor can be computed in no way.
    """

    def __init__(self, model: TorchModel, tensors: Sequence[str], *, device: str = "cpu") -> None:
        self.device = usable_device(device)
        self._tensors = tuple(tensors)
        self._program = model.program.graph_module
        self._specs = model.program.graph_signature.input_specs
        self._held = {
            spec.arg.name: _moved(_held(model.program, spec), self.device)
            for spec in self._specs
            if spec.kind != InputKind.USER_INPUT
        }
        passing = _passing(model)
        needed = _needed(model.imported.structure, tensors, passing)
        self._steps, left = _in_torch(needed, passing, model, self.device)
        self._captured = frozenset(passing)
        self._wanted = frozenset(tensors) | {name for op in needed for name in op.inputs if name is not None}
        self._beside = _Beside(left, model, [name for name in tensors if _made(left, name)]) if left else None
        self._threads = torch.get_num_threads()
        self._alone = Lock()  # torch's settings of threads and precision are the process's

    @property
    def environment(self) -> Mapping[str, str]:
        """What the bits of an activation depend on besides model and data."""
        found = {"runtime": "torch", "version": torch.__version__, "device": self.device.type}
        if self.device.type == "cuda":
            capability = torch.cuda.get_device_properties(self.device)
            found |= {
                "gpu": capability.name,
                "cuda": str(torch.version.cuda),
                "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
                "tf32": "off",
            }
        else:
            found |= {"threads": str(THREADS), "cpu": cpu_features()}
        if self._beside is not None:
            found |= {f"beside {key}": value for key, value in self._beside.runner.environment.items()}
        return MappingProxyType(found)

    @property
    def on_cpu(self) -> tuple[str, ...]:
        """Tensors that onnxruntime computes on the CPU, since torch's table of ops lacks what they need; sorted."""
        return () if self._beside is None else tuple(sorted(self._beside.outputs))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Run one inference.

        Args:
            inputs: an array for each graph input.

        Returns:
            An array for each planned tensor: numpy's on the CPU; on a GPU torch's, which are still there.

        Raises:
            DataError: the program fails on these inputs.
        """
        try:
            with self._alone, torch.inference_mode(), _reproducible(self.device, self._threads):
                values = self._values(inputs)
        except QGRAPH_ERRORS:
            raise
        except Exception as error:
            # Whatever an op of the program raises.
            raise failure(inputs, error) from error
        return {name: _handed_out(values[name]) for name in self._tensors}

    def _values(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        fed = {name: torch.tensor(array, device=self.device) for name, array in inputs.items()}
        values: dict[str, Any] = dict(fed)
        capture = _Capture(self._program, self._wanted & self._captured, values, self.device)
        capture.run(*(self._argument(spec, fed) for spec in self._specs), enable_io_processing=False)
        for step in self._steps:
            step(values)
        if self._beside is not None:
            self._beside(values)
        return values

    def _argument(self, spec: InputSpec, fed: Mapping[str, torch.Tensor]) -> Any:
        if spec.kind != InputKind.USER_INPUT:
            return self._held[spec.arg.name]
        return spec.arg.value if isinstance(spec.arg, ConstantArgument) else fed[spec.arg.name]


QGRAPH_ERRORS = (DataError, UsageError)
"""Raised inside a run with their own words."""


def usable_device(name: str) -> torch.device:
    """A device that torch can use here.

    Raises:
        UsageError: it is none of this machine's, or of a kind that qgraph does not count on.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError("unknown device", ascii(name), "use cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError("statistics are collected on cpu or cuda only", name, "use cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("torch finds no CUDA device here", name, "use --device cpu (device='cpu')")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UsageError("no such CUDA device", f"{name} of {torch.cuda.device_count()}", "use cuda")
    return device


class _Capture(torch.fx.Interpreter):
    """Runs a program and keeps some of the values that pass by, under the names of their nodes."""

    def __init__(
        self, program: torch.fx.GraphModule, wanted: frozenset[str], into: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__(program)
        self._wanted = wanted
        self._into = into
        self._device = device

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("device") is not None:  # arange, full, …: written for the device of the export
            kwargs = {**kwargs, "device": self._device}
        return super().call_function(target, args, kwargs)

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op == "call_function" and "assert" in str(n.target):
            return None  # of the example's shapes: samples are run one by one, whatever the example was
        value = super().run_node(n)
        if n.name in self._wanted:
            self._into[n.name] = value
        return value


class _Beside:
    """Ops that only onnxruntime can run, as a model of their own."""

    def __init__(self, ops: Sequence[Op], model: TorchModel, outputs: Sequence[str]) -> None:
        made = {name for op in ops for name in op.outputs if name is not None}
        proto = model.imported.proto
        constants = {tensor.name for tensor in proto.graph.initializer}
        read = sorted({name for op in ops for name in op.inputs if name is not None} - made - constants)
        types = {value.name: value for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)}
        names = {op.name for op in ops}
        graph = onnx.GraphProto(
            name="beside",
            node=[node for node in proto.graph.node if node.name in names],
            input=[types[name] for name in read],
            initializer=[tensor for tensor in proto.graph.initializer if _is_read(tensor.name, ops)],
        )
        part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph)
        self._inputs = read
        self.outputs = tuple(outputs)
        self.runner = OnnxRunner(part, self.outputs, folder=model.imported.folder)

    def __call__(self, values: dict[str, Any]) -> None:
        values.update(self.runner.run({name: values[name].cpu().numpy() for name in self._inputs}))


def _is_read(name: str, ops: Sequence[Op]) -> bool:
    return any(name in op.inputs for op in ops)


def _made(ops: Sequence[Op], name: str) -> bool:
    return any(name in op.outputs for op in ops)


def _held(program: ExportedProgram, spec: InputSpec) -> Any:
    """The parameter, buffer or constant that an input of the program stands for."""
    target = spec.target or ""
    return program.state_dict[target] if target in program.state_dict else program.constants[target]


def _moved(value: Any, device: torch.device) -> Any:
    return value.detach().to(device) if isinstance(value, torch.Tensor) else value


def _passing(model: TorchModel) -> frozenset[str]:
    """Tensors of the structure that the program makes, and the graph's inputs. Sizes are no tensors in the program."""
    made = {node.name for node in model.program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    known = {tensor.name for tensor in model.imported.structure.tensors if not tensor.constant}
    return frozenset((made & known) | set(model.imported.structure.inputs))


def _needed(structure: Structure, tensors: Sequence[str], passing: frozenset[str]) -> list[Op]:
    """The ops that make the wanted tensors which do not pass by, from those that do; in the order of the model."""
    wanted = {name for name in tensors if name not in passing}
    found = []
    for op in reversed(structure.ops):
        if any(name in wanted for name in op.outputs):
            found.append(op)
            wanted.update(name for name in op.inputs if name is not None and name not in passing)
    return found[::-1]


def _in_torch(
    ops: Sequence[Op], passing: frozenset[str], model: TorchModel, device: torch.device
) -> tuple[list[Callable[[dict[str, Any]], None]], list[Op]]:
    """The ops that torch's table can run, and those that are left."""
    constants = {tensor.name for tensor in model.imported.structure.tensors if tensor.constant}
    available = set(passing) | constants
    steps: list[Callable[[dict[str, Any]], None]] = []
    left = []
    for op in ops:
        known = op.domain == "" and op.type in OPS and all(name in available for name in op.inputs if name is not None)
        if not known:
            left.append(op)
            continue
        held = {name: _constant(model, name, device) for name in op.inputs if name in constants}
        steps.append(_Step(op, OPS[op.type], held))
        available.update(name for name in op.outputs if name is not None)
    return steps, left


def _constant(model: TorchModel, name: str, device: torch.device) -> torch.Tensor:
    """A constant; integers stay on the CPU, where shapes are computed."""
    array = np.array(model.imported.constant(name))
    return torch.from_numpy(array).to(device) if array.dtype.kind == "f" else torch.from_numpy(array)


class _Step:
    """One op of the table with its constants."""

    def __init__(self, op: Op, function: TorchOp, held: Mapping[str, torch.Tensor]) -> None:
        self._op = op
        self._function = function
        self._held = held

    def __call__(self, values: dict[str, Any]) -> None:
        sources = [None if name is None else self._held.get(name, values.get(name)) for name in self._op.inputs]
        made = self._function(sources, self._op.attributes)
        made = made if isinstance(made, tuple) else (made,)
        values.update((name, value) for name, value in zip(self._op.outputs, made, strict=False) if name is not None)


def _handed_out(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16


@contextmanager
def _reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """One thread on the CPU; on a GPU full float32 arithmetic, by algorithms that are not chosen by a race."""
    if device.type == "cpu":
        torch.set_num_threads(THREADS)  # of this thread
        try:
            yield
        finally:
            torch.set_num_threads(threads)
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
