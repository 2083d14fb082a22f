"""Files of scales: what each format says, what it loses, and how damaged ones end."""

from __future__ import annotations

import json
import random
import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.errors import ModelError, NotFoundError, QgraphError
from qgraph.formats.scale_files import FORMATS, READ_BY, format_named, read_scales
from qgraph.formats.scale_table import ScaleTable, TensorScale, resolved
from qgraph.tqc import Scheme, to_float32

UINT8 = TensorScale(8, (0.5,), (3,), signed=False, symmetric=False, quant_min=0, quant_max=255)
INT8 = TensorScale(8, (to_float32(0.1),), (0,), signed=True, symmetric=True, quant_min=-127, quant_max=127)
WEIGHT = replace(INT8, scale=(0.25, to_float32(0.3)), offset=(0, 0), axis=0)
BIAS = TensorScale(32, (0.125, 0.5), (0, 0), True, True, -(2**31) + 1, 2**31 - 1, axis=0)
TABLE = ScaleTable(
    {"a": UINT8, "b": INT8, "conv.bias": BIAS, "conv.weight": WEIGHT},
    frozenset({"conv.bias", "conv.weight"}),
    frozenset({"conv.bias"}),
    {("a", "add:in:1"): replace(UINT8, scale=(0.75,))},
    {"shape": "the target has no rule for it"},
    {"run": "r1"},
    {"a": "g1"},
)


def written(name: str, table: ScaleTable = TABLE) -> tuple[str, str]:
    """A file's text, and its losses as one."""
    found = format_named(name).write(table)
    return found.text, "\n".join(found.losses)


def read(name: str, text: str) -> ScaleTable:
    table, found = read_scales(text.encode(), "FILE")
    assert found == name, "the format must be found out from the content"
    return table


def numbers(table: ScaleTable) -> dict[str, tuple[int, tuple[float, ...], tuple[int, ...]]]:
    """Bits, scales, and zero points of unsigned integers."""
    return {name: (one.bits, one.scale, one.unsigned_offset) for name, one in table.tensors.items()}


def scales() -> st.SearchStrategy[TensorScale]:
    floats = st.floats(2.0**-100, 2.0**100, width=32)

    @st.composite
    def build(draw: Any) -> TensorScale:
        signed, bits = draw(st.booleans()), draw(st.sampled_from([4, 8, 16]))
        low = -(1 << (bits - 1)) if signed else 0
        high = low + (1 << bits) - 1
        count = draw(st.integers(1, 3))
        axis = draw(st.integers(0, 3)) if count > 1 else None
        scale = tuple(draw(floats) for _ in range(count))
        offset = tuple(draw(st.integers(low, high)) for _ in range(count))
        return TensorScale(bits, scale, offset, signed, draw(st.booleans()), low, high, axis, draw(st.booleans()))

    return build()


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(lambda name: f"t{name}")
TABLES = st.builds(
    lambda tensors, other: ScaleTable(
        dict(sorted(tensors.items())), readers={(sorted(tensors)[0], "op:in:0"): other} if other else {}
    ),
    st.dictionaries(NAMES, scales(), min_size=1, max_size=3),
    st.none() | scales(),
)


@pytest.mark.parametrize("name", ["json", "csv"])
@given(table=TABLES)
def test_qgraphs_own_files_keep_everything(name: str, table: ScaleTable) -> None:
    back = read(name, written(name, table)[0])
    assert (back.tensors, back.readers, back.floats) == (table.tensors, table.readers, table.floats)


def test_qgraphs_own_files_keep_kinds_reasons_and_groups() -> None:
    assert read("json", written("json")[0]) == TABLE
    assert read("csv", written("csv")[0]) == replace(TABLE, origin={})
    assert (written("json")[1], "which run" in written("csv")[1]) == ("", True)


@given(table=TABLES)
def test_aimet_200_keeps_types_scales_and_zero_points(table: ScaleTable) -> None:
    back = read("aimet-2.0.0", written("aimet-2.0.0", table)[0])
    for name, one in table.tensors.items():
        bare = replace(one, symmetric=None, quant_min=None, quant_max=None, power_of_two=False)
        assert back.tensors[name] == bare


