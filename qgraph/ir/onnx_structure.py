"""A `Structure` from an ONNX model's proto: names, connections, types, small constants. No weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from qgraph.ir.elements import SMALL_CONSTANT, AttributeValue, Op, Structure, Tensor
from qgraph.ir.masks import masking
from qgraph.ir.onnx_tensors import dtype_name, elements, is_external, read_array
from qgraph.ir.onnx_walk import bodies, captured
from qgraph.ir.order import topological

STANDARD_DOMAINS = ("", "ai.onnx")

_INVENTED_DIMENSION = re.compile(r"unk__\d+")
"""Names that onnx's shape inference makes up for dimensions that it does not know."""

Shape = tuple[int | str | None, ...]

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)

_NO_TENSORS = "sequence, optional or map values"

_NOTHING: Mapping[str, AttributeValue] = MappingProxyType({})


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that the model asks for; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=0)


def is_unregistered(node: onnx.NodeProto) -> bool:
    """Whether a node of the standard domain has an op type that onnx does not know: a runtime's own op."""
    return node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, domain="")


def op_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """A unique name for each node: its own, or ``TYPE@first_output`` where that is empty, repeated or reserved."""
    own = [node.name for node in nodes]
    usable = {
        name
        for name, count in Counter(own).items()
        if count == 1 and name not in ("", "graph") and not name.startswith("graph:")
    }
    return [name if name in usable else _generated_name(node, usable) for node, name in zip(nodes, own, strict=True)]


def _generated_name(node: onnx.NodeProto, taken: set[str]) -> str:
    name = f"{node.op_type}@{next(filter(None, node.output), '')}"
    while name in taken:
        name += "@"
    return name


def data_inputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The inputs that the data must provide: those that have no initializer."""
    weights = {tensor.name for tensor in graph.initializer}
    return tuple(value.name for value in graph.input if value.name not in weights)


def read_ops(graph: onnx.GraphProto) -> list[Op]:
    """The ops in the order of the file. Tensors that a body captures follow the op's own inputs."""
    not_tensors = _not_tensors(graph)
    names = op_names(graph.node)
    return [_op(node, name, not_tensors) for node, name in zip(graph.node, names, strict=True)]


def _not_tensors(graph: onnx.GraphProto) -> set[str]:
    """Sequences, optional values and maps."""
    return {value.name for value in (*graph.input, *graph.value_info, *graph.output) if not _is_tensor(value)}


def _is_tensor(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") in (None, "tensor_type")


def _op(node: onnx.NodeProto, name: str, not_tensors: set[str]) -> Op:
    # Each field is read once: to ask protobuf for it takes longer than anything that is done with it.
    domain, kind, attributes = node.domain, node.op_type, node.attribute
    inputs, outputs = _present(node.input), _present(node.output)
    has_bodies = bool(attributes and bodies(node))
    if has_bodies:
        inputs += tuple(source for source in captured(node) if source not in inputs)
    excluded = _excluded(domain, kind, has_bodies=has_bodies)
    if excluded is None and not_tensors and not not_tensors.isdisjoint((*inputs, *outputs)):
        excluded = _NO_TENSORS
    return Op(
        name=name,
        type=kind,
        domain="" if domain in STANDARD_DOMAINS else domain,
        inputs=inputs,
        outputs=outputs,
        attributes=MappingProxyType(dict(sorted(_read(attributes), key=itemgetter(0)))) if attributes else _NOTHING,
        excluded=excluded,
    )


def _present(names: Iterable[str]) -> tuple[str | None, ...]:
    """Names of tensors; None for those that are left out."""
    found = tuple(names)
    return tuple(name or None for name in found) if "" in found else found


def _excluded(domain: str, kind: str, *, has_bodies: bool) -> str | None:
    if domain not in STANDARD_DOMAINS:
        return f"custom op of domain {domain}"
    if not onnx.defs.has(kind, domain=""):
        return "custom op that ONNX does not define"
    if has_bodies:
        return "control flow"
    if kind == "Constant":
        return "constant that the model returns"
    return None


def _read(attributes: Iterable[onnx.AttributeProto]) -> Iterable[tuple[str, AttributeValue]]:
    for attribute in attributes:
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


def _types(model_inputs: Iterable[onnx.ValueInfoProto]) -> Callable[[onnx.ValueInfoProto], tuple[str, Shape | None]]:
    """A reader of dtype and shape. Many tensors have one type: it is taken apart once and then found by its bytes."""
    named = frozenset(dim.dim_param for value in model_inputs for dim in value.type.tensor_type.shape.dim)

    @cache
    def read(data: bytes) -> tuple[str, Shape | None]:
        kind = onnx.TypeProto.FromString(data)
        if not kind.HasField("tensor_type"):
            return "", None
        tensor = kind.tensor_type
        return dtype_name(tensor.elem_type), _shape(tensor.shape, named) if tensor.HasField("shape") else None

    return lambda value: read(value.type.SerializeToString())


def _constants(graph: onnx.GraphProto, folder: Path) -> Iterable[Tensor]:
    for tensor in graph.initializer:
        shape = tuple(tensor.dims)
        values = _small_values(tensor, folder)
        yield Tensor(tensor.name, dtype_name(tensor.data_type), shape, constant=True, values=values)


def _least(graph: onnx.GraphProto, folder: Path) -> Callable[[str], float | None]:
    """A reader of the least element of a constant of floats, NaN aside; None for what is none."""
    constants = cache(lambda: {tensor.name: tensor for tensor in graph.initializer})

    @cache
    def read(name: str) -> float | None:
        tensor = constants().get(name)
        if tensor is None or tensor.data_type not in _FLOATS or not elements(tensor):
            return None
        return float(np.fmin.reduce(read_array(tensor, folder), axis=None))

    return read


def read_structure(
    model: onnx.ModelProto,
    fingerprint: str,
    folder: Path,
    origins: Mapping[str, tuple[str, ...]],
    known: Sequence[Op] | None = None,
) -> Structure:
    """The structure of a model: sorted ops, all tensors that they, the inputs or the outputs name.

    Args:
        folder: where external data lies; only that of small constants is read.
        origins: for ops that others were folded into, the names of those.
        known: the ops, sorted, if they were read from these very nodes before.

    Raises:
        ModelError: a small constant's external data cannot be read.
    """
    graph = model.graph
    type_of = _types(graph.input)
    # Which values are no tensors may have come out since.
    if known is None or _not_tensors(graph) or any(op.excluded == _NO_TENSORS for op in known):
        known = list(chain.from_iterable(topological(read_ops(graph))))
    masked = masking(known, _least(graph, folder))
    ops = tuple(
        replace(op, excluded=op.excluded or masked.get(op.name), origins=origins.get(op.name, op.origins))
        if op.name in origins or op.name in masked
        else op
        for op in known
    )
    inputs = data_inputs(graph)
    outputs = tuple(value.name for value in graph.output)
    used = {name for op in ops for name in (*op.inputs, *op.outputs) if name is not None} | {*inputs, *outputs}
    values = ((value.name, value) for value in (*graph.value_info, *graph.output, *graph.input))
    typed = {name: Tensor(name, *type_of(value)) for name, value in values}
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
