"""A `Structure` from an ONNX model's proto: names, connections, types, small constants. No weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from qgraph.ir.elements import SMALL_CONSTANT, AttributeValue, Op, Structure, Tensor
from qgraph.ir.onnx_tensors import dtype_name, elements, is_external, read_array
from qgraph.ir.onnx_walk import bodies, captured
from qgraph.ir.order import topological

STANDARD_DOMAINS = ("", "ai.onnx")

_INVENTED_DIMENSION = re.compile(r"unk__\d+")
"""Names that onnx's shape inference makes up for dimensions that it does not know."""

Shape = tuple[int | str | None, ...]


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that the model asks for; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=0)


def is_unregistered(node: onnx.NodeProto) -> bool:
    """Whether a node of the standard domain has an op type that onnx does not know: a runtime's own op."""
    return node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, domain="")


def op_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """A unique name for each node: its own, or ``TYPE@first_output`` where that is empty, repeated or reserved."""
    own = [node.name for node in nodes]
    counts = Counter(own)
    usable = {name for name in own if counts[name] == 1 and name not in ("", "graph") and not name.startswith("graph:")}
    names = []
    for node, name in zip(nodes, own, strict=True):
        if name not in usable:
            name = f"{node.op_type}@{next(filter(None, node.output), '')}"
            while name in usable:
                name += "@"
        names.append(name)
    return names


def data_inputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The inputs that the data must provide: those that have no initializer."""
    weights = {tensor.name for tensor in graph.initializer}
    return tuple(value.name for value in graph.input if value.name not in weights)


def read_ops(graph: onnx.GraphProto) -> list[Op]:
    """The ops in the order of the file. Tensors that a body captures follow the op's own inputs."""
    not_tensors = {value.name for value in (*graph.input, *graph.value_info, *graph.output) if not _is_tensor(value)}
    names = op_names(graph.node)
    return [_op(node, name, not_tensors) for node, name in zip(graph.node, names, strict=True)]


def _is_tensor(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") in (None, "tensor_type")


def _op(node: onnx.NodeProto, name: str, not_tensors: set[str]) -> Op:
    inputs = tuple(source or None for source in node.input)
    return Op(
        name=name,
        type=node.op_type,
        domain="" if node.domain in STANDARD_DOMAINS else node.domain,
        inputs=inputs + tuple(source for source in captured(node) if source not in inputs),
        outputs=tuple(output or None for output in node.output),
        attributes=MappingProxyType(dict(sorted(_attributes(node), key=itemgetter(0)))),
        excluded=_excluded(node, not_tensors),
    )


def _excluded(node: onnx.NodeProto, not_tensors: set[str]) -> str | None:
    if node.domain not in STANDARD_DOMAINS:
        return f"custom op of domain {node.domain}"
    if is_unregistered(node):
        return "custom op that ONNX does not define"
    if bodies(node):
        return "control flow"
    if node.op_type == "Constant":
        return "constant that the model returns"
    if not_tensors and not not_tensors.isdisjoint((*node.input, *node.output)):
        return "sequence, optional or map values"
    return None


def _attributes(node: onnx.NodeProto) -> Iterable[tuple[str, AttributeValue]]:
    for attribute in node.attribute:
        reader = _READERS.get(attribute.type)
        value = reader(attribute) if reader is not None else None
        if value is not None:
            yield attribute.name, value


def _tensor_attribute(attribute: onnx.AttributeProto) -> AttributeValue | None:
    # An external tensor in an attribute has no place in the standard's folder rules; its values stay unknown.
    return None if is_external(attribute.t) else _small_values(attribute.t, Path())


_READERS: Mapping[int, Callable[[onnx.AttributeProto], AttributeValue | None]] = MappingProxyType(
    {
        onnx.AttributeProto.INT: lambda attribute: attribute.i,
        onnx.AttributeProto.FLOAT: lambda attribute: attribute.f,
        onnx.AttributeProto.STRING: lambda attribute: attribute.s.decode("utf-8", "replace"),
        onnx.AttributeProto.INTS: lambda attribute: tuple(attribute.ints),
        onnx.AttributeProto.FLOATS: lambda attribute: tuple(attribute.floats),
        onnx.AttributeProto.STRINGS: lambda attribute: tuple(
            text.decode("utf-8", "replace") for text in attribute.strings
        ),
        onnx.AttributeProto.TENSOR: _tensor_attribute,
    }
)
"""How each kind of attribute becomes a plain value. Graphs and large tensors have none."""


def _small_values(tensor: onnx.TensorProto, folder: Path) -> tuple[float, ...] | tuple[int, ...] | None:
    """All elements in row-major order; None for strings, complex numbers and large constants."""
    if elements(tensor) > SMALL_CONSTANT or tensor.data_type == onnx.TensorProto.STRING:
        return None
    array = read_array(tensor, folder)
    if array.dtype.kind == "c":
        return None
    if array.dtype.kind in "iub":
        return tuple(int(value) for value in array.ravel())
    # The small float types of ml_dtypes are void to numpy ("V"); float32 holds each of their values.
    return tuple(float(value) for value in array.astype(array.dtype if array.dtype.kind == "f" else np.float32).ravel())


def _shape(proto: onnx.TensorShapeProto, named: frozenset[str]) -> Shape:
    dims: list[int | str | None] = []
    for dim in proto.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value if dim.dim_value >= 0 else None)
        elif dim.dim_param and (dim.dim_param in named or not _INVENTED_DIMENSION.fullmatch(dim.dim_param)):
            dims.append(dim.dim_param)
        else:
            dims.append(None)
    return tuple(dims)


