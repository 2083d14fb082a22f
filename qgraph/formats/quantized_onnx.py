"""Read a quantized ONNX model, made by anyone, as the float model that it stands for and the parameters in it.

Every tensor of the file is seen as a *view*: some tensor of the float model, read with some parameters::

    file     Conv ─ x ─▶ Q(A) ─ xq ─▶ DQ(A) ─ xd ─▶ Q(B) ─▶ DQ(B) ─ xe ─▶ MaxPool          xd: x read with A
    float    Conv ─ x ────────────────────────────────────────────────▶ MaxPool          xe: x read with B
                    └ made with A                          read with B ┘

A constant behind DequantizeLinear is a float constant under its own name; an integer op (QLinearConv, or MaxPool on
integers) is its float op, its integer tensors float tensors. Weights stored as float with Q and DQ behind them
are constants that are made and read with the parameters of Q.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import onnx
from onnx import inliner

from qgraph.errors import ModelError
from qgraph.formats.encoding import keeps_apart
from qgraph.formats.onnx_constants import Constants
from qgraph.formats.qlinear import DEQUANTIZE, MOVING, QUANTIZE, Operand, Signature, is_boundary, signature_of
from qgraph.formats.quantized_model import Quantization, QuantizedModel, Reinterpretation
from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.onnx_light import infer_shapes
from qgraph.ir.onnx_parse import parse
from qgraph.ir.onnx_structure import data_inputs, op_names, read_ops, read_structure
from qgraph.ir.onnx_tensors import dtype_name
from qgraph.ir.onnx_walk import bodies, nodes_within
from qgraph.ir.order import topological
from qgraph.ir.slots import graph_constant, graph_input, graph_output, input_slot, output_slot
from qgraph.ir.validate import validate
from qgraph.tqc import to_float32


def read_quantized_onnx(path: Path) -> QuantizedModel:
    """Read a QDQ or QOperator model, or one that mixes both.

    Raises:
        ModelError: the file cannot be read as `qgraph.ir.onnx_parse.parse` says, or nothing in it is quantized.
    """
    model, connections = parse(path)
    if model.functions:
        model = _inlined(model, path)
        connections = replace(connections, ops=tuple(read_ops(model.graph)))
    reader = _Reader(model, path.parent)
    for node, name in _in_order(model.graph, connections.ops):
        reader.walk(node, name)
    result = reader.result()
    if not result.quantizations:
        cure = "give a model with QuantizeLinear or QLinear ops, or ask qgraph analyze about a float model"
        if reader.unread:
            raise ModelError(f"all scales are computed at run time, as in {reader.unread[0]}", str(path), cure)
        raise ModelError("nothing in the model is quantized", str(path), cure)
    validate(result.structure, str(path))
    return result


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        inlined: onnx.ModelProto = inliner.inline_local_functions(model, convert_version=True)
    except (RuntimeError, ValueError) as error:
        cure = "export the model without local functions"
        raise ModelError("onnx cannot inline the model's functions", f"{path}: {error}", cure) from error
    return inlined


def _in_order(graph: onnx.GraphProto, ops: Sequence[Op]) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Copies of the nodes, producers first, each with the unique name that its op has."""
    nodes = dict(zip(op_names(graph.node), graph.node, strict=True))
    for op in topological(ops)[0]:
        node = onnx.NodeProto()
        node.CopyFrom(nodes[op.name])
        yield node, op.name


@dataclass(frozen=True, slots=True)
class _View:
    """What a tensor of the file is: tensor `root` of the float model, read with `read` (None: as float).

    `is_integer`: the file has the integers themselves here, not what they stand for.
    """

    root: str
    read: Quantization | None = None
    is_integer: bool = False