@pytest.mark.parametrize("name", ["aimet-0.6.1", "aimet-1.0.0"])
@given(table=TABLES)
def test_older_aimet_files_keep_the_grid(name: str, table: ScaleTable) -> None:
    back = read(name, written(name, table)[0])
    assert numbers(back) == numbers(table)
    assert [one.symmetric for one in back.tensors.values()] == [one.symmetric for one in table.tensors.values()]


def test_aimet_061_has_texts_for_booleans_and_offsets_that_are_not_positive() -> None:
    body = json.loads(written("aimet-0.6.1")[0])
    (encoding,) = body["activation_encodings"]["a"]
    assert encoding == {
        "bitwidth": 8, "dtype": "int", "is_symmetric": "False", "min": -1.5, "max": 126.0, "offset": -3, "scale": 0.5,
    }  # fmt: skip
    signed = body["activation_encodings"]["b"][0]
    assert (signed["offset"], signed["is_symmetric"]) == (-128, "True")
    assert [one["scale"] for one in body["param_encodings"]["conv.weight"]] == list(WEIGHT.scale)
    assert "conv.bias" not in body["param_encodings"]


def test_aimet_files_in_the_wild_are_read() -> None:
    """One tensor as two versions wrote it; tensors in float are no tensors with scales."""
    grid = {"bitwidth": 8, "is_symmetric": "False", "max": 3.428, "min": -3.401, "offset": -127, "scale": 0.0267}
    image = {"name": "image", "bw": 8, "is_sym": False, "enc_type": "PER_TENSOR", "offset": [-114], "scale": [0.0186]}
    old = {"version": "0.6.1", "activation_encodings": {"image": [{"dtype": "int", **grid}]}, "param_encodings": {}}
    left = {"name": "left", "bw": 16, "dtype": "FLOAT"}
    new = {"version": "1.0.0", "param_encodings": [], "activation_encodings": [{"dtype": "INT", **image}, left]}
    first = read("aimet-0.6.1", json.dumps(old)).tensors["image"]
    second = read("aimet-1.0.0", json.dumps(new)).tensors
    assert (first.scale, first.offset, first.signed, first.symmetric) == ((to_float32(0.0267),), (127,), None, False)
    assert (second["image"].offset, second["image"].symmetric, "left" in second) == ((114,), False, False)


def test_a_tensorrt_cache_holds_big_endian_float32_in_hexadecimal() -> None:
    text = "TRT-7000-EntropyCalibration2\nconv1: 3c92aa10\nprob: 3c010a14\n(Unnamed Layer* 48) [C]: x: 3c92aa10\n"
    table = read("tensorrt-cache", text)
    assert table.tensors["conv1"].scale[0] == pytest.approx(0.01790336, rel=1e-6)
    assert table.tensors["prob"].scale[0] * 127 == pytest.approx(1.0002, rel=1e-4)
    assert table.tensors["(Unnamed Layer* 48) [C]: x"] == table.tensors["conv1"]
    back = written("tensorrt-cache", table)
    assert (back[0].splitlines()[1:], back[1]) == (sorted(text.splitlines()[1:]), "")


def test_a_tensorrt_cache_covers_the_range_of_what_it_cannot_say() -> None:
    wide = replace(UINT8, bits=16, quant_max=65535)
    text, losses = written("tensorrt-cache", replace(TABLE, tensors={**TABLE.tensors, "wide": wide, "x\ny": INT8}))
    table = read("tensorrt-cache", text)
    assert set(table.tensors) == {"a", "b", "wide"}
    assert table.tensors["a"].scale == (to_float32(0.5 * 252 / 127),)  # uint8 from -3 to 252 steps
    assert table.tensors["b"].scale == INT8.scale
    for words in ("zero points", "more than 8 bits", "line break", "constants", "another scale", "not quantized"):
        assert words in losses, words