def _typed(value: onnx.ValueInfoProto, named: frozenset[str]) -> Tensor:
    if not value.type.HasField("tensor_type"):
        return Tensor(value.name, "", None)
    kind = value.type.tensor_type
    return Tensor(value.name, dtype_name(kind.elem_type), _shape(kind.shape, named) if kind.HasField("shape") else None)


def _constants(graph: onnx.GraphProto, folder: Path) -> Iterable[Tensor]:
    for tensor in graph.initializer:
        shape = tuple(tensor.dims)
        values = _small_values(tensor, folder)
        yield Tensor(tensor.name, dtype_name(tensor.data_type), shape, constant=True, values=values)


def read_structure(
    model: onnx.ModelProto, fingerprint: str, folder: Path, origins: Mapping[str, tuple[str, ...]]
) -> Structure:
    """The structure of a model: sorted ops, all tensors that they, the inputs or the outputs name.

    Args:
        folder: where external data lies; only that of small constants is read.
        origins: for ops that others were folded into, the names of those.

    Raises:
        ModelError: a small constant's external data cannot be read.
    """
    graph = model.graph
    named = frozenset(dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim)
    ordered, stuck = topological(read_ops(graph))
    ops = tuple(
        Op(op.name, op.type, op.domain, op.inputs, op.outputs, op.attributes, op.excluded, origins[op.name])
        if op.name in origins
        else op
        for op in (*ordered, *stuck)
    )
    inputs = data_inputs(graph)
    outputs = tuple(value.name for value in graph.output)
    used = {name for op in ops for name in (*op.inputs, *op.outputs) if name is not None} | {*inputs, *outputs}
    typed = {value.name: _typed(value, named) for value in (*graph.value_info, *graph.output, *graph.input)}
    typed |= {tensor.name: tensor for tensor in _constants(graph, folder)}
    return Structure(
        name=graph.name,
        fingerprint=fingerprint,
        opset=standard_opset(model),
        ops=ops,
        tensors=tuple(typed.get(name) or Tensor(name, "", None) for name in sorted(used)),
        inputs=inputs,
        outputs=outputs,
    )
