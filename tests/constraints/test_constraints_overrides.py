from dataclasses import replace
from pathlib import Path

import pytest
from constraint_graphs import ELEMENTWISE, Sketch, pack_with, requantized, shared

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints
from qgraph.constraints.overrides import (
    Action,
    Override,
    Overrides,
    collect,
    from_mapping,
    parse_override,
    read_option,
    read_overrides,
)
from qgraph.constraints.overriding import constrain_overridden
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.selectors import Selection, Selector
from qgraph.errors import ConflictError, NotFoundError, QgraphError, UsageError


def model() -> Sketch:
    """Two branches that a Concat joins; the first goes on through a pool and a depthwise-free tail."""
    sketch = Sketch()
    sketch.constant("enc.conv1.weight", (4, 4, 3, 3))
    sketch.op("Conv", "x enc.conv1.weight", "a", name="conv1")
    sketch.op("Conv", "x", "b", name="conv2")
    sketch.op("Concat", "a b", "c", name="join")
    sketch.op("MaxPool", "c", "m", name="pool")
    sketch.op("Sigmoid", "m", "s", name="gate")
    sketch.op("Conv", "s", "y", name="/head/last/Conv")
    return sketch


def over(*options: str, target: str | RulePack = "tflite", sketch: Sketch | None = None) -> Constraints:
    pack = load_pack(target) if isinstance(target, str) else target
    wishes = tuple(parse_override(option) for option in options)
    return constrain_overridden((sketch or model()).graph("y"), pack, overrides=wishes)


def bits(constraints: Constraints) -> dict[str, int]:
    return {plan.tensor: plan.scheme.bits for plan in constraints.slots.values() if plan.scheme is not None}


# Selectors


@pytest.mark.parametrize(
    ("selector", "ops", "tensors"),
    [
        ("join", "join", ""),
        ("a", "", "a"),
        ("op:conv?", "conv1 conv2", ""),
        ("tensor:*", "", "a b c enc.conv1.weight m s x y"),
        ("type:Conv", "/head/last/Conv conv1 conv2", ""),
        ("re:conv[12]", "conv1 conv2", ""),
        ("path:enc", "conv1", ""),
        ("path:head.last", "/head/last/Conv", ""),
        ("/head/*", "/head/last/Conv", ""),
        ("between:c..s", "gate pool", ""),
        ("between:a..c", "join", ""),
    ],
)
def test_a_selector_means_ops_and_tensors(selector: str, ops: str, tensors: str) -> None:
    found = Selector(model().graph("y").structure).select(selector)
    assert found == Selection(tuple(ops.split()), tuple(tensors.split()))


def test_a_name_that_the_model_has_wins() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "type:Conv")
    sketch.op("Conv", "x", "w*")
    sketch.op("Conv", "x", "we")
    selector = Selector(sketch.graph().structure)
    assert selector.select("tensor:type:Conv") == Selection((), ("type:Conv",))
    assert selector.select("type:Conv") == Selection(("type:Conv",), ("type:Conv",))
    assert selector.select("w*") == Selection(("w*",), ("w*",))


def test_an_op_is_found_by_a_name_that_folding_took_away() -> None:
    structure = model().graph("y").structure
    folded = replace(structure, ops=(replace(structure.ops[0], origins=("bn1", "conv1")), *structure.ops[1:]))
    assert Selector(folded).select("bn1") == Selection(("conv1",))