class _Reader:
    """Walks the file once, producers first, and collects the float model."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._constants = Constants(model.graph, folder)
        self._views: dict[str, _View] = {}
        self._made: dict[str, dict[Quantization, None]] = {}
        self._read: dict[str, Quantization] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._reinterpreted: list[Reinterpretation] = []
        self.unread: list[str] = []

    # --- What a tensor is -----------------------------------------------------------------------------------------

    def _view(self, name: str) -> _View:
        return self._views.get(name) or _View(name)

    def _make(self, root: str, parameters: Quantization) -> None:
        self._made.setdefault(root, {})[parameters] = None

    def _integers(self, name: str, stated: Quantization, node: onnx.NodeProto, op: str) -> _View:
        """A tensor of integers as a reader sees it that states parameters itself."""
        view = self._view(name)
        if view.read is None:
            if view.root in self._constants:
                low, high = self._constants.range_of(view.root)
                stated = replace(stated, low=low, high=high)
                self._constants.as_float(view.root, stated)
            self._make(view.root, stated)
        else:
            if not stated.says_the_same(view.read):
                self._reinterpreted.append(Reinterpretation(view.root, op, node.op_type, view.read, stated))
            stated = replace(stated, low=view.read.low, high=view.read.high)
        return _View(view.root, stated)

    def _integer_type(self, name: str) -> str:
        """The integer type of a tensor, for parameters that do not tell it."""
        view = self._view(name)
        return self._constants.dtype(view.root) if view.read is None else view.read.dtype

    def _stated(self, node: onnx.NodeProto, scale: int, zero_point: int, dtype: str, axis: int) -> Quantization | None:
        """The parameters in two inputs of a node; None where they are not constants, or are given per block."""
        inputs = node.input
        names = [self._view(inputs[index]).root if index < len(inputs) else "" for index in (scale, zero_point)]
        return self._constants.parameters(names[0], names[1], dtype, axis)

    # --- Nodes ----------------------------------------------------------------------------------------------------

    def walk(self, node: onnx.NodeProto, op: str) -> None:
        """Take in one node."""
        signature = signature_of(node)
        if is_boundary(node, QUANTIZE):
            self._quantize(node, op)
        elif is_boundary(node, DEQUANTIZE):
            self._dequantize(node, op)
        elif signature is not None:
            self._integer_op(node, op, signature)
        elif self._constants.absorb(node):
            return
        elif keeps_apart(node) or (node.op_type == "Identity" and node.input[0] in self._constants):
            self._views[node.output[0]] = self._view(node.input[0])
        elif not (self._clip(node) or self._transposed_constant(node)):
            self._other_op(node, op)

    def _axis(self, node: onnx.NodeProto, root: str) -> int:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        rank = self._constants.rank(root)
        return int(axis % rank if rank else axis)

    def _quantize(self, node: onnx.NodeProto, op: str) -> None:
        view = self._view(node.input[0])
        kind = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), onnx.TensorProto.UINT8)
        dtype = onnx.TensorProto.DataType.Name(kind).lower()
        stated = self._stated(node, 1, 2, dtype, self._axis(node, view.root))
        if stated is None:
            self.unread.append(op)
            self._views[node.output[0]] = _View(view.root)
            return
        if view.root in self._constants and view.read is None:
            low, high = self._constants.quantized_range(view.root, stated)
            stated = replace(stated, low=low, high=high)
        if view.read is None:
            self._make(view.root, stated)
        self._views[node.output[0]] = _View(view.root, stated, is_integer=True)

    def _dequantize(self, node: onnx.NodeProto, op: str) -> None:
        name = node.input[0]
        view = self._view(name)
        stated = self._stated(node, 1, 2, self._integer_type(name), self._axis(node, view.root))
        if stated is None:
            self.unread.append(op)
            self._constants.as_float(view.root)
            self._views[node.output[0]] = _View(view.root)
            return
        self._views[node.output[0]] = self._integers(name, stated, node, op)

    def _integer_op(self, node: onnx.NodeProto, op: str, signature: Signature) -> None:
        inputs = []
        for index, operand in enumerate(signature.inputs):
            if isinstance(operand, Operand):
                view = self._operand(node, op, operand, index, signature)
            else:
                view = self._view(node.input[operand])
            if view.read is not None:
                self._read[input_slot(op, index)] = view.read
            inputs.append(view.root)
        if signature.bias is not None and len(node.input) > signature.bias and node.input[signature.bias]:
            inputs.append(self._implied_bias(node.input[signature.bias], op, len(inputs)))
        made = self._stated(node, signature.scale, signature.zero_point, self._integer_type(node.input[0]), 1)
        self._emit(node, op, signature.op_type, inputs)
        if made is not None:
            self._make(node.output[0], made)
            self._views[node.output[0]] = _View(node.output[0], made, is_integer=True)
        elif len(node.input) > signature.scale and node.input[signature.scale]:
            self.unread.append(op)

    def _operand(self, node: onnx.NodeProto, op: str, operand: Operand, index: int, signature: Signature) -> _View:
        name = node.input[operand.value]
        axis = _operand_axis(node, signature, index, self._constants.rank(self._view(name).root))
        stated = self._stated(node, operand.scale, operand.zero_point, self._integer_type(name), axis)
        if stated is not None:
            return self._integers(name, stated, node, op)
        self.unread.append(op)
        root = self._view(name).root
        self._constants.as_float(root)
        return _View(root)

    def _implied_bias(self, name: str, op: str, index: int) -> str:
        """An integer op states no scale for its bias: it has the one that it must have."""
        root = self._view(name).root
        data, weight = (self._read.get(input_slot(op, operand)) for operand in (0, 1))
        bias = None
        if data is not None and weight is not None and root in self._constants:
            low, high = self._constants.range_of(root)
            scale = tuple(to_float32(data.scale[0] * scale) for scale in weight.scale)
            bias = Quantization("int32", scale, (0,) * len(scale), 0 if len(scale) > 1 else None, low, high)
            self._make(root, bias)
            self._read[input_slot(op, index)] = bias
        self._constants.as_float(root, bias)
        return root

    def _clip(self, node: onnx.NodeProto) -> bool:
        """A Clip of integers narrows their range: it belongs to the quantization before it."""
        if node.op_type != "Clip" or not node.input[0]:
            return False
        view = self._view(node.input[0])
        bounds = [node.input[index] if index < len(node.input) else "" for index in (1, 2)]
        if view.read is None or not view.is_integer or any(name and name not in self._constants for name in bounds):
            return False
        limits = [self._constants.range_of(name)[0] if name else None for name in bounds]
        low = view.read.low if limits[0] is None else max(limits[0], view.read.low)
        high = view.read.high if limits[1] is None else min(limits[1], view.read.high)
        narrow = replace(view.read, low=low, high=high)
        made = self._made.get(view.root, {})
        if view.read in made:
            self._made[view.root] = {narrow if entry == view.read else entry: None for entry in made}
        self._views[node.output[0]] = _View(view.root, narrow, is_integer=True)
        return True

    def _transposed_constant(self, node: onnx.NodeProto) -> bool:
        """A weight that is transposed before it is read, as torch's exporter writes it, is the transposed constant."""
        view = self._view(node.input[0]) if node.op_type == "Transpose" and not node.domain else None
        if view is None or view.read is None or view.root not in self._constants:
            return False
        permutation = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
        order = self._constants.transpose(view.root, node.output[0], permutation)
        axis = view.read.axis
        read = replace(view.read, axis=None if axis is None else order.index(axis))
        self._make(node.output[0], read)
        self._views[node.output[0]] = _View(node.output[0], read, is_integer=view.is_integer)
        return True

    def _other_op(self, node: onnx.NodeProto, op: str) -> None:
        views = [self._view(name) for name in node.input]
        moved = [view.read for view in views if view.is_integer and view.read is not None]
        moves = node.op_type in MOVING and not node.domain
        for index, view in enumerate(views):
            if view.read is not None and (moves or not view.is_integer):
                self._read[input_slot(op, index)] = view.read
        self._emit(node, op, node.op_type, [view.root for view in views])
        if moves and moved:
            for output in node.output if node.op_type == "Split" else node.output[:1]:
                self._make(output, moved[0])
                self._views[output] = _View(output, moved[0], is_integer=True)

    def _emit(self, node: onnx.NodeProto, op: str, op_type: str, inputs: Iterable[str]) -> None:
        """Add a node to the float model."""
        if op_type != node.op_type:
            node.op_type, node.domain = op_type, ""
        node.name = op
        del node.input[:]
        node.input.extend(inputs)
        for inner in nodes_within(iter(body_node for body in bodies(node) for body_node in body.node)):
            roots = [self._view(name).root for name in inner.input]
            del inner.input[:]
            inner.input.extend(roots)
        self._nodes.append(node)

    # --- The float model ------------------------------------------------------------------------------------------

    def result(self) -> QuantizedModel:
        """The float model and all parameters, once every node has been walked."""
        names = self._returned_names()
        structure = self._structure(names)
        producers = {name: graph_constant(name) for name in self._constants.floats}
        producers |= {name: graph_input(name) for name in structure.inputs}
        for op in structure.ops:
            producers |= {name: output_slot(op.name, i) for i, name in enumerate(op.outputs) if name is not None}
        slots: dict[str, tuple[Quantization, ...]] = {slot: (read,) for slot, read in self._read.items()}
        for root, made in self._made.items():
            name = names.get(root, root)
            if name in producers:
                slots[producers[name]] = tuple(made)
        for value in self._model.graph.output:
            view = self._view(value.name)
            if view.read is not None:
                slots.setdefault(graph_output(names.get(view.root, view.root)), (view.read,))
        reinterpreted = (replace(entry, tensor=names.get(entry.tensor, entry.tensor)) for entry in self._reinterpreted)
        return QuantizedModel(
            structure,
            MappingProxyType(dict(sorted(slots.items()))),
            tuple(sorted(reinterpreted, key=lambda entry: (entry.op, entry.tensor))),
            tuple(sorted(self.unread)),
        )

    def _returned_names(self) -> dict[str, str]:
        """Tensors that the model returns under another name, behind a DequantizeLinear: users know that name."""
        made = {name for node in self._nodes for name in node.output}
        outputs = [value.name for value in self._model.graph.output]
        names: dict[str, str] = {}
        for name in outputs:
            root = self._view(name).root
            if root != name and root in made and root not in outputs:
                names.setdefault(root, name)
        return names

    def _structure(self, names: Mapping[str, str]) -> Structure:
        source = self._model.graph
        _rename(self._nodes, names)
        result = onnx.ModelProto(ir_version=self._model.ir_version, opset_import=self._model.opset_import)
        graph = result.graph
        graph.name = source.name
        graph.node.extend(self._nodes)
        used = {name for node in nodes_within(iter(graph.node)) for name in node.input}
        roots = {self._view(value.name).root: value.name for value in source.output}
        graph.initializer.extend(self._constants.protos(used | set(roots)))
        given = set(data_inputs(source))
        quantized = {names.get(root, root) for root in self._made}
        for value in source.input:
            if value.name in given:
                graph.input.append(_boundary(value, value.name, is_quantized=value.name in quantized))
        for value in source.output:
            root = self._view(value.name).root
            if roots.pop(root, None) is not None:
                graph.output.append(_boundary(value, names.get(root, root), is_quantized=root in self._made))
        known = {value.name: value for value in (*source.value_info, *source.output)}
        plain = (value for name, value in known.items() if name not in quantized and name not in self._views)
        graph.value_info.extend(plain)
        infer_shapes(result)
        structure = read_structure(result, "", self._folder, {})
        return replace(structure, tensors=tuple(_typed(tensor, quantized) for tensor in structure.tensors))


