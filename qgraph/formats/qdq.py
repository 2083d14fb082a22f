"""A run as QDQ ONNX: the float model with QuantizeLinear and DequantizeLinear where the run's groups say.

Per tensor, A being the parameters of the slot that makes it and B those of a slot that reads it::

    producer ──T──▶ Q(A) ──▶ DQ(A) ──┬──────────────────────▶ readers with A, float readers
                                     └──▶ Q(B) ──▶ DQ(B) ──▶ readers with B (a requantize)

- A float reader takes the dequantized tensor if the producer is quantized (its integer kernel makes nothing
  else), and T itself if the producer is a float op or the graph's input.
- A tensor that is made per channel, or with a weight that stays float, passes through a Sum of one before its Q, see
  `encoding.unfused_node`.
- A constant becomes an integer initializer and DQ, from its float values once per encoding that is read.
- A graph output keeps its name: the tensor that it reads is called T, the raw one ``T/float``.

onnxruntime turns this into integer kernels at its default optimisation; on x86 it does so for int8 activations only
with the session entry ``session.qdqisint8allowed`` = ``1``, for uint8 always.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qgraph.errors import ExportError, ModelError
from qgraph.formats.encoding import (
    OPSET_OF_DTYPE,
    SUFFIXES,
    Encoding,
    Pair,
    dequantize_node,
    encoding_of,
    parameters,
    quantize,
    quantize_nodes,
    unfused_node,
)
from qgraph.ir import slots
from qgraph.ir.onnx_light import convert_opset
from qgraph.ir.onnx_tensors import read_array
from qgraph.solve.run import RunData

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""Ops whose float weight onnxruntime would quantize, per tensor, between a DequantizeLinear and a QuantizeLinear."""

FLOAT = None
"""The encoding of a reader that stays float."""

GROUPS_KEY = "qgraph.groups"
"""Metadata key: JSON object from tensor to the id of its group."""


def to_qdq(proto: ModelProto, run: RunData, metadata: Mapping[str, str], folder: Path | None = None) -> ModelProto:
    """The model with the run's scales in it, at the lowest opset that can say them.

    Args:
        proto: the normalised model that the run was solved for, opset 13 or above; it is not changed.
        run: a run with scales.
        metadata: added to the model's own metadata, together with `GROUPS_KEY`.
        folder: where external data of `proto` lies; needed only if a quantized constant is external.

    Returns:
        A new model. The same arguments give the same bytes.

    Raises:
        ExportError: the run has no scales or is of another model, or ONNX cannot say one of its encodings.
    """
    encodings = {record.slot: code for record in run.tqcs if (code := encoding_of(record)) is not None}
    if not encodings:
        what, cure = "nothing is quantized on this target", "see qgraph scales for the reasons"
        if run.settings.observer is None:
            what, cure = "the run has no scales", "solve it with an observer"
        raise ExportError(what, run.settings.target, cure)
    model = _at_opset(proto, max(OPSET_OF_DTYPE[code.dtype] for code in encodings.values()))
    reading = _read(model.graph, encodings)
    _check_same_model(model.graph, reading)
    _rewrite(model.graph, reading, _Placer(reading, model.graph, folder))
    _write_metadata(model, {GROUPS_KEY: _groups(run), **metadata})
    return model


def _groups(run: RunData) -> str:
    groups = {tensor: group.id for group in run.grouping.groups for tensor in group.tensors}
    return json.dumps(groups, sort_keys=True)


def _write_metadata(model: ModelProto, metadata: Mapping[str, str]) -> None:
    merged = {entry.key: entry.value for entry in model.metadata_props} | dict(metadata)
    helper.set_model_props(model, dict(sorted(merged.items())))
    model.producer_name = "qgraph"
    model.producer_version = ""


