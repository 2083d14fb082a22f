"""A model cut behind some of its tensors, so that it can be run piece by piece over many samples.

Each node runs once for each sample, whatever the number of pieces; between two pieces the tensors that are still
needed wait in memory, where they may be changed::

    x ─▶ [ Conv ] ─▶ a ─▶ [ Relu, Conv ] ─▶ b ─▶ [ Add ] ─▶ y
                     │                               ▲
                     └───────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from qgraph.calib.runners.op_libraries import register, unregistered
from qgraph.calib.side_by_side import side_by_side
from qgraph.ir.onnx_tensors import external_folder_entry

Values = MutableMapping[str, NDArray[Any]]
"""The tensors of one sample that are still needed, by name."""

FATAL_ONLY = 4
"""onnxruntime's log level."""


@dataclass(frozen=True)
class Piece:
    """Nodes that follow each other.

    Attributes:
        end: the tensor behind which it was cut; None for the last piece.
        inputs: the tensors that it takes of those made before.
        outputs: the tensors that it makes and that are needed later.
        forgotten: the tensors that nothing needs once it has run.
    """

    model: ModelProto
    end: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    forgotten: tuple[str, ...]


def cut(model: ModelProto, ends: Sequence[str]) -> list[Piece]:
    """Cut a model behind the nodes that make these tensors.

    Args:
        model: nodes in topological order.
    """
    graph, wanted = model.graph, set(ends)
    parts: list[list[NodeProto]] = [[]]
    closed: list[str | None] = []
    for node in graph.node:
        parts[-1].append(node)
        found = [name for name in node.output if name in wanted]
        if found:
            closed.append(found[0])
            parts.append([])
    if not parts[-1]:
        parts.pop()
    else:
        closed.append(None)
    outputs = {value.name for value in graph.output}
    last = {name: index for index, part in enumerate(parts) for node in part for name in reads(node)}
    last |= dict.fromkeys(outputs, len(parts))
    constants = {tensor.name: tensor for tensor in graph.initializer}
    known = {value.name for value in graph.input}
    pieces = []
    for index, (part, end) in enumerate(zip(parts, closed, strict=True)):
        read = dict.fromkeys(name for node in part for name in reads(node))
        made = dict.fromkeys(name for node in part for name in node.output if name)
        inputs = tuple(name for name in read if name in known)
        kept = tuple(name for name in made if last.get(name, -1) > index or name == end)
        known.update(made)
        gone = tuple(name for name in (*inputs, *kept) if last.get(name, -1) <= index)
        pieces.append(Piece(_model(model, part, read, constants), end, inputs, kept, gone))
    return pieces


def reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that the bodies of control flow take from outside included."""
    pending = [node]
    while pending:
        one = pending.pop()
        yield from filter(None, one.input)
        for attribute in one.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                pending.extend(body.node)


def _model(
    model: ModelProto, nodes: Sequence[NodeProto], read: Mapping[str, None], constants: Mapping[str, Any]
) -> ModelProto:
    """The nodes as a model of their own, but for its inputs and outputs."""
    graph = GraphProto(name=model.graph.name, node=nodes)
    graph.initializer.extend(constants[name] for name in read if name in constants)
    piece = ModelProto(graph=graph, opset_import=model.opset_import, ir_version=model.ir_version)
    piece.functions.extend(model.functions)
    return piece


class Runner:
    """Runs the pieces in turn over the same samples.

    Args:
        folder: where external data of the model lies.
        libraries: with the model's custom ops; see `qgraph.calib.runners.op_libraries`.
    """

    def __init__(self, folder: Path, libraries: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._libraries = libraries

    def step(self, piece: Piece, samples: Sequence[Values]) -> None:
        """Run one piece: what it makes is added to the tensors of each sample."""
        session = self._session(piece, samples[0])

        def run(values: Values) -> None:
            made = session.run(list(piece.outputs), {name: values[name] for name in piece.inputs})
            values.update(zip(piece.outputs, made, strict=True))

        side_by_side(run, samples)

    @staticmethod
    def forget(piece: Piece, samples: Sequence[Values]) -> None:
        """Let go of the tensors that nothing needs any more."""
        for values in samples:
            for name in piece.forgotten:
                values.pop(name, None)

    def _session(self, piece: Piece, sample: Values) -> onnxruntime.InferenceSession:
        model = ModelProto()
        model.CopyFrom(piece.model)
        for name in piece.inputs:
            dtype = helper.np_dtype_to_tensor_dtype(sample[name].dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, dtype, None))
        model.graph.output.extend(ValueInfoProto(name=name) for name in piece.outputs)  # their types are inferred
        options = onnxruntime.SessionOptions()
        register(options, self._libraries)
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = 1
        # Without integer kernels: what a node is written to compute, with the constants dequantized once.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry(*external_folder_entry(self._folder))
        try:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            if (lacking := unregistered(error)) is not None:
                raise lacking from error
            raise


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the tensors of one sample take, in bytes.

    Attributes:
        peak: the most at once, between two pieces.
        made: all that pieces make for others, together.
    """

    peak: int
    made: int


def footprint(
    model: ModelProto, ends: Sequence[str], sample: Values, folder: Path, libraries: Sequence[Path] = ()
) -> Footprint:
    """What the tensors of one sample take while the model is run in pieces."""
    runner, values, peak, made = Runner(folder, libraries), dict(sample), 1, 0
    for piece in cut(model, ends):
        runner.step(piece, [values])
        peak = max(peak, sum(array.nbytes for array in values.values()))
        made += sum(values[name].nbytes for name in piece.outputs)
        runner.forget(piece, [values])
    return Footprint(peak, made)
