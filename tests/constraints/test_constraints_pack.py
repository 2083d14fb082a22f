import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from constraint_graphs import ELEMENTWISE, pack_with, shipped_text

from qgraph.constraints.model import Strength
from qgraph.constraints.pack import load_pack, pack_names
from qgraph.errors import NotFoundError, PackError
from qgraph.tqc import Scheme


def mistakes_of(text: str, folder: Path) -> str:
    path = folder / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PackError) as caught:
        load_pack(str(path))
    assert str(path) in caught.value.which
    return caught.value.which


def test_the_shipped_packs_are_found_and_valid() -> None:
    assert {"tflite", "onnxruntime"} <= set(pack_names())
    for name in pack_names():
        assert load_pack(name).name == name


def test_every_shipped_rule_has_a_source() -> None:
    for name in pack_names():
        pack = load_pack(name)
        sources = [rule.source for rule in pack.quantizable] + [rule.source for rule in pack.same]
        sources += [rule.source for rule in pack.fixed] + [rule.source for rule in pack.weighted]
        sources += [rule.source for rule in pack.fusions] + [rule.reason for rule in pack.no_values]
        assert all(sources)


def test_the_schemes_are_those_of_the_targets() -> None:
    tflite, onnxruntime = load_pack("tflite"), load_pack("onnxruntime")
    assert tflite.activation == Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    assert onnxruntime.activation == Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
    for pack in (tflite, onnxruntime):
        assert pack.weight.with_axis(1) == Scheme(8, True, True, -127, 127, axis=1)
        assert pack.bias.bits == 32


def test_an_unknown_target_suggests_a_near_one() -> None:
    with pytest.raises(NotFoundError, match=r"unknown target: tflight; did you mean tflite\?"):
        load_pack("tflight")


def test_a_missing_file_is_told() -> None:
    with pytest.raises(NotFoundError, match=r"nowhere/pack\.toml"):
        load_pack("nowhere/pack.toml")


def test_a_user_loads_a_pack_by_path(tmp_path: Path) -> None:
    pack = pack_with(ELEMENTWISE, tmp_path)
    assert pack.same[-1].name == "elementwise"
    assert pack.same[-1].strength is Strength.PREFERRED
    assert pack.same[-1].inputs is None
    assert pack.same[-1].outputs == ()


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("axis = 7", "Conv has no axis 7: at most 5 axes"),
        ("axis = -6", "Conv has no axis -6"),
        ("input_axis = 5", "Conv has no axis 5"),
        ("also_axis = 5", "Conv has no axis 5"),
        ("input_axis = 0", "axis 0 of what Conv reads counts samples"),
    ],
)
def test_a_channel_axis_that_cannot_be_is_refused_with_its_line(tmp_path: Path, field: str, told: str) -> None:
    text = (
        shipped_text("tflite")
        + f"""
[[weighted]]
name = "odd"
ops = ["Conv"]
weight = 1
{field}
source = "mine"
"""
    )
    line = text[: text.index(f"\n{field}\n") + 1].count("\n") + 1
    found = mistakes_of(text, tmp_path)
    assert f"line {line}: " in found
    assert told in found


def test_a_file_that_is_not_toml_is_told_with_its_place(tmp_path: Path) -> None:
    assert "line 1" in mistakes_of("[pack\n", tmp_path)


def test_all_mistakes_are_told_at_once_with_their_fields(tmp_path: Path) -> None:
    text = shipped_text("tflite")
    text = text.replace("can_requantize = true", 'can_requantize = "yes"')
    text = text.replace('granularity = "per_channel"', 'granularity = "per_row"')
    text = text.replace('strength = "exact"', 'strengh = "exact"', 1)
    text = text.replace("offset = -128", "offset = -300")
    text = text.replace('scale = "16/256"', 'scale = "nothing"')
    told = mistakes_of(text, tmp_path)
    assert "pack.can_requantize: 'yes' is not true or false" in told
    assert "weight.granularity: 'per_row' is not one of per_tensor, per_channel" in told
    assert "same[1].strength: missing, write one of exact, required, preferred" in told
    assert "same[1].strengh: unknown field, did you mean strength?" in told
    assert "fixed[1].offset: -300 is outside the activations' range, choose one in [-128, 127]" in told
    assert "fixed[4].scale: 'nothing' is not a positive number" in told
    assert told.count(" | ") == 5


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("quant_max = 127", "quant_max = 200", "activation.quant_min, quant_max: [-128, 200] in int8 does not fit"),
        ("reduced_range = [-63, 63]", "reduced_range = [-200, 63]", "weight.reduced_range: [-200, 63]"),
        ("reduced_range = [-63, 63]\nreduce_range = false", "reduce_range = true", "weight.reduced_range: missing"),
        ("[bias]", "[extra]\n[bias]", "extra: unknown field"),
        ("weight = 1", "weight = 0", "weighted[1].weight, bias: input 0 is the activation"),
        ('name = "transpose"', 'name = "reshape"', "rule name 'reshape': used twice"),
        (
            '"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout",\n',
            "",
            "is in no [[quantizable]] table",
        ),
        (', one_of = ["reflect", "edge", "wrap"]', "", "same[12].when[1].one_of, none_of, constant: none is given"),
        ("none_of = [0.0] }", "one_of = [1.0], none_of = [0.0] }", "when[2].one_of, none_of: both are given, keep one"),
        ("bits = 8", "bits = 64", "activation.bits: 64 is not from 2 to 32"),
        ('inputs = [0]\noutputs = "all"', "inputs = [0]\noutputs = []", "same[5].inputs: ties no two slots"),
    ],
)
def test_a_mistake_names_its_field(old: str, new: str, told: str, tmp_path: Path) -> None:
    text = shipped_text("tflite")
    assert old in text
    assert told in mistakes_of(text.replace(old, new, 1), tmp_path)


def test_an_empty_file_misses_every_table(tmp_path: Path) -> None:
    told = mistakes_of("", tmp_path)
    assert all(f"{table}: missing, write a table" in told for table in ("pack", "activation", "weight", "bias"))


def test_a_scale_may_be_a_fraction_and_is_a_float32() -> None:
    scales = {rule.name: rule.scale for rule in (*load_pack("tflite").fixed, *load_pack("onnxruntime").fixed)}
    assert scales["unit_interval"] == 1 / 256
    assert scales["log_softmax"] == 1 / 16
    assert scales["softmax"] == pytest.approx(1 / 255, rel=1e-7)
    assert scales["softmax"] != 1 / 255


def test_a_rule_known_from_reports_is_marked(tmp_path: Path) -> None:
    pack = pack_with(ELEMENTWISE + "reported = true\n", tmp_path)
    assert pack.same[-1].source == "reported: the test"


def test_the_weight_range_can_be_reduced_on_its_own() -> None:
    weight = replace(load_pack("onnxruntime").weight, reduce_range=True)
    assert (weight.with_axis(0).quant_min, weight.with_axis(0).quant_max) == (-64, 64)


def test_a_target_with_weights_per_tensor_ignores_axes() -> None:
    assert replace(load_pack("tflite").weight, per_channel=False).with_axis(0).axis is None


def test_packs_and_explanations_load_without_heavy_libraries() -> None:
    code = (
        "import sys, qgraph.constraints.pack as p, qgraph.constraints.explain; p.load_pack('tflite'); "
        "print(sorted({'networkx', 'numpy', 'onnx', 'torch', 'qgraph.ir.graph'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