def test_a_symmetric_uint8_tensor_is_the_same_in_a_tensorrt_cache() -> None:
    middle = ScaleTable({"a": replace(UINT8, offset=(128,))})
    text, losses = written("tensorrt-cache", middle)
    assert (text.splitlines()[1], losses) == (f"a: {struct.pack('>f', 0.5).hex()}", "")


def test_overrides_say_a_second_type_with_convert_and_lose_a_second_scale() -> None:
    other = TensorScale(16, (0.001,), (0,), signed=True, symmetric=True, quant_min=-32768, quant_max=32767)
    table = replace(TABLE, readers={**TABLE.readers, ("b", "soft:in:0"): other, ("b", "hard:in:0"): other})
    text, losses = written("ort-overrides", table)
    body = json.loads(text)
    assert body["b"][0]["convert"] == {
        "quant_type": "QInt16", "recv_nodes": ["soft", "hard"], "scale": 0.001, "zero_point": 0,
    }  # fmt: skip
    assert body["conv.weight"][1] == {"quant_type": "QInt8", "axis": 0, "scale": WEIGHT.scale[1], "zero_point": 0}
    assert "another scale, which is not written: 1 tensor (a)" in losses
    back = read("ort-overrides", text)
    assert {key: one.scale for key, one in back.readers.items()} == {
        ("b", "soft"): (to_float32(0.001),), ("b", "hard"): (to_float32(0.001),),
    }  # fmt: skip
    assert back.tensors["conv.weight"].axis == 0


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_reads_what_it_writes_and_tells_what_it_loses(name: str) -> None:
    text, losses = written(name)
    back = read(name, text)
    assert {"a", "b"} <= back.tensors.keys() <= TABLE.tensors.keys()
    assert back.tensors["b"].scale == INT8.scale
    assert bool(losses) == (name != "json")
    assert ("another scale" in losses) == (name not in ("json", "csv"))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_damaged_file_ends_in_one_clear_line(name: str) -> None:
    text = written(name)[0]
    dice = random.Random(1)
    for _ in range(300):
        start, length = dice.randrange(len(text)), dice.randrange(1, 20)
        junk = "".join(dice.choice('0-{}[]",:x\x00é\n') for _ in range(dice.randrange(4)))
        message = None
        try:
            read_scales((text[:start] + junk + text[start + length :]).encode(), "FILE", name)
        except QgraphError as error:
            message = str(error)
        assert message is None or ("FILE" in message and "\n" not in message)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no known format"),
        (b"\xff\xfe", "not a text file"),
        (b"{", "no known format"),
        (b'{"version": "1.0.0", "activation_encodings": [', "not JSON"),
        (b'{"version": "1.0.0"}', "no tensor has a scale"),
        (b'{"version": "1.0.0", "activation_encodings": {}}', "not a list"),
        (b'{"version": "0.6.1", "activation_encodings": {"a": [{"bitwidth": 8, "scale": 0}]}}', "positive float32"),
        (b'{"version": "0.6.1", "activation_encodings": {"a": [{"bitwidth": 99, "scale": 1}]}}', "99 bits"),
        (b'{"version": "0.6.1", "activation_encodings": {"a": [{"bitwidth": 8, "scale": NaN}]}}', "positive float32"),
        (b'{"version": "0.6.1", "param_encodings": {"a": [{"bitwidth": 8, "scale": 1, "offset": 1e999}]}}', "finite"),
        (b'{"version": "0.6.1", "param_encodings": {"a": [{"bitwidth": 8, "scale": 1, "offset": NaN}]}}', "finite"),
        (b'{"version": "0.6.1", "param_encodings": {"a": [{"scale": 1, "bitwidth": 8}, {}]}}', "another bitwidth"),
        (b'{"version": "2.0.0", "encodings": [{"name": "a", "output_dtype": "int8", "block_size": 4}]}', "per block"),
        (b'{"version": "1.0.0", "version": "1.0.0"}', "a name twice"),
        (b'{"a": [{"quant_type": "QInt8"}]}', "no scale"),
        (
            b'{"a": [{"quant_type": "QInt8", "scale": 1, "zero_point": 0, "axis": 0},'
            b' {"quant_type": "QUInt8", "scale": 1, "zero_point": 0}]}',
            "another quant_type",
        ),
        (b'{"a": [{"quant_type": "QFloat", "scale": 1, "zero_point": 0}]}', "unknown quant_type"),
        (b"TRT-8601-X\na: 3c92aa10\na: 3c92aa10\n", "line 3"),
        (b"TRT-8601-X\na: 3c92\n", "line 2"),
        (b"tensor,scale\na,1\n", "columns are missing"),
        (b'{"format": "qgraph-scales", "schema": 1, "tensors": 1}', "not an object"),
        (b'{"format": "qgraph-scales", "schema": 2, "tensors": {}}', "another version"),
        (b'{"format": "qgraph-scales"' + b"[" * 100_000, "JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(content: bytes, words: str) -> None:
    with pytest.raises(ModelError) as error:
        read_scales(content, "FILE")
    assert words in str(error.value)


def test_a_range_without_an_offset_has_its_zero_point_where_zero_lies() -> None:
    text = '{"version": "0.4.0", "activation_encodings": {"a": [{"bitwidth": 8, "min": -1.0, "max": 1.55}]}}'
    (one,) = read("aimet-0.6.1", text).tensors.values()
    assert (one.offset, one.scale) == ((100,), (to_float32(0.01),))


def test_what_is_only_written_is_not_offered_for_reading() -> None:
    with pytest.raises(NotFoundError) as error:
        read_scales(b"<graphml/>", "FILE", "graphml")
    assert "did you mean graphml" not in str(error.value)


def test_an_unknown_format_is_answered_with_near_names() -> None:
    with pytest.raises(NotFoundError, match=r"aimet-1\.0\.0"):
        format_named("aimet-1.0")


WANTED = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
WANTED_WEIGHT = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=1)


