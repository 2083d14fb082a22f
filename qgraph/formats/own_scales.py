"""qgraph's own files of scales, which say everything: JSON for programs, CSV for spreadsheets.

JSON: ``{"schema": 1, "format": "qgraph-scales", "origin", "tensors": {name: scale}, "readers": [{"tensor", "slot",
scale}], "floats": {name: reason}}``, where a scale is ``{"bits", "signed", "symmetric", "quant_min", "quant_max",
"axis", "power_of_two", "scale": […], "offset": […]}``; tensors also have ``"kind"`` and ``"group"``.

CSV: the same with a line per channel; lines with a slot are what the slot reads, those without what the tensor is made
with; tensors without a scale have a line with the reason.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from qgraph.errors import ModelError
from qgraph.formats.json_fields import Fields, parsed
from qgraph.formats.scale_table import ScaleTable, TensorScale, Written

FORMAT = "qgraph-scales"

SCHEMA = 1
"""Of the JSON: a file of another one is not read."""

COLUMNS = (
    "tensor", "slot", "kind", "bits", "signed", "symmetric", "quant_min", "quant_max", "power_of_two", "axis",
    "channel", "scale", "offset", "group", "reason",
)  # fmt: skip

KINDS = ("activation", "constant", "bias")


def _kind(name: str, table: ScaleTable) -> str:
    return "bias" if name in table.biases else "constant" if name in table.constants else "activation"


def write_json(table: ScaleTable) -> Written:
    """Everything."""
    body = {
        "schema": SCHEMA,
        "format": FORMAT,
        "origin": dict(table.origin),
        "tensors": {
            name: {"kind": _kind(name, table), "group": table.groups.get(name), **_as_json(one)}
            for name, one in table.tensors.items()
        },
        "readers": [{"tensor": tensor, "slot": slot, **_as_json(one)} for (tensor, slot), one in table.readers.items()],
        "floats": dict(table.floats),
    }
    return Written(json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _as_json(one: TensorScale) -> Mapping[str, Any]:
    return {
        "bits": one.bits,
        "signed": one.signed,
        "symmetric": one.symmetric,
        "quant_min": one.quant_min,
        "quant_max": one.quant_max,
        "axis": one.axis,
        "power_of_two": one.power_of_two,
        "scale": list(one.scale),
        "offset": list(one.offset),
    }


def read_json(text: str, source: str) -> ScaleTable:
    """Read what `write_json` wrote.

    Raises:
        ModelError: it is no such file.
    """
    root = Fields(parsed(text, source), source)
    if not root.has("format") or root.text("format") != FORMAT:
        raise ModelError("not a qgraph file of scales", source, f'its "format" should be {FORMAT}')
    if root.integer("schema") != SCHEMA:
        raise ModelError("a file of another version", f"{source}: schema {root.integer('schema')}", "update qgraph")
    named = root.child("tensors")
    entries = {name: named.child(name) for name in named.names}
    kinds = {name: entry.text("kind") for name, entry in entries.items()}
    readers = root.children("readers")
    origin, floats = root.child("origin"), root.child("floats")
    return ScaleTable(
        {name: _from_json(entry) for name, entry in sorted(entries.items())},
        frozenset(name for name, kind in kinds.items() if kind != "activation"),
        frozenset(name for name, kind in kinds.items() if kind == "bias"),
        {(one.text("tensor"), one.text("slot")): _from_json(one) for one in readers},
        {name: floats.text(name) for name in floats.names},
        {key: origin.text(key) for key in origin.names},
        {name: entry.text("group") for name, entry in entries.items() if entry.has("group")},
    )


def _from_json(one: Fields) -> TensorScale:
    return TensorScale(
        one.integer("bits"),
        one.numbers("scale"),
        one.integers("offset"),
        one.flag("signed"),
        one.flag("symmetric"),
        one.integer("quant_min"),
        one.integer("quant_max"),
        one.optional_integer("axis"),
        one.flag("power_of_two"),
    )


def write_csv(table: ScaleTable) -> Written:
    """Everything but where it comes from."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for name, one in table.tensors.items():
        rest = {"tensor": name, "kind": _kind(name, table), "group": table.groups.get(name, "")}
        writer.writerows({**rest, **row} for row in _rows(one))
    for (tensor, slot), one in table.readers.items():
        rest = {"tensor": tensor, "slot": slot, "kind": _kind(tensor, table)}
        writer.writerows({**rest, **row} for row in _rows(one))
    writer.writerows({"tensor": name, "reason": reason} for name, reason in table.floats.items())
    losses = [] if not table.origin else ["which run and target the scales are of is not in the file"]
    return Written(stream.getvalue(), tuple(losses))


