"""Names of ops after the modules of the user's code that they lie in.

Torch's exporter numbers its ops and notes for each the modules around it. A module that runs as one op gives it its
path, one that runs as several gives each its path and type::

    features.0.0        Conv           features.3.conv.3   Conv (with the BatchNorm of features.3.conv.4 folded in)
    features.0.2        Clip           features.3/Add      Add, in forward() of features.3 itself
    encoder.attn/MatMul, encoder.attn/MatMul_1, encoder.attn/Softmax
    ReduceMean          in forward() of the whole

The exporter folds a BatchNorm into the op before it. That op belongs to the module of its weight; the path of the
BatchNorm is told beside, so that either module's path leads to the op.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Mapping

import onnx_ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of a node's metadata: a list, the modules around it from outside to inside and then the program's node."""

RULE = "pkg.onnxscript.rewriter.rule_name"
"""Key of a node's metadata: which rules of the exporter's optimizer made it."""

_FOLDED = "FuseBatchNorm"

_NOWHERE = "_empty_nn_module_stack"
"""How torch calls the module around an op of its own making."""


def name_ops(model: onnx_ir.Model) -> dict[str, str]:
    """Rename the ops of an exported model in place, and drop what else the exporter noted.

    Its notes hold lines of the user's source and the paths of its files, which do not belong into a model.

    Returns:
        For each op that a BatchNorm was folded into, the path of that one, by the op's name.
    """
    modules = {id(node): _module(node) for node in model.graph}
    inside: defaultdict[str, list[onnx_ir.Node]] = defaultdict(list)
    for node in model.graph:
        inside[modules[id(node)]].append(node)
    parents = {path.rpartition(".")[0] for path in _with_parents(inside)}
    taken = Counter(inside)  # paths that ops of other modules cannot have
    for path, nodes in inside.items():
        alone = len(nodes) == 1 and path != "" and path not in parents
        for node in nodes:
            node.name = path if alone else _unused(f"{path}/{node.op_type}".lstrip("/"), taken)
    folded = {node.name: _scope(node) for node in model.graph if node.name is not None and _is_folded(node)}
    _drop_notes(model)
    return {name: path for name, path in folded.items() if path}


def _with_parents(paths: Mapping[str, object]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parts = path.split(".")
        found.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return found


def _unused(name: str, taken: Counter[str]) -> str:
    """The name, with a number from the second time on."""
    number = taken[name]
    taken[name] += 1
    return name if number == 0 else _unused_numbered(name, number, taken)


def _unused_numbered(name: str, number: int, taken: Counter[str]) -> str:
    while taken[f"{name}_{number}"]:
        number += 1
    taken[f"{name}_{number}"] += 1
    return f"{name}_{number}"


def _scope(node: onnx_ir.Node) -> str:
    """The path of the innermost module around the node; empty for the whole."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    path = str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return "" if path.startswith(_NOWHERE) else path


def _is_folded(node: onnx_ir.Node) -> bool:
    return _FOLDED in node.metadata_props.get(RULE, "")


def _module(node: onnx_ir.Node) -> str:
    """The path of the module that a node belongs to."""
    weight = node.inputs[1] if _is_folded(node) and len(node.inputs) > 1 else None
    if weight is not None and weight.is_initializer() and weight.name is not None and "." in weight.name:
        return weight.name.rpartition(".")[0]
    return _scope(node)


def _drop_notes(model: onnx_ir.Model) -> None:
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