def test_what_a_file_does_not_say_is_the_targets() -> None:
    assert resolved(TensorScale(8, (0.5,), (3,)), WANTED, "a") == (WANTED, (3,))
    weight = TensorScale(8, (0.5, 0.25), (128, 128), symmetric=True)
    assert resolved(weight, WANTED_WEIGHT, "w") == (WANTED_WEIGHT, (0, 0))
    single = TensorScale(8, (0.5,), (0,), signed=True)
    assert resolved(single, WANTED_WEIGHT, "w", channels=1) == (WANTED_WEIGHT, (0,))
    assert resolved(single, WANTED_WEIGHT, "w", channels=2)[0].axis is None


def test_what_a_file_says_against_the_target_stays() -> None:
    kept, offset = resolved(TensorScale(8, (0.5,), (-3,), signed=True, symmetric=False), WANTED, "a")
    assert (kept.signed, kept.symmetric, kept.quant_min, offset) == (True, False, -128, (-3,))
    wide, _ = resolved(TensorScale(16, (0.5,), (3,)), WANTED, "a")
    assert (wide.bits, wide.quant_max) == (16, 65535)
    with pytest.raises(ModelError, match=r"a range.*a: \[0, 300\]"):
        resolved(TensorScale(8, (0.5,), (3,), signed=False, quant_min=0, quant_max=300), WANTED, "a")
    with pytest.raises(ModelError, match="no axis"):
        resolved(TensorScale(8, (0.5, 1.0), (0, 0)), WANTED, "a")
    with pytest.raises(ModelError, match="zero point"):
        resolved(TensorScale(8, (0.5,), (300,)), WANTED, "a")


@pytest.mark.parametrize(
    ("tool", "meant"), [("qnn", "aimet-0.6.1"), ("onnxruntime", "qdq or ort-overrides"), ("ONNX", "qdq")]
)
def test_a_tool_is_told_its_formats(tool: str, meant: str) -> None:
    with pytest.raises(NotFoundError, match=f"did you mean {re.escape(meant)}"):
        format_named(tool)


def test_what_a_tool_reads_is_a_format() -> None:
    assert {one for formats in READ_BY.values() for one in formats} <= {"qdq", *FORMATS}