def _rows(one: TensorScale) -> Iterator[dict[str, object]]:
    values = _as_json(one)
    for channel, pair in enumerate(zip(one.scale, one.offset, strict=True)):
        numbers = {"scale": repr(pair[0]), "offset": pair[1], "channel": "" if one.axis is None else channel}
        yield {key: "" if value is None else value for key, value in {**values, **numbers}.items()}


def read_csv(text: str, source: str) -> ScaleTable:
    """Read what `write_csv` wrote; a spreadsheet may have changed the order of columns and lines.

    Raises:
        ModelError: a column is missing, or a value is not what it should be.
    """
    try:
        lines = csv.DictReader(io.StringIO(text), strict=True)
        rows = [(lines.line_num, row) for row in lines]
    except csv.Error as error:
        raise ModelError("not CSV", f"{source}: {error}", "export it again") from error
    missing = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
    if missing:
        raise ModelError("columns are missing", f"{source}: {', '.join(missing)}", "export it again")
    gathered: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    floats: dict[str, str] = {}
    for number, row in rows:
        if None in row or None in row.values():
            raise ModelError("a line with too few or too many values", f"{source}, line {number}", "export it again")
        if row["scale"]:
            gathered.setdefault((row["tensor"], row["slot"]), []).append((number, row))
        else:
            floats[row["tensor"]] = row["reason"]
    scales = {key: _from_rows(found, source) for key, found in gathered.items()}
    kinds = {tensor: found[0][1]["kind"] for (tensor, _), found in gathered.items()}
    groups = {tensor: found[0][1]["group"] for (tensor, slot), found in gathered.items() if not slot}
    return ScaleTable(
        {tensor: one for (tensor, slot), one in sorted(scales.items()) if not slot},
        frozenset(name for name, kind in kinds.items() if kind in ("constant", "bias")),
        frozenset(name for name, kind in kinds.items() if kind == "bias"),
        {key: one for key, one in scales.items() if key[1]},
        floats,
        groups={tensor: group for tensor, group in groups.items() if group},
    )


def _from_rows(rows: list[tuple[int, dict[str, str]]], source: str) -> TensorScale:
    number = rows[0][0]
    try:
        ordered = sorted(rows, key=lambda row: int(row[1]["channel"] or 0))
        if [int(row["channel"] or 0) for _, row in ordered] != list(range(len(rows))):
            raise ModelError("channels are missing or there twice", f"{source}, line {number}", "export it again")
        first = ordered[0][1]
        return TensorScale(
            int(first["bits"]),
            tuple(float(row["scale"]) for _, row in ordered),
            tuple(int(row["offset"]) for _, row in ordered),
            _flag(first["signed"]),
            _flag(first["symmetric"]),
            int(first["quant_min"]),
            int(first["quant_max"]),
            int(first["axis"]) if first["axis"] else None,
            _flag(first["power_of_two"]),
        )
    except ValueError as error:
        raise ModelError(
            "not a number where there should be one", f"{source}, line {number}: {error}", "repair it"
        ) from error


def _flag(value: str) -> bool:
    """Spreadsheets write it in capitals."""
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{value!r} is not true or false")
    return value.lower() == "true"
