"""Encodings of AIMET, which QNN and QAIRT read as quantization overrides: versions 0.6.1, 1.0.0 and 2.0.0.

Up to 1.0.0 an encoding is a grid of unsigned integers: ``offset = round(min / scale)`` is minus its zero point, and
whether the integers are signed is nowhere said. 2.0.0 has an integer type and ONNX's zero point::

    int8, scale 0.5, zero point -1     0.6.1, 1.0.0: offset -127, min -63.5, max 64     2.0.0: int8, y_zero_point -1

0.6.1 writes booleans as texts and one object per channel, without the axis; 1.0.0 lists, without the axis either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from qgraph.errors import ModelError
from qgraph.formats.json_fields import REPAIR, Fields, parsed
from qgraph.formats.scale_table import ScaleTable, TensorScale, Written, loss, narrow_ranges, second_scales

SECTIONS = ("activation_encodings", "param_encodings")

QNN = "not quantized, left out: QNN computes scales for them anew"


def write_061(table: ScaleTable) -> Written:
    """Version 0.6.1: a dict by tensor."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, one in _without_biases(table):
        sections[_section(name, table)][name] = [_grid(one, index) for index in range(len(one.scale))]
    body = {"version": "0.6.1", **sections, "quantizer_args": _quantizer_args(table)}
    return Written(_text(body), (*_losses(table), *_lost_axes(table)))


def write_100(table: ScaleTable) -> Written:
    """Version 1.0.0: a list of objects with names."""
    sections: dict[str, list[Any]] = {name: [] for name in SECTIONS}
    for name, one in _without_biases(table):
        kind = "PER_TENSOR" if one.axis is None and len(one.scale) == 1 else "PER_CHANNEL"
        sections[_section(name, table)].append(
            {
                "name": name,
                "enc_type": kind,
                "dtype": "INT",
                "bw": one.bits,
                "is_sym": bool(one.symmetric),
                "scale": list(one.scale),
                "offset": [-point for point in one.unsigned_offset],
            }
        )
    body = {"version": "1.0.0", **sections, "quantizer_args": _quantizer_args(table), "excluded_layers": []}
    return Written(_text(body), (*_losses(table), *_lost_axes(table)))


def write_200(table: ScaleTable) -> Written:
    """Version 2.0.0: integer types and zero points as in ONNX; biases are in it."""
    encodings: list[dict[str, Any]] = []
    for name, one in table.tensors.items():
        per_channel = one.axis is not None
        entry: dict[str, Any] = {"name": name, "output_dtype": f"{'' if one.signed else 'u'}int{one.bits}"}
        entry["y_scale"] = list(one.scale) if per_channel else one.scale[0]
        if any(one.offset):
            entry["y_zero_point"] = list(one.offset) if per_channel else one.offset[0]
        if per_channel:
            entry["axis"] = one.axis
        encodings.append(entry)
    losses = [*narrow_ranges(table, table.tensors), *second_scales(table), *loss(QNN, table.floats)]
    return Written(_text({"version": "2.0.0", "encodings": encodings}), tuple(losses))


def _without_biases(table: ScaleTable) -> Iterable[tuple[str, TensorScale]]:
    return ((name, one) for name, one in table.tensors.items() if name not in table.biases)


def _section(name: str, table: ScaleTable) -> str:
    return SECTIONS[name in table.constants]


def _grid(one: TensorScale, channel: int) -> dict[str, Any]:
    scale, offset = one.scale[channel], -one.unsigned_offset[channel]
    return {
        "bitwidth": one.bits,
        "dtype": "int",
        "is_symmetric": str(bool(one.symmetric)),
        "max": scale * (offset + (1 << one.bits) - 1),
        "min": scale * offset,
        "offset": offset,
        "scale": scale,
    }


def _quantizer_args(table: ScaleTable) -> dict[str, Any]:
    """AIMET's summary of the settings, from the first tensor of each kind."""
    activations = [one for name, one in table.tensors.items() if name not in table.constants]
    weights = [one for name, one in _without_biases(table) if name in table.constants]
    return {
        "activation_bitwidth": activations[0].bits if activations else 8,
        "dtype": "int",
        "is_symmetric": bool(weights and weights[0].symmetric),
        "param_bitwidth": weights[0].bits if weights else 8,
        "per_channel_quantization": any(one.axis is not None for one in weights),
        "quant_scheme": "post_training_tf",
    }


