"""What a file of scales says of a float model: read, matched with the model's tensors, and put at its slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qgraph.constraints.model import Constraints, Fixed
from qgraph.errors import ModelError, NotFoundError
from qgraph.formats.quantized_onnx import read_quantized_onnx
from qgraph.formats.quantized_scales import scales_of
from qgraph.formats.scale_files import checked, read_scales
from qgraph.formats.scale_table import ScaleTable, loss, resolved
from qgraph.ir.elements import Structure
from qgraph.ir.onnx_import import ImportedModel
from qgraph.ir.onnx_parse import parse
from qgraph.ir.slots import graph_output, input_slot, parts
from qgraph.jobs.question import Posed
from qgraph.tqc import Scheme, to_float32

QDQ = "qdq"


@dataclass(frozen=True, slots=True)
class Stated:
    """The file's parameters at one slot."""

    scheme: Scheme
    scale: tuple[float, ...]
    offset: tuple[int, ...]


def content_of(file: Path) -> bytes:
    """All of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError("cannot read the file", f"{file} ({error.strerror})", "check its name") from error


def read_table(file: Path, content: bytes, name: str | None, float_model: Structure) -> tuple[ScaleTable, str]:
    """The scales in a file, and its format.

    Args:
        name: of the format; None finds it out.

    Raises:
        NotFoundError: no such format.
        ModelError: the file is damaged.
    """
    if name == QDQ or (name is None and file.suffix.lower() == ".onnx"):
        return checked(scales_of(read_quantized_onnx(file), float_model), str(file)), QDQ
    return read_scales(content, str(file), name)


def known_tensors(
    table: ScaleTable, model: ImportedModel, file: Path, *, ignore_unknown: bool
) -> tuple[ScaleTable, tuple[str, ...]]:
    """The part of a table that is about tensors of the model, and what is said of the rest.

    Raises:
        NotFoundError: a name that neither the model nor its file has.
        ModelError: nothing is left.
    """
    known = {tensor.name: tensor for tensor in model.structure.tensors}
    strange = sorted(table.tensors.keys() - known.keys())
    notes: list[str] = []
    if strange:
        graph = parse(model.path)[0].graph
        folded = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
        unknown = [name for name in strange if name not in folded]
        if unknown and not ignore_unknown:
            otherwise = "give the model that the scales are of, or add --ignore-unknown"
            error = NotFoundError.among("tensor", unknown[0], known, otherwise)
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            cure = error.cure if error.cure == otherwise else f"{error.cure} Otherwise {otherwise}"
            raise NotFoundError(f"{error.what} in {file.name}", f"{unknown[0]}{more}", cure)
        notes += loss("not in the model, left out", unknown)
        notes += loss("folded into others when the model is read, left out", set(strange) - set(unknown))
    not_float = [name for name in table.tensors if name in known and not known[name].is_float]
    notes += loss("not float in the model, left out", not_float)
    kept = {name: one for name, one in table.tensors.items() if name in known and known[name].is_float}
    if not kept:
        raise ModelError(
            "no tensor of the file is a float tensor of the model", str(file), "give the model that it is of"
        )
    places = set(_places(model.structure))
    notes += loss(
        "read by an op that does not read them in the model, left out", (t for t, _ in table.readers.keys() - places)
    )
    return replace(table, tensors=kept), tuple(notes)


def _places(structure: Structure) -> Iterable[tuple[str, str]]:
    """Every tensor with each slot and each op that reads it, as `ScaleTable.readers` has them."""
    yield from ((name, graph_output(name)) for name in structure.outputs)
    for op in structure.ops:
        for index, name in enumerate(op.inputs):
            if name is not None:
                yield name, input_slot(op.name, index)
                yield name, op.name


def behind_fused(structure: Structure, constraints: Constraints, table: ScaleTable) -> ScaleTable:
    """A table in which what ends a fused pair has the scale that the file has inside of the pair, if only there.

    So it is where a tool drops the Relu behind a convolution and lets the integers saturate.
    """
    inside = {pair.consumer for pair in constraints.fused}
    tensors = dict(table.tensors)
    for op in structure.ops:
        for index, name in enumerate(op.inputs):
            if name in tensors and input_slot(op.name, index) in inside:
                tensors |= {made: tensors[name] for made in op.outputs if made is not None and made not in tensors}
    return replace(table, tensors=tensors)


def at_slots(structure: Structure, posed: Posed, table: ScaleTable) -> tuple[Constraints, dict[str, Stated]]:
    """The file's parameters at every slot that the target quantizes, and the constraints with the file's schemes."""
    wanted = {slot: group.scheme for group in posed.grouping.groups for slot in group.slots}
    shapes = {tensor.name: tensor.shape for tensor in structure.tensors}
    stated: dict[str, Stated] = {}
    slots = dict(posed.constraints.slots)
    for slot, plan in posed.constraints.slots.items():
        if slot not in wanted:
            continue
        one = table.readers.get((plan.tensor, slot)) or table.readers.get((plan.tensor, parts(slot).op or ""))
        one = one or table.tensors.get(plan.tensor)
        if plan.role == "bias":
            one = None
        if one is not None:
            shape = shapes[plan.tensor]
            scheme, offset = resolved(one, wanted[slot], plan.tensor, _channels(shape, wanted[slot].axis))
            stated[slot] = Stated(scheme, one.scale, offset)
            channels = _channels(shape, scheme.axis)
            if scheme.axis is not None and channels not in (None, len(one.scale)):
                which = f"{plan.tensor}: {len(one.scale)} scales, {channels} channels on axis {scheme.axis}"
                raise ModelError("scales that do not fit the channels", which, "give the model that they are of")
        slots[slot] = replace(plan, scheme=wanted[slot] if one is None else stated[slot].scheme)
    fixed = tuple(
        entry
        for entry in posed.constraints.fixed
        if entry.slot not in stated or stated[entry.slot] == prescribed(entry, wanted)
    )
    return replace(posed.constraints, slots=slots, fixed=fixed), stated


def _channels(shape: tuple[int | str | None, ...] | None, axis: int | None) -> int | None:
    """How many channels a tensor has, if that is known; an axis that it does not have has none."""
    if axis is None or shape is None:
        return None
    length = shape[axis] if axis < len(shape) else 0
    return length if isinstance(length, int) else None


def prescribed(entry: Fixed, schemes: Mapping[str, Scheme]) -> Stated:
    """The parameters that the target prescribes at a slot, as if a file had them."""
    return Stated(schemes[entry.slot], (to_float32(entry.scale),), (entry.offset,))