def _at_opset(proto: ModelProto, minimum: int) -> ModelProto:
    """A copy of the model at `minimum` or its own opset, whichever is higher, with an IR version that has it."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= minimum:
        model = ModelProto()
        model.CopyFrom(proto)
    else:
        try:
            model = convert_opset(proto, minimum, proto.graph.name)
        except ModelError as error:
            raise ExportError(error.what, error.which, "use at most 8 bits") from error
    minimum_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, minimum_version)
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}@{next(filter(None, node.output), '')}"
    return model


@dataclass
class _Reading:
    """How every tensor of the graph is made and read.

    Attributes:
        encodings: per slot, those of the run.
        producer: per tensor, the slot that makes it.
        readers: per tensor, the encodings it is read with (`FLOAT` too), in order of first use.
        quantized_ops: names of ops that run on integers.
        float_weighted: tensors that one of `WEIGHTED` makes of quantized data with a float weight, or a Relu or Clip
            of such a tensor.
    """

    encodings: Mapping[str, Encoding]
    producer: dict[str, str] = field(default_factory=dict)
    readers: dict[str, dict[Encoding | None, None]] = field(default_factory=dict)
    quantized_ops: set[str] = field(default_factory=set)
    float_weighted: set[str] = field(default_factory=set)

    def read(self, tensor: str, encoding: Encoding | None) -> None:
        self.readers.setdefault(tensor, {})[encoding] = None

    def made_with(self, tensor: str) -> Encoding | None:
        return self.encodings.get(self.producer[tensor])

    def made_by_integers(self, tensor: str) -> bool:
        return slots.parts(self.producer[tensor]).op in self.quantized_ops


def _read(graph: GraphProto, encodings: Mapping[str, Encoding]) -> _Reading:
    reading = _Reading(encodings)
    reading.producer.update((value.name, slots.graph_input(value.name)) for value in graph.input)
    reading.producer.update((tensor.name, slots.graph_constant(tensor.name)) for tensor in graph.initializer)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name:
                reading.read(name, encodings.get(slots.input_slot(node.name, index)))
        for name in _captured(node):
            if name in reading.producer:
                reading.read(name, FLOAT)
        if _keeps_float_weight(node, reading):
            reading.float_weighted.update(node.output)
        if _runs_on_integers(node, reading):
            reading.quantized_ops.add(node.name)
        reading.producer.update((name, slots.output_slot(node.name, i)) for i, name in enumerate(node.output) if name)
    for value in graph.output:
        reading.read(value.name, _output_encoding(value.name, reading))
    return reading


def _runs_on_integers(node: NodeProto, reading: _Reading) -> bool:
    """Whether an op reads quantized data, or ends a fused pair: nothing is quantized between it and such an op."""
    incoming = [(slots.input_slot(node.name, index), name) for index, name in enumerate(node.input) if name]
    if any(slot in reading.encodings for slot, _ in incoming):
        return True
    ends_quantized = any(slots.output_slot(node.name, i) in reading.encodings for i in range(len(node.output)))
    return ends_quantized and any(
        reading.made_by_integers(name) and reading.made_with(name) is FLOAT for _, name in incoming
    )


def _keeps_float_weight(node: NodeProto, reading: _Reading) -> bool:
    """Whether what an op makes belongs to `_Reading.float_weighted`."""
    if node.op_type in ("Relu", "Clip"):
        return node.input[0] in reading.float_weighted
    if node.op_type not in WEIGHTED or reading.producer.get(node.input[1]) != slots.graph_constant(node.input[1]):
        return False
    data, weight = (slots.input_slot(node.name, index) for index in range(2))
    return data in reading.encodings and weight not in reading.encodings


def _output_encoding(tensor: str, reading: _Reading) -> Encoding | None:
    """The encoding that a graph output is returned with. One that is a graph input as well has no op in between."""
    if reading.producer[tensor] == slots.graph_input(tensor):
        return FLOAT
    return reading.encodings.get(slots.graph_output(tensor))


def _check_same_model(graph: GraphProto, reading: _Reading) -> None:
    """Refuse a run whose quantized slots the model does not have: they would silently stay float."""
    existing = {*reading.producer.values(), *(slots.graph_output(value.name) for value in graph.output)}
    existing |= {
        slots.input_slot(node.name, index) for node in graph.node for index, name in enumerate(node.input) if name
    }
    missing = sorted(reading.encodings.keys() - existing)
    if missing:
        raise ExportError("the run is of another model", f"no slot {missing[0]}", "export with the run's own model")


def _captured(node: NodeProto) -> Iterator[str]:
    """Names that the bodies of a control-flow op read, their own and those from outside."""
    for body in _bodies(node):
        for inner in body.node:
            yield from filter(None, inner.input)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    pending = [node]
    while pending:
        for attribute in pending.pop().attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield body
                pending.extend(body.node)


@dataclass(frozen=True)
class _Placed:
    """What stands for one tensor in the exported graph.

    Attributes:
        raw: the name of what its producer makes.
        views: per encoding that the tensor is read with, the name of what the reader gets.
        nodes, initializers: what makes the views from the raw tensor.
    """

    raw: str
    views: Mapping[Encoding | None, str]
    nodes: tuple[NodeProto, ...] = ()
    initializers: tuple[TensorProto, ...] = ()


class _Placer:
    """Decides what stands for a tensor. State: the names in use, and the tensors placed so far."""

    def __init__(self, reading: _Reading, graph: GraphProto, folder: Path | None) -> None:
        self._reading = reading
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name: _output_encoding(value.name, reading) for value in graph.output}
        self._folder = folder
        self._taken = _names(graph)
        self._placed: dict[str, _Placed] = {}

    def __call__(self, tensor: str) -> _Placed:
        """What stands for a tensor; the same answer at every call."""
        if tensor not in self._placed:
            self._placed[tensor] = self._place(tensor)
        return self._placed[tensor]

    def _place(self, tensor: str) -> _Placed:
        constant = self._constants.get(tensor)
        encodings, base = self._wanted(tensor)
        output = self._outputs.get(tensor, FLOAT)
        output = base if output is FLOAT else output
        is_renamed = tensor in self._outputs and output is not FLOAT
        raw = self._fresh(f"{tensor}/float") if is_renamed else tensor
        views: dict[Encoding | None, str] = {}
        nodes: list[NodeProto] = []
        initializers: list[TensorProto] = []
        for encoding in encodings:
            pair = self._pair(tensor, is_first=not views, is_output=is_renamed and encoding == output)
            initializers += parameters(encoding, pair)
            if constant is None:
                source = views.get(self._reading.made_with(tensor), raw)
                if source == raw and self._must_stay_apart(tensor, encoding):
                    nodes.append(unfused_node(source, pair))
                    source = nodes[-1].output[0]
                made, bounds = quantize_nodes(source, encoding, pair)
                nodes += made
                initializers += bounds
            else:
                initializers.append(self._integers(constant, encoding, pair))
            nodes.append(dequantize_node(encoding, pair))
            views[encoding] = pair.dequantized
        views[FLOAT] = views.get(base, raw)
        return _Placed(raw, views, tuple(nodes), tuple(initializers))

    def _must_stay_apart(self, tensor: str, encoding: Encoding) -> bool:
        """Whether onnxruntime would make something else of the op that makes a tensor and the Q behind it."""
        if tensor in self._reading.float_weighted:
            return True
        return encoding.axis is not None and self._reading.made_by_integers(tensor)

    def _wanted(self, tensor: str) -> tuple[list[Encoding], Encoding | None]:
        """The encodings to emit, the producer's first, and the one that float readers get (`FLOAT`: the raw tensor)."""
        reading = self._reading
        readers = reading.readers.get(tensor, {})
        wanted = [encoding for encoding in readers if encoding is not None]
        made_with = reading.made_with(tensor)
        if made_with is None or tensor in self._constants:
            return wanted, FLOAT
        base = made_with if reading.made_by_integers(tensor) else FLOAT
        if wanted or (base is not FLOAT and FLOAT in readers):
            wanted = [made_with, *(encoding for encoding in wanted if encoding != made_with)]
        return wanted, base

    def _integers(self, constant: TensorProto, encoding: Encoding, pair: Pair) -> TensorProto:
        if constant.data_type != TensorProto.FLOAT:
            raise ExportError(
                "only float32 constants can be quantized",
                f"{constant.name} is {TensorProto.DataType.Name(constant.data_type).lower()}",
                "convert the model to float32",
            )
        if constant.data_location == TensorProto.EXTERNAL and self._folder is None:
            raise ExportError("a constant's data is in another file", constant.name, "say in which folder")
        values = read_array(constant, self._folder or Path())
        return numpy_helper.from_array(quantize(values, encoding, constant.name), pair.quantized)

    def _pair(self, tensor: str, *, is_first: bool, is_output: bool) -> Pair:
        wish = tensor if is_first else f"{tensor}/requantized"
        candidates = (wish if number == 1 else f"{wish}_{number}" for number in count(1))
        stem = next(c for c in candidates if not any(f"{c}/{suffix}" in self._taken for suffix in SUFFIXES))
        self._taken.update(f"{stem}/{suffix}" for suffix in SUFFIXES)
        return Pair(stem, tensor if is_output else f"{stem}/dequantized")

    def _fresh(self, wish: str) -> str:
        candidates = (wish if number == 1 else f"{wish}_{number}" for number in count(1))
        name = next(c for c in candidates if c not in self._taken)
        self._taken.add(name)
        return name