@pytest.mark.parametrize(
    ("selector", "near"),
    [
        ("jion", "did you mean join"),
        ("op:conv3", "did you mean conv"),
        ("tensor:enc.conv1.wieght", "did you mean enc.conv1.weight"),
        ("type:Maxpool", "did you mean MaxPool"),
        ("path:encoder.conv1", "did you mean enc.conv1"),
        ("re:^jion$", "did you mean join"),
        ("*jion*", "did you mean join"),
        ("between:x..z", "see qgraph scales"),
        ("between:y..x", "name the earlier one first"),
    ],
)
def test_a_selector_that_means_nothing_is_refused_with_near_matches(selector: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        Selector(model().graph("y").structure).select(selector)
    assert near in str(caught.value)


def test_selectors_that_are_not_well_formed_are_refused() -> None:
    selector = Selector(model().graph("y").structure)
    for text in ("re:(", "between:a"):
        with pytest.raises(UsageError):
            selector.select(text)


# Reading


def test_the_file_and_the_options_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "o.toml"
    path.write_text(
        'float = ["gate"]\nshare = [["a", "s"]]\nunshare = ["join", ["a", "c"]]\nforce_unshare = ["pool"]\n'
        '[bits]\n"type:Conv" = 16\n[pin]\n"tensor:x" = [0.5, -128]\nb = 0.25\n'
    )
    options = {
        Action.FLOAT: ["gate"],
        Action.SHARE: ["a=s"],
        Action.UNSHARE: ["join", "a=c"],
        Action.FORCE_UNSHARE: ["pool"],
        Action.BITS: ["type:Conv=16"],
        Action.PIN: ["tensor:x=0.5,-128", "b=0.25"],
    }
    assert read_overrides(path) == collect(options)
    assert collect(options, path) == (*read_overrides(path), *collect(options))


def test_what_a_run_keeps_can_be_read_again() -> None:
    for text in ("float type:Resize", "bits a=4", "pin a=b=0.1,3", "share a=b", "unshare a", "force-unshare a=b"):
        again = str(parse_override(text))
        assert parse_override(again) == parse_override(text)
    assert str(parse_override("pin x=0.1")) == "pin x=0.1"


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("float", " "),
        ("bits", "type:Conv"),
        ("bits", "type:Conv=12"),
        ("bits", "=8"),
        ("pin", "x"),
        ("pin", "x=zero,0"),
        ("pin", "x=0,0"),
        ("pin", "x=nan,0"),
        ("pin", "x=1e99,0"),
        ("pin", "x=0.1,0.5"),
        ("share", "a"),
        ("share", "a=b=c"),
    ],
)
def test_a_wrong_option_is_refused(action: str, text: str) -> None:
    with pytest.raises(UsageError):
        read_option(Action(action), text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("float = 1", "float"),
        ('share = ["a"]', "share"),
        ("share = [[1, 2]]", "share"),
        ("[bits]\na = true", "bits"),
        ('bits = ["a"]', "bits"),
        ("[pin]\na = [0.1, 0, 0]", "pin"),
        ("[pin]\na = [1" + "0" * 400 + ", 0]", "pin"),
        ("flaot = []", "did you mean float"),
        ("float = [", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "o.toml"
    path.write_text(text)
    with pytest.raises(QgraphError) as caught:
        read_overrides(path)
    assert told in str(caught.value)
    assert "o.toml" in str(caught.value)


def test_a_mapping_is_read_like_a_file() -> None:
    assert from_mapping({"bits": {"a": 16}, "pin": {"x": (0.5, 1)}}) == (
        Override(Action.BITS, "a", bits=16),
        Override(Action.PIN, "x", scale=0.5, offset=1),
    )


# Effects


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="must be a text: 3 in overrides; use float"):
        from_mapping({3: 3})  # type: ignore[dict-item]


def test_no_overrides_change_nothing() -> None:
    assert over() == constrain_overridden(model().graph("y"), load_pack("tflite"), overrides=())


def test_an_op_left_in_float_is_float_and_says_so() -> None:
    constraints = over("float pool")
    assert constraints.slots["pool:in:0"].reason == "float op pool (MaxPool): left in float (float pool)"
    assert constraints.slots["join:out:0"].scheme is not None
    assert constraints.slots["pool:out:0"].scheme is not None  # a quantized op reads it


def test_a_tensor_left_in_float_has_no_quantized_slot_and_ties_nothing() -> None:
    constraints = over("float tensor:a")
    on_a = [plan for plan in constraints.slots.values() if plan.tensor == "a"]
    assert [plan.scheme for plan in on_a] == [None, None]
    assert {plan.reason for plan in on_a} == {"left in float (float tensor:a)"}
    assert all("join:in:0" not in (tie.a, tie.b) for tie in constraints.same)


def test_what_shares_gets_the_same_bits() -> None:
    wide = {tensor for tensor, width in bits(over("bits tensor:a=16")).items() if width == 16}
    assert wide == {"a", "b", "c", "m"}
    constraints = over("bits tensor:a=16")
    scheme = constraints.slots["join:out:0"].scheme
    assert scheme is not None
    assert (scheme.quant_min, scheme.quant_max) == (-32768, 32767)
    assert solve_groups(constraints, force_overlap=False)


def test_an_op_in_other_bits_reads_and_makes_them_and_keeps_its_weight() -> None:
    found = bits(over("bits conv1=16"))
    assert (found["x"], found["a"], found["enc.conv1.weight"]) == (16, 16, 8)
    assert bits(over("bits tensor:enc.conv1.weight=4"))["enc.conv1.weight"] == 4


def test_what_is_prescribed_keeps_its_range_in_other_bits() -> None:
    (fixed,) = over("bits tensor:s=16", target=replace(load_pack("tflite"), widths=())).fixed
    assert (fixed.scale, fixed.offset) == (1 / 65536, -32768)


def test_other_bits_are_quantized_as_the_target_has_them() -> None:
    found = over("bits tensor:s=16", "bits tensor:enc.conv1.weight=4")
    wide = {plan.scheme for plan in found.slots.values() if plan.scheme is not None and plan.scheme.bits == 16}
    assert wide == {load_pack("tflite").widths[0].scheme}
    assert [str(scheme) for scheme in wide] == ["int16 [-32768, 32767] symmetric per tensor"]
    (fixed,) = found.fixed
    assert (fixed.scale, fixed.offset) == (1 / 32768, 0)  # of a sigmoid: [-1, 1) holds its [0, 1)


def test_ops_without_an_integer_kernel_in_those_bits_are_told() -> None:
    pack = load_pack("onnxruntime")
    told = over("bits tensor:a=16", target=pack).remarks
    assert told == ("onnxruntime has no integer kernels with 16 bits for 1 Concat, 1 Conv: they run in float",)
    assert over("bits tensor:enc.conv1.weight=4", target=pack).remarks == ()
    assert over("bits tensor:a=16").remarks == ()


def test_what_is_prescribed_in_some_bits_only_is_so_in_those_only() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("Tanh", "s", "t")
    sketch.op("Conv", "t", "y")
    assert over(target="qnn", sketch=sketch).fixed == ()
    wide = over("bits tensor:s=16", "bits tensor:t=16", target="qnn", sketch=sketch).fixed
    assert [(one.slot, one.scale, one.offset) for one in wide] == [("s:out:0", 2**-16, 0), ("t:out:0", 2**-15, 32768)]
    assert [one.slot for one in over("bits tensor:t=16", target="qnn", sketch=sketch).fixed] == ["t:out:0"]


def test_the_later_width_holds_and_two_widths_for_one_group_are_refused() -> None:
    assert bits(over("bits tensor:*=16", "bits tensor:y=8"))["y"] == 8
    with pytest.raises(UsageError, match="need the same bits"):
        over("bits a=16", "bits b=4")


def test_a_pin_prescribes_the_group_and_a_conflict_is_told() -> None:
    constraints = over("pin a=0.5,3", "force-unshare join")
    group = next(g for g in solve_groups(constraints, force_overlap=False).groups if "join:in:0" in g.slots)
    assert group.fixed is not None
    assert (group.fixed.scale, group.fixed.offset) == (0.5, 3)
    with pytest.raises(ConflictError, match="override: pin s"):
        solve_groups(over("pin s=0.5,3"), force_overlap=False)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("pin a=0.5", "without an offset"),
        ("pin a=0.5,999", "offset that the target cannot have"),
        ("pin enc.conv1.weight=0.5,0", "only values"),
        ("pin tensor:a=0.5,0", "not quantized"),
        ("share a=type:Conv", "needs one tensor"),
        ("unshare pool", "costs nothing"),
        ("unshare conv1", "no rule makes it share"),
        ("unshare join", "requires the sharing concat"),
        ("unshare a=c", "requires the sharing concat"),
        ("force-unshare a=b", "no rule makes it share"),
        ("force-unshare pool", "costs nothing"),
    ],
)
def test_an_override_that_cannot_work_says_why(wish: str, told: str) -> None:
    others = ("float tensor:a",) if wish.startswith("pin tensor:a") else ()
    with pytest.raises(UsageError) as caught:
        over(wish, *others)
    assert told in str(caught.value)
    assert wish in str(caught.value)


