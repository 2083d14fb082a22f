"""A digest of what a model computes and what its users can name, the same whatever order its nodes have.

It is taken from the user's file before normalising: what normalising makes of a model depends on the
versions of libraries, and a stored calibration must still know its model after an update.

Counted: op types, names of ops and tensors, attributes, weights (type, shape, elements), inputs and outputs
in their order with their types, operator sets, local functions. Not counted: the order of nodes and
weights, how and where the file encodes its numbers, doc strings, producer, metadata, inferred shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx

from qgraph.errors import ModelError
from qgraph.ir.onnx_tensors import stored_bytes
from qgraph.ir.onnx_walk import bodies

DIGEST_BYTES = 32


def fingerprint(model: onnx.ModelProto, folder: Path) -> str:
    """The digest of a model (BLAKE2b) as 64 hexadecimal digits. External data is streamed, never held.

    Args:
        folder: where the model's external data lies.

    Raises:
        ModelError: external data that cannot be read.
    """
    opsets = sorted(f"{_domain(entry.domain)}={entry.version}".encode() for entry in model.opset_import)
    functions = sorted(_function(function, folder) for function in model.functions)
    return _digest([b"model", *opsets, *functions, _graph(model.graph, folder)]).hex()


def _digest(parts: Iterable[bytes]) -> bytes:
    """Digest of a list: each part's length goes before it, so that no two lists read alike."""
    framed = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "little"), part)])
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES).digest()


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _graph(graph: onnx.GraphProto, folder: Path) -> bytes:
    """Digest of a graph. Bodies inside it come first, innermost first, without recursion."""
    pending, order = [graph], []
    while pending:
        current = pending.pop()
        order.append(current)
        pending.extend(body for node in current.node for body in bodies(node))
    digests: dict[int, bytes] = {}
    for current in reversed(order):
        digests[id(current)] = _flat_graph(current, folder, digests)
    # `order` keeps the graphs alive until here: an id is only unique among living objects.
    return digests[id(order[0])]


def _flat_graph(graph: onnx.GraphProto, folder: Path, digests: dict[int, bytes]) -> bytes:
    weights = {tensor.name for tensor in graph.initializer}
    return _digest(
        [
            b"graph",
            *(_value(value) for value in graph.input if value.name not in weights),
            b"outputs",
            *(_value(value) for value in graph.output),
            b"weights",
            *sorted(_tensor(tensor, folder) for tensor in graph.initializer),
            b"nodes",
            *sorted(_node(node, folder, digests) for node in graph.node),
        ]
    )


def _function(function: onnx.FunctionProto, folder: Path) -> bytes:
    body = onnx.GraphProto(node=function.node)
    interface = [function.domain, function.name, *function.input, "->", *function.output, "(", *function.attribute]
    defaults = (_attribute(attribute, folder, {}) for attribute in function.attribute_proto)
    opsets = (f"{_domain(entry.domain)}={entry.version}".encode() for entry in function.opset_import)
    named = [text.encode() for text in interface]
    return _digest([b"function", *named, *sorted(defaults), *sorted(opsets), _graph(body, folder)])


def _value(value: onnx.ValueInfoProto) -> bytes:
    return _digest([value.name.encode(), value.type.SerializeToString(deterministic=True)])


def _node(node: onnx.NodeProto, folder: Path, digests: dict[int, bytes]) -> bytes:
    return _digest(
        [
            f"{_domain(node.domain)}/{node.op_type}/{node.overload}".encode(),
            node.name.encode(),
            *[name.encode() for name in node.input],
            b"->",
            *[name.encode() for name in node.output],
            b"attributes",
            *sorted([_attribute(attribute, folder, digests) for attribute in node.attribute]),
        ]
    )


def _attribute(attribute: onnx.AttributeProto, folder: Path, digests: dict[int, bytes]) -> bytes:
    kind = onnx.AttributeProto
    head = f"{attribute.name}:{attribute.type}".encode()
    if attribute.type == kind.TENSOR:
        return _digest([head, _tensor(attribute.t, folder, anonymous=True)])
    if attribute.type == kind.TENSORS:
        return _digest([head, *(_tensor(tensor, folder, anonymous=True) for tensor in attribute.tensors)])
    if attribute.type == kind.GRAPH:
        return _digest([head, digests[id(attribute.g)]])
    if attribute.type == kind.GRAPHS:
        return _digest([head, *(digests[id(body)] for body in attribute.graphs)])
    if attribute.doc_string:
        plain = onnx.AttributeProto()
        plain.CopyFrom(attribute)
        plain.ClearField("doc_string")
        attribute = plain
    return _digest([head, attribute.SerializeToString(deterministic=True)])


def _tensor(tensor: onnx.TensorProto, folder: Path, *, anonymous: bool = False) -> bytes:
    """Digest of a tensor's name (that of an attribute's tensor is of no use), type, shape and elements."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    name = "" if anonymous else tensor.name
    state.update(_digest([name.encode(), f"{tensor.data_type}:{list(tensor.dims)}".encode()]))
    if tensor.data_type == onnx.TensorProto.STRING:
        state.update(_digest(tensor.string_data))
        return state.digest()
    try:
        for chunk in stored_bytes(tensor, folder):
            state.update(chunk)
    except (TypeError, ValueError) as error:
        raise ModelError("a tensor that cannot be read", f"{tensor.name}: {error}", "export the model again") from error
    return state.digest()
