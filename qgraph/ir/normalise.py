"""Bring an ONNX model into the one form that the rest of qgraph knows.

After it: no local functions, opset 13 or newer (per-channel QuantizeLinear needs it), every constant an
initializer, no op that only depends on constants, BatchNormalization and bias folded where exact, no unused
nodes or weights, nodes in the canonical order, and names that are unique. Tensors that carry data keep the
names of the user's model, and so do ops; Identity and Dropout on data stay for that reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir
from onnx import helper, inliner
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from qgraph.errors import ModelError
from qgraph.ir.elements import Op
from qgraph.ir.fold_affine import fold_affine
from qgraph.ir.fold_constants import fold_constants
from qgraph.ir.onnx_inference import ONNX_ERRORS
from qgraph.ir.onnx_light import MINIMUM_IR_VERSION, convert_opset, infer_shapes, library_words
from qgraph.ir.onnx_structure import data_inputs, op_names, standard_opset
from qgraph.ir.onnx_tensors import elements, inline, is_external
from qgraph.ir.onnx_walk import bodies
from qgraph.ir.order import topological

TARGET_OPSET = 13
"""Older models are raised to this opset, newer ones keep theirs."""

INLINE_ELEMENTS = 64
"""External tensors up to this size are taken into the model, so that libraries can see axes and bounds."""

_GENERATED = "graph:"
"""Marks names that are no user's while the model is worked on; users' names cannot begin so."""


def normalise(model: onnx.ModelProto, folder: Path, which: str) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """The normal form of a model.

    Args:
        model: valid ONNX, nodes in topological order. It may be changed.
        folder: where external data lies.
        which: the model, as its user knows it.

    Returns:
        The new model, and for each op that others were folded into, their names (sorted).

    Raises:
        ModelError: the opset cannot be raised, or the libraries cannot read a part of the model.
    """
    for tensor in model.graph.initializer:
        if is_external(tensor) and elements(tensor) <= INLINE_ELEMENTS:
            inline(tensor, folder)
    if model.functions:
        model = _inline_functions(model, which)
    if standard_opset(model) < TARGET_OPSET:
        model = convert_opset(model, TARGET_OPSET, which)
    _drop_weights_from_inputs(model)
    result, origins = model, dict[str, tuple[str, ...]]()
    if _may_change(model.graph):
        _mark_generated_names(model)
        with _quiet():
            result, origins = _rewrite(model, folder, which)
    renamed = _final_names(result)
    infer_shapes(result)
    return result, {renamed[name]: sources for name, sources in origins.items() if name in renamed}


def sort_nodes(model: onnx.ModelProto, ops: Sequence[Op]) -> list[Op]:
    """Put the nodes of the main graph in the canonical order, unless a cycle forbids it.

    Args:
        ops: what `read_ops` makes of the nodes, in their order.

    Returns:
        The ops in the order that the nodes have now.
    """
    ordered, stuck = topological(ops)
    if stuck or ordered == list(ops):
        return list(ops)
    nodes = dict(zip((op.name for op in ops), model.graph.node, strict=True))
    copy = onnx.GraphProto(node=[nodes[op.name] for op in ordered])
    model.graph.ClearField("node")
    model.graph.node.extend(copy.node)
    return ordered


def _inline_functions(model: onnx.ModelProto, which: str) -> onnx.ModelProto:
    try:
        inlined: onnx.ModelProto = inliner.inline_local_functions(model, convert_version=True)
    except ONNX_ERRORS as error:
        what, cure = "onnx cannot inline the model's functions", "export the model without local functions"
        raise ModelError(what, f"{which}: {library_words(error)}", cure) from error
    return inlined


def _drop_weights_from_inputs(model: onnx.ModelProto) -> None:
    """Old files list every weight as an input too; qgraph's inputs are what the data provides."""
    kept = set(data_inputs(model.graph))
    inputs = [value for value in model.graph.input if value.name in kept]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    minimum = max(MINIMUM_IR_VERSION, helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True))
    model.ir_version = max(model.ir_version, minimum)


def _may_change(graph: onnx.GraphProto) -> bool:
    """Whether there may be something to lift, fold or clean.

    Where there is nothing, the model need not go through the library's own form, which takes as long as all else.
    """
    constants = {tensor.name for tensor in graph.initializer}
    no_data = constants | {""}
    made = set(constants)
    read = {"", *(value.name for value in graph.output)}
    for node in graph.node:
        kind, sources, results = node.op_type, list(node.input), list(node.output)
        inputs = set(sources)
        if kind in ("BatchNormalization", "Constant") or inputs <= no_data or bodies(node):
            return True
        if kind == "Add" and not inputs.isdisjoint(constants):
            return True
        if not results or "" in (sources[-1], results[-1]):  # what is left out at the end is cut off
            return True
        made.update(results)
        read |= inputs
    known = made.union(value.name for value in graph.input)
    return not (made <= read and known.issuperset(value.name for value in graph.value_info))


def _mark_generated_names(model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    for node, name in zip(nodes, op_names(nodes), strict=True):
        node.name = name if name == node.name else _GENERATED + name


def _rewrite(model: onnx.ModelProto, folder: Path, which: str) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """Lift, fold, clean. Origins are keyed by the marked names."""
    try:
        work = onnx_ir.serde.deserialize_model(model)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(work)
        constants = fold_constants(work, folder)
        swallowed = fold_affine(work, folder)
        RemoveUnusedNodesPass()(work)
        result = onnx_ir.serde.serialize_model(work)
    except (onnx_ir.passes.PassError, onnx_ir.serde.SerdeError, NotImplementedError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        what, cure = "the ONNX libraries cannot read the model", "export the model again"
        raise ModelError(what, f"{which}: {library_words(cause)}", cure) from error
    origins = {}
    for node in result.graph.node:
        sources = set(swallowed.get(node.name, ()))
        sources.update(name for source in node.input for name in constants.get(source, ()))
        if sources:
            origins[node.name] = tuple(sorted(name.removeprefix(_GENERATED) for name in sources))
    return result, origins


def _final_names(model: onnx.ModelProto) -> dict[str, str]:
    """Give every node its final name, and return it by the marked one."""
    nodes = model.graph.node
    marked = [node.name for node in nodes]
    for node, name in zip(nodes, op_names(nodes), strict=True):
        if node.name != name:
            node.name = name
    return dict(zip(marked, (node.name for node in nodes), strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings off the user's terminal: what matters becomes a `ModelError`."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