def _operand_axis(node: onnx.NodeProto, signature: Signature, index: int, rank: int) -> int:
    """The channel axis of an operand's parameters, where they are given per channel."""
    if signature.op_type == "Gemm" and index == 1:
        return next((1 - attribute.i for attribute in node.attribute if attribute.name == "transB"), 1)
    if signature.op_type == "MatMul":
        # The left matrix has its parameters per row, the right one per column.
        return (rank or 2) - (2 if index == 0 else 1)
    return 0 if index == 1 else 1


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes_within(iter(nodes)):
        for part in (node.input, node.output):
            for index, name in enumerate(part):
                if name in names:
                    part[index] = names[name]


def _boundary(value: onnx.ValueInfoProto, name: str, *, is_quantized: bool) -> onnx.ValueInfoProto:
    """An input or output of the float model; one that holds integers as the float tensor that they stand for."""
    result = onnx.ValueInfoProto()
    result.CopyFrom(value)
    result.name = name
    kind = result.type.tensor_type
    if is_quantized and not Tensor(name, dtype_name(kind.elem_type), None).is_float:
        kind.elem_type = onnx.TensorProto.FLOAT
    return result


def _typed(tensor: Tensor, quantized: set[str]) -> Tensor:
    """Packs speak of float32; scales may have another width, and inference may not reach a quantized tensor."""
    return replace(tensor, dtype="float32") if tensor.name in quantized or tensor.is_float else tensor