def _losses(table: ScaleTable) -> list[str]:
    written = [name for name, _ in _without_biases(table)]
    return [
        *narrow_ranges(table, written),
        *second_scales(table),
        *loss("biases, left out: QNN derives their scales", table.biases),
        *loss(QNN, table.floats),
    ]


def _lost_axes(table: ScaleTable) -> list[str]:
    found = [name for name, one in table.tensors.items() if one.axis is not None and name not in table.constants]
    return loss("activations with a scale per channel, written without their axis", found)


def _text(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def read_encodings(text: str, source: str) -> ScaleTable:
    """Read encodings of any version; what is said to be float is as if it were not there.

    Raises:
        ModelError: it is no such file, or is quantized per block.
    """
    root = Fields(parsed(text, source), source)
    version = root.text("version")
    found: dict[str, TensorScale] = {}
    constants: set[str] = set()
    for section in ("encodings",) if version.startswith("2.") else SECTIONS:
        if not root.has(section):
            continue
        for name, one in _entries(root, section, version):
            if name in found:
                raise ModelError("a tensor twice", f"{source}: {section}: {name}", REPAIR)
            if one is not None:
                found[name] = one
                if section == "param_encodings":
                    constants.add(name)
    return ScaleTable(dict(sorted(found.items())), frozenset(constants), origin={"encodings": version})


def _entries(root: Fields, section: str, version: str) -> Iterable[tuple[str, TensorScale | None]]:
    if version.startswith("0."):
        by_name = root.child(section)
        return ((name, _read_061(by_name.children(name))) for name in by_name.names)
    read = _read_100 if version.startswith("1.") else _read_200
    return ((one.text("name"), read(one)) for one in root.children(section))


def _read_061(channels: list[Fields]) -> TensorScale | None:
    if not channels or (channels[0].has("dtype") and channels[0].text("dtype").lower() == "float"):
        return None
    first = channels[0]
    for one in channels[1:]:
        one.refuse_another(first, "dtype", "bitwidth", "is_symmetric")
    symmetric = first.flag("is_symmetric") if first.has("is_symmetric") else None
    scale = tuple(_scale_061(one) for one in channels)
    offset = tuple(map(_zero_point_061, channels, scale))
    return TensorScale(first.integer("bitwidth"), scale, offset, symmetric=symmetric)


def _scale_061(one: Fields) -> float:
    """The scale; old files have only the range."""
    if one.has("scale"):
        return one.number("scale")
    return (one.number("max") - one.number("min")) / ((1 << max(1, min(32, one.integer("bitwidth")))) - 1)


def _zero_point_061(one: Fields, scale: float) -> int:
    """Minus the offset; old files have only the range, which begins so many steps below zero."""
    offset = 0.0
    if one.has("offset"):
        offset = one.number("offset")
    elif one.has("min") and scale > 0:
        offset = one.number("min") / scale
    if not math.isfinite(offset):
        raise ModelError("offset is not a finite number", one.place, REPAIR)
    return -round(offset)


def _read_100(one: Fields) -> TensorScale | None:
    if one.text("dtype").lower() == "float":
        return None
    kind = one.text("enc_type") if one.has("enc_type") else "PER_TENSOR"
    if kind not in ("PER_TENSOR", "PER_CHANNEL"):
        raise ModelError(f"scales per block ({kind})", one.place, "qgraph reads scales per tensor and per channel")
    if one.has("zero_point_shift") and any(one.numbers("zero_point_shift")):
        raise ModelError("a zero point between two integers", one.place, "use whole zero points")
    symmetric = one.flag("is_sym") if one.has("is_sym") else None
    offset = tuple(-point for point in one.integers("offset"))
    return TensorScale(one.integer("bw"), one.numbers("scale"), offset, symmetric=symmetric)


def _read_200(one: Fields) -> TensorScale | None:
    kind = one.text("output_dtype").lower()
    if kind.startswith(("float", "bfloat")):
        return None
    digits = kind.removeprefix("u").removeprefix("int")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 2):
        raise ModelError("unknown output_dtype", f"{one.place}: {kind}", "use int2 to uint32")
    if one.has("block_size") or not one.has("y_scale"):
        raise ModelError("scales per block", one.place, "qgraph reads scales per tensor and per channel")
    scale = one.numbers("y_scale")
    offset = one.integers("y_zero_point") if one.has("y_zero_point") else (0,) * len(scale)
    axis = one.optional_integer("axis")
    if len(scale) > 1 and axis is None:
        raise ModelError("several scales of one tensor, and no axis", one.place, REPAIR)
    return TensorScale(int(digits), scale, offset, not kind.startswith("u"), axis=axis)