def _names(graph: GraphProto) -> set[str]:
    """Every name of a tensor or node in the graph and in the bodies of its control flow."""
    graphs = [graph, *(body for node in graph.node for body in _bodies(node))]
    taken = {value.name for g in graphs for value in [*g.input, *g.output, *g.initializer]}
    taken |= {name for g in graphs for node in g.node for name in [node.name, *node.input, *node.output]}
    return taken


def _rewrite(graph: GraphProto, reading: _Reading, placer: _Placer) -> None:
    """Put what the placer decided into the graph: new names at every reader, new nodes behind every producer."""
    made_in_nodes = {name for node in graph.node for name in node.output}
    placed = [placer(tensor) for tensor in reading.producer if tensor not in made_in_nodes]
    nodes = [new for tensor in placed for new in tensor.nodes]
    for node in graph.node:
        _rename_reads(node, reading, placer)
        made = [placer(name) for name in node.output if name]
        for index, name in enumerate(node.output):
            if name:
                node.output[index] = placer(name).raw
        nodes += [node, *(new for tensor in made for new in tensor.nodes)]
        placed += made
    dropped = _drop_unread_constants(graph, reading, placer)
    graph.initializer.extend(new for tensor in placed for new in tensor.initializers)
    inputs = [value for value in graph.input if value.name not in dropped]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)


def _rename_reads(node: NodeProto, reading: _Reading, placer: _Placer) -> None:
    for body in _bodies(node):
        for inner in body.node:
            for index, name in enumerate(inner.input):
                if name in reading.producer:
                    inner.input[index] = placer(name).views[FLOAT]
    for index, name in enumerate(node.input):
        if name:
            encoding = reading.encodings.get(slots.input_slot(node.name, index))
            node.input[index] = placer(name).views[encoding]


def _drop_unread_constants(graph: GraphProto, reading: _Reading, placer: _Placer) -> set[str]:
    """Remove the initializers that nothing reads as float, rename the others; returns the names removed."""
    kept = [tensor for tensor in graph.initializer if FLOAT in reading.readers.get(tensor.name, {})]
    dropped = {tensor.name for tensor in graph.initializer} - {tensor.name for tensor in kept}
    for tensor in kept:
        tensor.name = placer(tensor.name).raw
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return dropped
