import pytest

from qgraph.constraints.model import Origin, Ratio
from qgraph.solve.findings import bounds, broken, ratio_findings
from qgraph.tqc import QuantizationState, TqcRecord

CONV = Ratio(("c:in:0", "c:in:1"), ("c:out:0",), Origin("conv_ratio", "c", "Conv", "data sheet"), above=0, below=65536)
CONCAT = Ratio(("j:in:0",), ("j:out:0",), Origin("concat_ratio", "j", "Concat", "data sheet"), at_most=128)


@pytest.mark.parametrize(("scale", "kept"), [(128.0, True), (128.5, False), (0.1, True)])
def test_a_bound_that_may_be_reached_is_kept_there(scale: float, kept: bool) -> None:
    assert (broken(CONCAT, {"j:in:0": (scale,), "j:out:0": (1.0,)}) is None) is kept


def test_a_bound_that_may_not_be_reached_is_broken_there() -> None:
    scales = {"c:in:0": (65536.0,), "c:in:1": (1.0,), "c:out:0": (1.0,)}
    assert broken(CONV, scales) == 65536
    assert broken(CONV, {**scales, "c:in:0": (65535.0,)}) is None


def test_the_worst_channel_decides() -> None:
    scales = {"c:in:0": (1.0,), "c:in:1": (1.0, 70000.0, 90000.0), "c:out:0": (1.0,)}
    assert broken(CONV, scales) == 90000


def test_scales_that_are_not_known_are_not_judged() -> None:
    assert broken(CONV, {"c:in:0": (1e9,), "c:out:0": (1.0,)}) is None


def test_a_finding_names_rule_op_slots_value_and_source() -> None:
    state = QuantizationState.ACTIVATED
    tqcs = [
        TqcRecord("j:in:0", "a", "activation", state, scale=(1.0,), offset=(0,)),
        TqcRecord("j:out:0", "c", "activation", state, scale=(0.001,), offset=(0,)),
    ]
    (finding,) = ratio_findings([CONCAT, CONV], tqcs)
    assert (finding.kind, finding.rule, finding.op, finding.source) == ("ratio", "concat_ratio", "j", "data sheet")
    assert finding.slots == ("j:in:0", "j:out:0")
    assert finding.message == "the ratio of scales j:in:0 / j:out:0 is 1000, but must be at most 128"


def test_bounds_are_said_in_words() -> None:
    assert bounds(CONV) == "above 0 and below 65536"
