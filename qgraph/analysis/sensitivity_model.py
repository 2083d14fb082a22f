"""A run's exported model in float, with switches in the place of some of its QuantizeLinear and DequantizeLinear.

One session then measures what the quantization of any of them alone does to the outputs, with any parameters: switches
and parameters are inputs of the model that have values of their own, so that only what is on need be fed::

    exported      T ──▶ Q ──▶ DQ ──▶ T'                 W (integers) ──▶ DQ ──▶ Conv ──▶ y

    here          T ──▶ If(on) ┬─ fake quantize ─▶ T'   W (float) ──▶ Conv ──▶ If(on) ┬─ Conv(fake quantize W) ─▶ y
                               └─ T ─────────────▶ T'                                 └─ y ───────────────────▶ y

The model is cut in two: what comes before all switches runs once for each sample, what comes behind them each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from qgraph.analysis.verify_layers import bounds
from qgraph.formats.encoding import Encoding, encoding_of
from qgraph.formats.qdq import to_qdq
from qgraph.ir.onnx_import import ImportedModel
from qgraph.ir.onnx_walk import nodes_within
from qgraph.ir.slots import graph_input, graph_output, input_slot, output_slot
from qgraph.solve.run import RunData
from qgraph.tqc import TqcRecord

PREFIX = "qgraph.probe"
"""What the names of everything that is added begin with."""

FINER = 2.0**-12
"""Of a step: so fine that what is left of the error is clipping."""

Feed = Mapping[str, NDArray[np.generic]]

DEFAULTS: Feed = {
    "on": np.array(0, "bool"),
    "step": np.array(1, "float32"),
    "low": np.array(0, "float32"),
    "high": np.array(0, "float32"),
}
"""The values of a switch's inputs where nothing is fed."""


