"""Everything that lies inside an ONNX model, found without recursion: graphs, nodes, tensors, captured names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

# Looked up once: on large models the lookups in the generated class cost more than the walk.
_GRAPH, _GRAPHS = onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS
_TENSOR, _TENSORS = onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS
_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds as attributes: the branches of an If, the body of a Loop."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        kind = attribute.type
        if kind == _GRAPH:
            found.append(attribute.g)
        elif kind == _GRAPHS:
            found.extend(attribute.graphs)
    return found


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


def all_tensors(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto] | None = None) -> Iterator[onnx.TensorProto]:
    """All dense tensors of a model: initializers and attributes, at any depth; `nodes` are all of its nodes."""
    yield from model.graph.initializer
    for node in all_nodes(model) if nodes is None else nodes:
        for attribute in node.attribute:
            kind = attribute.type
            if kind == _TENSOR:
                yield attribute.t
            elif kind == _TENSORS:
                yield from attribute.tensors
        for body in bodies(node):
            yield from body.initializer


def texts(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """All names in a model. Those that are not UTF-8 come as bytes: that is how protobuf hands them out."""
    for graph in (model.graph, *(body for node in nodes for body in bodies(node))):
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
        for attribute in node.attribute:
            yield attribute.name
    for tensor in all_tensors(model, nodes):
        yield tensor.name


def has_sparse(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether any weight is stored as a sparse tensor."""
    return bool(model.graph.sparse_initializer) or any(
        any(attribute.type in _SPARSE for attribute in node.attribute)
        or any(body.sparse_initializer for body in bodies(node))
        for node in nodes
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
