from pathlib import Path

import pytest

from qgraph.constraints.model import Strength
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rule_pack import RulePack
from qgraph.errors import PackError

HEADER = '[pack]\nname = "mine"\nversion = "1"\ninherits = "{parent}"\n'

CONCAT = """
[[same]]
name = "concat"
ops = ["Concat"]
inputs = "all"
outputs = [0]
strength = "preferred"
source = "mine"
"""


def load(folder: Path, text: str, parent: str = "tflite", version: str = "") -> RulePack:
    path = folder / "mine.toml"
    path.write_text(HEADER.format(parent=parent) + text)
    return load_pack(f"{path}{version}")


def mistakes(folder: Path, text: str, parent: str = "tflite") -> str:
    with pytest.raises(PackError) as caught:
        load(folder, text, parent)
    return caught.value.which


def test_a_pack_has_all_that_its_parent_has(tmp_path: Path) -> None:
    mine, parent = load(tmp_path, ""), load_pack("tflite")
    assert (mine.name, mine.inherits) == ("mine", "tflite")
    for field in ("activation", "weight", "bias", "quantizable", "same", "fixed", "weighted", "fusions", "no_values"):
        assert getattr(mine, field) == getattr(parent, field)


def test_a_rule_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    (concat,) = (rule for rule in load(tmp_path, CONCAT).same if rule.name == "concat")
    assert (concat.strength, concat.source) == (Strength.PREFERRED, "mine")


def test_a_setting_replaces_one_field_of_its_table(tmp_path: Path) -> None:
    mine = load(tmp_path, '[weight]\ngranularity = "per_tensor"\n')
    assert not mine.weight.per_channel
    assert mine.weight.scheme == load_pack("tflite").weight.scheme


def test_rules_and_ops_are_left_out(tmp_path: Path) -> None:
    mine = load(tmp_path, 'without = ["tanh"]\nnot_quantized = ["Softmax"]\n')
    assert {rule.name for rule in load_pack("tflite").fixed} - {rule.name for rule in mine.fixed} == {"tanh"}
    assert all("Softmax" not in rule.ops for rule in mine.quantizable)
    assert all("Softmax" not in rule.ops for rule in mine.fixed)
    assert any("Sigmoid" in rule.ops for rule in mine.fixed)


def test_leaving_out_what_the_parent_lacks_suggests_what_it_has(tmp_path: Path) -> None:
    told = mistakes(tmp_path, 'without = ["concats"]\nnot_quantized = ["SoftMax"]\n')
    assert "line 5: pack.without: what it inherits from has no rule concats, did you mean concat?" in told
    assert "line 6: pack.not_quantized: what it inherits from has no op SoftMax, did you mean Softmax?" in told


def test_a_parent_may_be_a_file_beside_it_and_its_change_changes_the_version(tmp_path: Path) -> None:
    parent = tmp_path / "parent.toml"
    parent.write_text(HEADER.format(parent="tflite").replace("mine", "parent") + CONCAT)
    first = load(tmp_path, "", parent="parent.toml")
    assert next(rule for rule in first.same if rule.name == "concat").source == "mine"
    parent.write_text(parent.read_text() + "\n# edited\n")
    assert load(tmp_path, "", parent="parent.toml").version != first.version


def test_packs_that_inherit_from_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(HEADER.format(parent="mine.toml"))
    with pytest.raises(PackError, match="inherit from each other"):
        load(tmp_path, "", parent="other.toml")


def test_an_unknown_parent_suggests_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="did you mean tflite"):
        load(tmp_path, "", parent="tflight")


def test_a_mistake_is_told_with_its_line_in_the_file_that_has_it(tmp_path: Path) -> None:
    assert "line 11: same[1].strength: 'prefered' is not one of" in mistakes(
        tmp_path, CONCAT.replace("preferred", "prefered")
    )
    (tmp_path / "parent.toml").write_text(HEADER.format(parent="tflite") + CONCAT.replace("all", "al"))
    assert "parent.toml: line 9: same[1].inputs" in mistakes(tmp_path, "", parent="parent.toml")


@pytest.mark.parametrize(("asked", "there"), [("", True), ("@2.0", False), ("@2.1", True), ("@10", True)])
def test_a_rule_holds_from_a_version_on(asked: str, there: bool, tmp_path: Path) -> None:
    mine = load(tmp_path, CONCAT.replace("concat", "late") + 'since = "2.1"\n', version=asked)
    assert any(rule.name == "late" for rule in mine.same) is there
    assert (asked in mine.version) is True