def test_a_symmetric_target_needs_no_offset_and_powers_of_two_must_be_some() -> None:
    (fixed,) = over("pin a=0.5", target="espdl").fixed
    assert fixed.offset == 0
    with pytest.raises(UsageError, match="power of two"):
        over("pin a=0.3", target="espdl")


def test_unsharing_cuts_what_the_target_prefers_and_insisting_what_it_requires(tmp_path: Path) -> None:
    sketch = model()
    sketch.op("Add", "a b", "y2", name="sum")
    pack = pack_with(ELEMENTWISE, tmp_path)
    assert {tie.origin.op for tie in over("unshare sum", target=pack, sketch=sketch).same} == {"join", "pool"}
    groups = shared(solve_groups(over("force-unshare join"), force_overlap=False))
    assert "conv1:out:0 join:in:0" in groups
    one = over("force-unshare a=c")
    assert {tie.a for tie in one.same if tie.origin.op == "join"} == {"join:in:1"}


def test_two_values_that_are_made_to_share_share_and_stay_values() -> None:
    grouping = solve_groups(over("share x=y"), force_overlap=False)
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    assert home["graph:in:x"] == home["/head/last/Conv:out:0"] != home["conv1:out:0"]
    assert requantized(grouping) == requantized(solve_groups(over(), force_overlap=False))


def test_sharing_of_different_widths_is_refused() -> None:
    with pytest.raises(UsageError, match="tensors that cannot share"):
        constrain_overridden(
            model().graph("y"),
            load_pack("tflite"),
            overrides=_both("share x=enc.conv1.weight"),
        )


def _both(text: str) -> Overrides:
    return (parse_override(text),)