@dataclass(frozen=True, slots=True)
class Site:
    """One switch.

    Attributes:
        position: in the order of the model.
        tensor: of the float model.
        groups: ids of the groups whose parameters it has, sorted; several where they are equal by chance.
        role: of the tensor, see `qgraph.tqc.TqcRecord`.
        encoding: what the run quantizes with here.
        shape: in which the scales of channels are fed, so that each meets its channel.
    """

    position: int
    tensor: str
    groups: tuple[str, ...]
    role: str
    encoding: Encoding
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the names of its inputs begin with."""
        return f"{PREFIX}.{self.position}"

    def feed(self, encoding: Encoding, *, rounding: bool = True, clipping: bool = True) -> Feed:
        """What to feed to quantize here.

        Args:
            encoding: the site's own, or other parameters of the same granularity.
            rounding: False only clips.
            clipping: False only rounds.
        """
        step, offset = np.array(encoding.scale, "float64"), np.array(encoding.offset, "float64")
        low, high = (limit - offset for limit in bounds(encoding))
        if not clipping:
            low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
        if not rounding:
            step, low, high = step * FINER, low / FINER, high / FINER
        shape = () if encoding.axis is None else self.shape
        values = {"step": step, "low": low, "high": high}
        fed = {f"{self.name}.{key}": np.asarray(value, "float32").reshape(shape) for key, value in values.items()}
        return {f"{self.name}.on": np.array(1, "bool"), **fed}


@dataclass(frozen=True, slots=True)
class Switched:
    """A model that was cut where its switches begin.

    Attributes:
        before: makes the tensors `between` from the inputs of the float model.
        behind: makes the outputs from `between`, `inputs` and the switches; those that no switch reaches are left out.
        inputs: of the float model that are read behind the cut.
    """

    before: ModelProto
    behind: ModelProto
    between: tuple[str, ...]
    inputs: tuple[str, ...]


class Exported:
    """An exported model whose pairs can be replaced by switches; external data lies where the float model's does.

    Args:
        model: the run's own float model; not changed.

    Raises:
        ExportError: the run cannot be exported, see `qgraph.formats.qdq.to_qdq`.
    """

    def __init__(self, model: ImportedModel, run: RunData) -> None:
        self._model = to_qdq(model.proto, run, {}, model.folder)
        self._pairs = _pairs(self._model.graph, model, run)
        self._constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where a switch can be, in the order of the model."""
        return tuple(pair.site for pair in self._pairs.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are floats, sorted."""
        kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        return tuple(
            sorted(value.name for value in self._model.graph.output if value.type.tensor_type.elem_type in kinds)
        )

    def switched(self, sites: Iterable[Site]) -> Switched:
        """The model with switches at some sites; nothing else is quantized."""
        chosen = set(sites)
        nodes = self._float_nodes({view: pair for view, pair in self._pairs.items() if pair.site in chosen})
        before, behind = _cut(nodes)
        inputs = {value.name: value for value in self._model.graph.input}
        read = {name for node in nodes_within(iter(behind)) for name in node.input}
        between = [name for node in before for name in node.output if name and name in read]
        made = {name for node in behind for name in node.output}
        outputs = [value for value in self._model.graph.output if value.name in made]
        first = self._graph(before, inputs.values(), [ValueInfoProto(name=name) for name in between], ())
        return Switched(
            first,
            self._graph(behind, (), outputs, chosen),
            tuple(between),
            tuple(name for name in inputs if name in read),
        )

    def _float_nodes(self, chosen: Mapping[str, _Pair]) -> list[NodeProto]:
        """The nodes with all pairs replaced: by a switch where chosen, else by nothing."""
        replaced = {name for pair in self._pairs.values() for name in pair.nodes}
        nodes: list[NodeProto] = []
        for node in self._model.graph.node:
            if node.name not in replaced:
                constants = {
                    index: self._pairs[name]
                    for index, name in enumerate(node.input)
                    if name in self._pairs and self._pairs[name].is_constant
                }
                nodes += _on_floats(node, constants, chosen)
            elif (view := node.output[0]) in self._pairs and not self._pairs[view].is_constant:
                nodes.append(_passed(self._pairs[view], view, chosen))
        outputs = {value.name for value in self._model.graph.output}
        return nodes + [
            _passed(pair, view, chosen) for view, pair in self._pairs.items() if pair.is_constant and view in outputs
        ]

    def _graph(
        self,
        nodes: Sequence[NodeProto],
        inputs: Iterable[ValueInfoProto],
        outputs: Iterable[ValueInfoProto],
        sites: Iterable[Site],
    ) -> ModelProto:
        """A model of some nodes, with the constants that they read and the inputs of switches."""
        read = {name for node in nodes_within(iter(nodes)) for name in node.input}
        known = {**self._constants, **{tensor.name: tensor for tensor in self._model.graph.initializer}}
        graph = GraphProto(name=self._model.graph.name, node=nodes, input=inputs, output=outputs)
        graph.initializer.extend(tensor for name, tensor in known.items() if name in read)
        for site in sorted(sites, key=lambda one: one.position):
            for key, value in DEFAULTS.items():
                name = f"{site.name}.{key}"
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, None))
                graph.initializer.append(numpy_helper.from_array(value, name))
        result = ModelProto(graph=graph, opset_import=self._model.opset_import, ir_version=self._model.ir_version)
        result.functions.extend(self._model.functions)
        return result


def _cut(nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that no switch reaches, and those that one does."""
    before, behind = [], []
    reached: set[str] = set()
    for node in nodes:
        read = {name for inner in nodes_within(iter([node])) for name in inner.input}
        if node.name.startswith(PREFIX) or read & reached:
            behind.append(node)
            reached.update(filter(None, node.output))
        else:
            before.append(node)
    return before, behind


@dataclass(frozen=True, slots=True)
class _Pair:
    """What a switch replaces.

    Attributes:
        source: what is quantized: a tensor of the exported model, or the name of a float constant.
        nodes: the names of the nodes that are replaced.
    """

    site: Site
    source: str
    is_constant: bool
    nodes: tuple[str, ...]


def _pairs(graph: GraphProto, model: ImportedModel, run: RunData) -> dict[str, _Pair]:
    """The pairs of an exported model, by the tensor that readers get, in the order of the nodes."""
    own = {node.name for node in model.proto.graph.node}
    records = {one.slot: one for one in run.tqcs if encoding_of(one) is not None}
    integers = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    readers = _readers(graph, own, records)
    ranks = {one.name: len(one.shape) for one in model.structure.tensors if one.shape is not None}
    found: dict[str, _Pair] = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.name in own:
            continue
        chain = [node]
        while chain[-1].op_type != "QuantizeLinear" and chain[-1].input[0] not in integers:
            chain.append(makers[chain[-1].input[0]])
        is_constant = chain[-1].op_type != "QuantizeLinear"
        read = readers.get(node.output[0], [])
        told = read if read or is_constant else _made(chain[-1].input[0], makers, own, records)
        if told:
            site = _site(len(found), told, ranks)
            source = told[0].tensor if is_constant else chain[-1].input[0]
            found[node.output[0]] = _Pair(site, source, is_constant, tuple(one.name for one in chain))
    return found


def _readers(graph: GraphProto, own: set[str], records: Mapping[str, TqcRecord]) -> dict[str, list[TqcRecord]]:
    """The quantized slots that read each tensor."""
    found: dict[str, list[TqcRecord]] = {}
    slots = [
        (name, input_slot(node.name, index))
        for node in graph.node
        if node.name in own
        for index, name in enumerate(node.input)
    ]
    for name, slot in (*slots, *((value.name, graph_output(value.name)) for value in graph.output)):
        if slot in records:
            found.setdefault(name, []).append(records[slot])
    return found


def _made(
    source: str, makers: Mapping[str, NodeProto], own: set[str], records: Mapping[str, TqcRecord]
) -> list[TqcRecord]:
    """The slot that makes what a QuantizeLinear reads, where only float ops read what comes of it."""
    while source in makers and makers[source].name not in own:
        source = makers[source].input[0]
    slot = graph_input(source)
    if source in makers:
        slot = output_slot(makers[source].name, list(makers[source].output).index(source))
    return [records[slot]] if slot in records else []


def _site(position: int, records: Sequence[TqcRecord], ranks: Mapping[str, int]) -> Site:
    first = records[0]
    encoding = encoding_of(first)
    assert encoding is not None  # only such records are asked
    shape: tuple[int, ...] = ()
    if encoding.axis is not None:
        rank = ranks[first.tensor]
        shape = (-1, *[1] * (rank - 1 - encoding.axis % rank))
    groups = tuple(sorted({one.group for one in records if one.group is not None}))
    return Site(position, first.tensor, groups, first.role, encoding, shape)


def _passed(pair: _Pair, view: str, chosen: Mapping[str, _Pair]) -> NodeProto:
    """What stands for a pair: a switch, or nothing."""
    if view in chosen:
        return _switch(pair, view, view)
    return helper.make_node("Identity", [pair.source], [view])


def _switch(pair: _Pair, output: str, stem: str) -> NodeProto:
    """``output`` = fake-quantized source where the switch is on, else the source itself."""
    site, stem = pair.site, f"{PREFIX}/{stem}"
    names = [pair.source, *(f"{stem}/{part}" for part in ("steps", "round", "low", "high", "quantized"))]
    nodes = [
        helper.make_node("Div", [names[0], f"{site.name}.step"], [names[1]]),
        helper.make_node("Round", [names[1]], [names[2]]),
        helper.make_node("Max", [names[2], f"{site.name}.low"], [names[3]]),
        helper.make_node("Min", [names[3], f"{site.name}.high"], [names[4]]),
        helper.make_node("Mul", [names[4], f"{site.name}.step"], [names[5]]),
    ]
    on, off = _branch(nodes, [names[5]], f"{stem}/on"), _kept([pair.source], f"{stem}/off")
    return helper.make_node("If", [f"{site.name}.on"], [output], stem, then_branch=on, else_branch=off)


def _on_floats(node: NodeProto, pairs: Mapping[int, _Pair], chosen: Mapping[str, _Pair]) -> list[NodeProto]:
    """An op on its float constants, and once more on those that have a switch, where any of those is on.

    Args:
        pairs: of constants that it reads, by the index of the input.
    """
    constants = {index: pair for index, pair in pairs.items() if node.input[index] in chosen}
    stem = f"{PREFIX}/{node.name}"
    plain, again = NodeProto(), NodeProto()
    plain.CopyFrom(node)
    again.CopyFrom(node)
    for index, pair in pairs.items():
        plain.input[index] = again.input[index] = pair.source
    if not constants:
        return [plain]
    inside = []
    for index, pair in constants.items():
        again.input[index] = f"{stem}/{index}"
        inside.append(_switch(pair, again.input[index], f"{node.name}/{index}"))
    made = [(index, name) for index, name in enumerate(node.output) if name]
    for index, name in made:
        plain.output[index] = f"{PREFIX}/{name}/plain"
        again.output[index] = f"{PREFIX}/{name}/again"
    switches = list(dict.fromkeys(f"{pair.site.name}.on" for pair in constants.values()))
    nodes = [plain]
    while len(switches) > 1:
        or_name = f"{stem}/or/{len(switches)}"
        nodes.append(helper.make_node("Or", switches[:2], [or_name], or_name))
        switches = [nodes[-1].output[0], *switches[2:]]
    on = _branch([*inside, again], [again.output[index] for index, _ in made], f"{stem}/on")
    off = _kept([plain.output[index] for index, _ in made], f"{stem}/off")
    outputs = [name for _, name in made]
    return [*nodes, helper.make_node("If", switches, outputs, stem, then_branch=on, else_branch=off)]


def _branch(nodes: Sequence[NodeProto], outputs: Sequence[str], name: str) -> GraphProto:
    return helper.make_graph(nodes, name, [], [_float(one) for one in outputs])


def _kept(tensors: Sequence[str], name: str) -> GraphProto:
    """A branch that hands on what is there."""
    outputs = [f"{name}/{index}" for index in range(len(tensors))]
    pairs = zip(tensors, outputs, strict=True)
    return _branch([helper.make_node("Identity", [one], [output]) for one, output in pairs], outputs, name)


def _float(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
