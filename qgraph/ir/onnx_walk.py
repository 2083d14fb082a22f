"""Everything that lies inside an ONNX model, found without recursion: graphs, nodes, tensors, captured names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx

# Looked up once: on large models the lookups in the generated class cost more than the walk.
_GRAPH, _GRAPHS = onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS
_TENSOR, _TENSORS = onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds as attributes: the branches of an If, the body of a Loop."""
    return [body for attribute in node.attribute for body in _graphs(attribute)]


def _graphs(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    kind = attribute.type
    if kind == _GRAPH:
        return (attribute.g,)
    return attribute.graphs if kind == _GRAPHS else ()


def nodes_within(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes given and all nodes of their bodies, at any depth."""
    pending = [nodes]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
            continue
        yield node
        if inner := bodies(node):
            pending.extend(iter(body.node) for body in inner)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a model: of its graph, of their bodies, of its local functions."""
    yield from nodes_within(iter(model.graph.node))
    for function in model.functions:
        yield from nodes_within(iter(function.node))


def all_attributes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.AttributeProto]:
    """The attributes of these nodes, in their order."""
    return [attribute for node in nodes for attribute in node.attribute]


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All dense tensors of a model: initializers and attributes, at any depth."""
    return tensors_within(model, all_attributes(all_nodes(model)))


def tensors_within(model: onnx.ModelProto, attributes: Sequence[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    """The same, for one who has all attributes of the model at hand."""
    yield from model.graph.initializer
    for attribute in attributes:
        kind = attribute.type
        if kind == _TENSOR:
            yield attribute.t
        elif kind == _TENSORS:
            yield from attribute.tensors
        for body in _graphs(attribute):
            yield from body.initializer


def texts(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], attributes: Sequence[onnx.AttributeProto]
) -> Iterator[str]:
    """All names in a model. Those that are not UTF-8 come as bytes: that is how protobuf hands them out."""
    for graph in (model.graph, *(body for attribute in attributes for body in _graphs(attribute))):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        yield graph.name
    for entry in model.opset_import:
        yield entry.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
    for attribute in attributes:
        yield attribute.name
    for tensor in tensors_within(model, attributes):
        yield tensor.name


def has_sparse(model: onnx.ModelProto, attributes: Sequence[onnx.AttributeProto]) -> bool:
    """Whether any weight is stored as a sparse tensor."""
    return bool(model.graph.sparse_initializer) or any(
        attribute.type in _SPARSE or any(body.sparse_initializer for body in _graphs(attribute))
        for attribute in attributes
    )


def captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the bodies of a node read from outside, sorted.

    ::

        If(cond)                      captured: x
          └─ then: y = Relu(x)        y is the body's own
    """
    pending: list[tuple[onnx.GraphProto, tuple[frozenset[str], ...]]] = [(body, ()) for body in bodies(node)]
    if not pending:
        return ()
    found: set[str] = set()
    while pending:
        body, enclosing = pending.pop()
        own = frozenset(
            [value.name for value in body.input]
            + [tensor.name for tensor in body.initializer]
            + [name for inner in body.node for name in inner.output]
        )
        scopes = (*enclosing, own)
        used = [name for inner in body.node for name in inner.input] + [value.name for value in body.output]
        for name in used:
            if name and not any(name in scope for scope in scopes):
                found.add(name)
        pending += [(nested, scopes) for inner in body.node for nested in bodies(inner)]
    return tuple(sorted(found))
