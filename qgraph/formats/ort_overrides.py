"""``TensorQuantOverrides`` of onnxruntime's quantizer, as JSON: a tensor's name and one dict, or one per channel.

JSON knows neither onnxruntime's `QuantType` nor numpy's types; docs/formats.md has the lines that put them in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qgraph.errors import ModelError
from qgraph.formats.json_fields import Fields, parsed
from qgraph.formats.scale_table import ScaleTable, TensorScale, Written, loss, narrow_ranges, second_scales
from qgraph.ir.slots import parts

TYPES: Mapping[str, tuple[int, bool]] = {
    f"Q{'' if signed else 'U'}Int{bits}": (bits, signed) for bits in (4, 8, 16) for signed in (True, False)
}
"""onnxruntime's names of integer types: bits, and whether they are signed."""


def write_overrides(table: ScaleTable) -> Written:
    """Everything but biases, which onnxruntime derives, and activations per channel, which it does not know."""
    written: dict[str, list[dict[str, Any]]] = {}
    channels = []
    for name, one in table.tensors.items():
        if name in table.biases:
            continue
        if one.axis is not None and name not in table.constants:
            channels.append(name)
            continue
        axis = {} if one.axis is None else {"axis": one.axis}
        kind = {"quant_type": _type_name(one), **axis}
        written[name] = [{**kind, **_numbers(*pair)} for pair in zip(one.scale, one.offset, strict=True)]
    converted = _converted(table, written)
    losses = [
        *loss("activations with a scale per channel, left out", channels),
        *narrow_ranges(table, written),
        *second_scales(table, converted),
        *loss("biases, left out: onnxruntime derives their scales", table.biases),
        *loss("not quantized, left out: onnxruntime calibrates what its own rules quantize", table.floats),
    ]
    return Written(json.dumps(written, indent=1, ensure_ascii=False) + "\n", tuple(losses))


def _type_name(one: TensorScale) -> str:
    bits = next(width for width in (4, 8, 16, 32) if width >= one.bits)
    return f"Q{'' if one.signed else 'U'}Int{bits}"


def _numbers(scale: float, offset: int) -> dict[str, Any]:
    return {"scale": scale, "zero_point": offset}


def _converted(table: ScaleTable, written: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Say with ``convert`` what a tensor's readers of another integer type read; returns the readers that are said so.

    onnxruntime knows one such conversion of a tensor, and none of a constant.
    """
    said: list[tuple[str, str]] = []
    for (tensor, slot), scale in table.readers.items():
        made, op = table.tensors[tensor], parts(slot).op
        if tensor in table.constants or tensor not in written or op is None or scale.axis is not None:
            continue
        kind, numbers = _type_name(scale), _numbers(scale.scale[0], scale.offset[0])
        if kind == _type_name(made):
            continue
        convert = written[tensor][0].setdefault("convert", {"quant_type": kind, "recv_nodes": [], **numbers})
        if convert["quant_type"] == kind and numbers.items() <= convert.items():
            convert["recv_nodes"].append(op)
            said.append((tensor, slot))
    return said


def read_overrides(text: str, source: str) -> ScaleTable:
    """Read overrides that have scales.

    Raises:
        ModelError: it is no such file, or an entry lacks its scale: a type or a range alone is nothing a run can hold.
    """
    root = Fields(parsed(text, source), source)
    tensors: dict[str, TensorScale] = {}
    readers: dict[tuple[str, str], TensorScale] = {}
    for name in root.names:
        entries = root.children(name)
        if not entries:
            continue
        tensors[name] = _read_entries(entries, entries[0].optional_integer("axis"))
        if entries[0].has("convert"):
            convert = entries[0].child("convert")
            read = _read_entries([convert], None)
            readers |= {(name, op): read for op in convert.texts("recv_nodes")}
    return ScaleTable(dict(sorted(tensors.items())), readers=readers)


def _read_entries(entries: list[Fields], axis: int | None) -> TensorScale:
    kind = entries[0].text("quant_type")
    if kind not in TYPES:
        raise ModelError("unknown quant_type", f"{entries[0].place}: {kind}", f"use one of {', '.join(TYPES)}")
    bits, signed = TYPES[kind]
    if len(entries) > 1 and axis is None:
        raise ModelError("several scales of one tensor, and no axis", entries[0].place, "add axis to its first dict")
    for entry in entries[1:]:
        entry.refuse_another(entries[0], "quant_type")
    scale = tuple(entry.number("scale") for entry in entries)
    offset = tuple(entry.integer("zero_point") for entry in entries)
    return TensorScale(bits, scale, offset, signed, axis=axis)