@pytest.mark.parametrize(("asked", "there"), [("", False), ("@2.1", True), ("@2.38.9", True), ("@2.39", False)])
def test_a_rule_holds_before_a_version(asked: str, there: bool, tmp_path: Path) -> None:
    mine = load(tmp_path, CONCAT.replace("concat", "early") + 'until = "2.39"\n', version=asked)
    assert any(rule.name == "early" for rule in mine.same) is there


def test_versions_that_cannot_be_are_refused(tmp_path: Path) -> None:
    assert "'two' is no version" in mistakes(tmp_path, CONCAT + 'since = "two"\n')
    assert "until: 2 is not after 3" in mistakes(tmp_path, CONCAT + 'since = "3"\nuntil = "2"\n')


def test_the_rules_of_a_reported_pack_are_marked_and_the_inherited_ones_are_not(tmp_path: Path) -> None:
    sources = {rule.name: rule.source for rule in load(tmp_path, 'status = "reported"\n' + CONCAT).same}
    assert sources["concat"] == "reported: mine"
    assert not sources["split"].startswith("reported")


def test_a_ratio_needs_a_bound_and_slots(tmp_path: Path) -> None:
    text = '[[ratio]]\nname = "r"\nops = ["Conv"]\nnumerator = ["0"]\nsource = "s"\n'
    told = mistakes(tmp_path, text)
    assert "line 5: ratio[1].above, below, at_least, at_most: none is given" in told
    assert "line 8: ratio[1].numerator: '0' is no slot of an op" in told


def test_a_pack_that_inherits_from_itself_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[pack]\nname = "own"\nversion = "1"\ninherits = "own.toml"\n')
    with pytest.raises(PackError, match=r"inherits from itself: .*name another pack"):
        load_pack(str(path))


def test_more_bits_than_the_range_needs_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "nine.toml"
    path.write_text('[pack]\nname = "nine"\nversion = "1"\ninherits = "tflite"\n[activation]\nbits = 9\n')
    with pytest.raises(PackError, match=r"line 6: activation\.bits: 9 are more than \[-128, 127\] needs"):
        load_pack(str(path))


def test_a_width_replaces_the_one_of_its_bits(tmp_path: Path) -> None:
    table = "[[activation_width]]\nbits = {bits}\nsigned = true\nsymmetric = false\n"
    table += 'quant_min = {low}\nquant_max = {high}\nsource = "mine"\n'
    mine = load(tmp_path, table.format(bits=16, low=-32768, high=32767) + table.format(bits=12, low=-2048, high=2047))
    assert [(width.scheme.bits, width.scheme.symmetric) for width in mine.widths] == [(16, False), (12, False)]


def test_what_reads_is_an_op_that_the_pack_quantizes(tmp_path: Path) -> None:
    assert "Reshpe is in no [[quantizable]] table" in mistakes(tmp_path, CONCAT + 'read_by = ["Reshpe"]\n')


def test_what_stays_float_reads_nothing(tmp_path: Path) -> None:
    header = 'not_quantized = ["Gemm", "MatMul"]\n'
    (concat,) = (rule for rule in load(tmp_path, header, "openvino").same if rule.name == "concat")
    assert concat.read_by == ("Conv", "ConvTranspose")
    header = 'not_quantized = ["Gemm", "MatMul", "Conv", "ConvTranspose"]\n'
    assert all(rule.name != "concat" for rule in load(tmp_path, header, "openvino").same)


def test_a_prescription_is_for_bits_that_activations_have(tmp_path: Path) -> None:
    table = '[[fixed]]\nname = "wide"\nops = ["Sigmoid"]\noutputs = [0]\nscale = "1/65536"\noffset = {offset}\n'
    table += 'bits = {bits}\nsource = "mine"\n'
    assert "there are no activations of 12 bits" in mistakes(tmp_path, table.format(bits=12, offset=0))
    assert "40000 is outside the activations' range" in mistakes(tmp_path, table.format(bits=16, offset=40000))
    (rule,) = (rule for rule in load(tmp_path, table.format(bits=16, offset=300)).fixed if rule.name == "wide")
    assert (rule.bits, rule.offset) == (16, 300)
