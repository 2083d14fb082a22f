"""A quantized model as scales by tensor, so that it can be imported like any other file of scales."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qgraph.errors import ModelError
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.scale_table import ScaleTable, TensorScale
from qgraph.ir.elements import Structure
from qgraph.ir.slots import graph_constant, graph_input, graph_output, input_slot, makes_its_tensor, output_slot

SUFFIXES = ("_quantized", "/quantized")
"""What onnxruntime's quantizer and qgraph append to the name of a tensor for its integers."""


def scales_of(model: QuantizedModel, float_model: Structure) -> ScaleTable:
    """The scales of a quantized model, under the names of the float model that it was made from.

    A tensor that has another name there is the one whose name it has but for a suffix, else the one at the same place
    of the op of that name.

    Raises:
        ModelError: a tensor is in a type that is no integer, as float8e4m3fn, so that its values are not evenly spaced.
    """
    places = dict(_places(model.structure))
    names = _names(model.structure, float_model, {places[slot] for slot in model.quantizations})
    constants = {names.get(tensor.name, tensor.name) for tensor in model.structure.tensors if tensor.constant}
    tensors: dict[str, TensorScale] = {}
    readers: dict[tuple[str, str], TensorScale] = {}
    for slot in sorted(model.quantizations, key=lambda slot: (not makes_its_tensor(slot), slot)):
        tensor = names.get(places[slot], places[slot])
        one = model.quantizations[slot][0]
        if not one.dtype.removeprefix("u").startswith("int"):
            raise ModelError("a scale of no integers", f"{tensor}: {one.dtype}", "import a file of integers")
        found = _scale(one, constant=tensor in constants)
        if tensors.setdefault(tensor, found) != found:
            readers[tensor, slot] = found
    return ScaleTable(dict(sorted(tensors.items())), frozenset(constants & tensors.keys()), readers=readers)


def _places(structure: Structure) -> Iterator[tuple[str, str]]:
    """Every slot with its tensor."""
    for op in structure.ops:
        yield from ((input_slot(op.name, index), name) for index, name in enumerate(op.inputs) if name is not None)
        yield from ((output_slot(op.name, index), name) for index, name in enumerate(op.outputs) if name is not None)
    yield from ((graph_input(name), name) for name in structure.inputs)
    yield from ((graph_output(name), name) for name in structure.outputs)
    yield from ((graph_constant(tensor.name), tensor.name) for tensor in structure.tensors if tensor.constant)


def _names(quantized: Structure, float_model: Structure, with_scale: Collection[str]) -> dict[str, str]:
    """The names in the float model of tensors that have another one in the quantized model.

    A float weight may be there beside its integers: for a subgraph that reads it too. Those have its name then.
    """
    known = {tensor.name for tensor in float_model.tensors}
    taken = {tensor.name for tensor in quantized.tensors} & known
    free = known - taken
    twins = {op.name: op for op in float_model.ops}
    found: dict[str, str] = {}
    for tensor in quantized.tensors:
        stems = [tensor.name.removesuffix(suffix) for suffix in SUFFIXES if tensor.name.endswith(suffix)]
        if tensor.name not in known and stems and stems[0] in known and stems[0] not in with_scale:
            found[tensor.name] = stems[0]
    for op in quantized.ops:
        twin = twins.get(op.name)
        if twin is None or twin.type != op.type:
            continue
        for here, there in ((op.inputs, twin.inputs), (op.outputs, twin.outputs)):
            for name, other in zip(here, there, strict=False):
                if name is not None and other is not None and name not in known and other in free:
                    found.setdefault(name, other)
    return found


def _scale(one: Quantization, *, constant: bool) -> TensorScale:
    """A constant's least and greatest integer are not the ends of its range, which is not known."""
    bits = int(one.dtype.removeprefix("u").removeprefix("int"))
    low, high = (None, None) if constant else (one.low, one.high)
    signed = not one.dtype.startswith("u")
    return TensorScale(bits, one.scale, one.offset, signed, quant_min=low, quant_max=high, axis=one.axis)
