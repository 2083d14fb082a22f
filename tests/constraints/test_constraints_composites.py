"""A normalization or Gelu of several ops is found whole, and targets that run it as one op leave it in float."""

from pathlib import Path

import pytest
from conftest import real_model, real_samples
from constraint_graphs import Sketch, pack_with, shipped_text

import qgraph
from qgraph.constraints.composites.finders import FINDERS
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.constraints.wiring import wire
from qgraph.errors import PackError


def sketch(*lines: str) -> Sketch:
    """Lines such as ``Add d eps : e``; constants are n, eps, beta, gamma, one, two, three, half, minus_half, axes."""
    drawn = Sketch()
    for name in ("n", "eps", "gamma", "beta", "one"):
        drawn.constant(name, ())
    for name, value in (("two", 2.0), ("three", 3.0), ("half", 0.5), ("minus_half", -0.5)):
        drawn.constant(name, (), (value,))
    drawn.constant("axes", (1,), (-1.0,), "int64")
    for line in lines:
        reads, made = line.split(" : ")
        kind, _, inputs = reads.partition(" ")
        drawn.op(kind, inputs, made)
    return drawn


def found(drawn: Sketch, outputs: str = "y") -> dict[str, str]:
    """Parts of composites of every kind."""
    wiring = wire(drawn.graph(outputs).structure)
    return {op: tensor for find in FINDERS.values() for op, tensor in find(wiring).items()}


LAYER = (
    "ReduceMean x : m",
    "Sub x m : d",
    "Pow d two : s",
    "ReduceMean s : v",
    "Add v eps : e",
    "Sqrt e : r",
    "Div d r : q",
    "Mul gamma q : g",
    "Add g beta : y",
)
"""As torch exports LayerNorm below opset 17."""

GELU = ("Div x n : i", "Erf i : e", "Add e one : f", "Mul x f : g", "Mul g half : y")
"""As torch exports it below opset 20."""

SHAPES = {
    "Gelu": GELU,
    "Gelu, x halved first": ("Mul n x : i", "Erf i : e", "Add one e : f", "Mul half x : h", "Mul f h : y"),
    "Gelu, the factor halved": ("Div x n : i", "Erf i : e", "Add e one : f", "Mul half f : h", "Mul h x : y"),
    "Gelu with a tangent": (
        "Pow x three : c",
        "Mul c n : cn",
        "Add x cn : p",
        "Mul p gamma : q",
        "Tanh q : t",
        "Add t one : f",
        "Mul x half : h",
        "Mul h f : y",
    ),
    "Gelu with a tangent, products for powers": (
        "Mul n x : a",
        "Mul x a : b",
        "Mul x b : c",
        "Add x c : p",
        "Mul gamma p : q",
        "Tanh q : t",
        "Add one t : f",
        "Mul half f : h",
        "Mul x h : y",
    ),
    "layer": LAYER,
    "a product as square, shaped means, a reciprocal": (
        "ReduceSum x axes : sum",
        "Mul sum n : m0",
        "Reshape m0 #shape : m",
        "Sub x m : d",
        "Mul d d : s",
        "GlobalAveragePool s : v",
        "Clip v - - : c",
        "Add eps c : e",
        "Sqrt e : r",
        "Reciprocal r : i",
        "Expand i #shape : w",
        "Mul w d : y",
    ),
    "root mean square": (
        "Mul x x : s",
        "ReduceMean s : v",
        "Add v eps : e",
        "Pow e minus_half : r",
        "Mul x r : q",
        "Mul gamma q : y",
    ),
    "E[x²] − E[x]²": (
        "ReduceMean x : m",
        "Mul m m : mm",
        "Mul x x : s",
        "ReduceMean s : v0",
        "Sub v0 mm : v",
        "Max v eps : c",
        "Pow c half : r",
        "Sub x m : d",
        "Div d r : y",
    ),
    "x · r + (β − mean · r)": (
        "ReduceMean x : m",
        "Sub x m : d",
        "Mul d d : s",
        "ReduceMean s : v",
        "Add v eps : e",
        "Sqrt e : r0",
        "Reciprocal r0 : r1",
        "Mul gamma r1 : r",
        "Mul x r : xr",
        "Mul m r : mr",
        "Sub beta mr : b",
        "Add xr b : y",
    ),
}


@pytest.mark.parametrize("lines", SHAPES.values(), ids=SHAPES)
def test_every_op_of_a_composite_is_found_and_none_around_it(lines: tuple[str, ...]) -> None:
    around = sketch("Conv image : x", *lines, "MatMul y weight : z", "Add y x : residual")
    parts = {line.split(" : ")[1] for line in lines}
    assert found(around) == dict.fromkeys(sorted(parts), "x")


OTHERS = {
    "the gate of an LSTM": ("Tanh c : t", "Add t one : f", "Mul gate f : y"),
    "a tangent that multiplies its own argument": ("Tanh x : t", "Mul x t : y"),
    "an error function of two tensors": ("Add x other : i", "Erf i : e", "Add e one : f", "Mul x f : y"),
    "an error function that is read twice": (*GELU[:4], "Mul g e : y"),
    "a product of three": ("Div x n : i", "Erf i : e", "Add e one : f", "Mul f f : y"),
    "a magnitude": ("Mul re re : a", "Mul im im : b", "Add a b : s", "Sqrt s : r", "Div re r : y"),
    "a deviation that divides nothing": (*LAYER[:6], "Concat m r : y"),
    "a root of no squares": ("ReduceMean x : m", "Add m eps : e", "Sqrt e : r", "Div x r : y"),
    "a deviation of another tensor": (*LAYER[1:6], "ReduceMean other : m", "Div other r : y"),
    "the root of a mean that nothing squares": ("ReduceMean x : m", "Sqrt m : r", "Div x r : y"),
    "squares of two tensors": (
        "Mul x x : a",
        "Mul other other : b",
        "Add a b : s",
        "ReduceMean s : v",
        "Sqrt v : r",
        "Div x r : y",
    ),
    "constants alone, as of a batch normalization": ("Add gamma eps : e", "Sqrt e : r", "Div x r : y"),
}


@pytest.mark.parametrize("lines", OTHERS.values(), ids=OTHERS)
def test_what_is_no_normalization_is_left_alone(lines: tuple[str, ...]) -> None:
    assert found(sketch(*lines)) == {}


def test_a_search_through_many_ops_that_are_no_normalization_ends() -> None:
    chain = [f"Add t{i} t{i} : t{i + 1}" for i in range(500)]
    roots = [f"Sqrt t{i} : r{i}" for i in range(1, 500)]
    gates = [f"Erf t{i} : e{i}" for i in range(1, 500)]
    assert found(sketch(*chain, *roots, "Div t3 r3 : y", *gates, "Add e499 one : f", "Mul t0 f : g"), "y g") == {}


def test_what_a_model_returns_ends_a_gelu() -> None:
    assert found(sketch(*GELU), "f y") == {}
    assert list(found(sketch(*GELU), "g y")) == ["e", "f", "g", "i"]


@pytest.mark.parametrize("lines", [LAYER, GELU], ids=["layer", "gelu"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "openvino_npu", "tensorrt"])
def test_targets_that_run_it_as_one_op_quantize_what_comes_out_of_it_only(target: str, lines: tuple[str, ...]) -> None:
    drawn = sketch("Conv image kernel : x", *lines, "Conv y kernel2 : z")
    for name in ("kernel", "kernel2"):
        drawn.constant(name, (4, 4, 1, 1))
    slots = constrain(drawn.graph("z"), load_pack(target)).slots.values()
    inside = {line.split(" : ")[1] for line in lines[:-1]}
    assert {plan.tensor for plan in slots if plan.scheme is not None} & {*inside, "y"} == {"y"}
    (told,) = {plan.reason for plan in slots if plan.slot == "g:out:0"}
    assert told is not None
    kind = "gelu" if lines is GELU else "normalization"
    assert f"float op g (Mul): it is a part of the {kind} of x, which is left whole" in told


def test_a_pack_of_ones_own_says_that_it_is_several_ops_or_that_it_is_one(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[pack]\nname = "own"\nversion = "1"\nsource = "mine"\ninherits = "openvino"\nwithout = ["normalization"]\n'
    )
    composite = '\n[[composite]]\nname = "normalization"\nsource = "mine"\n'
    graph = sketch("Conv image : x", *LAYER, "Conv y : z").graph("z")
    for pack, whole in (
        (load_pack(str(own)), False),
        (pack_with("", tmp_path), False),
        (pack_with(composite, tmp_path), True),
    ):
        slots = constrain(graph, pack).slots
        assert (slots["d:in:0"].scheme is None) == whole, pack.name


def test_another_composite_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="normalization") as caught:
        pack_with('\n[[composite]]\nname = "lstm"\nsource = "mine"\n', tmp_path)
    line = shipped_text("tflite").count("\n") + 3
    assert f"line {line}: composite[1].name" in caught.value.which


def test_a_network_with_the_variance_as_a_difference_of_means_keeps_its_classes(real: Path, tmp_path: Path) -> None:
    """With these ops in 8 bits nearly every class is another one: the variance is what two large means differ by."""
    with qgraph.open(tmp_path / "qgraph.db") as db:
        samples = real_samples(real, "magika", 48)
        calibration = db.calibrate(real_model(real, "magika"), samples)
        whole = calibration.solve(target="onnxruntime", observer="mse")
        (agreement,) = whole.verify(samples).outputs.values()
        assert (agreement.top1 or 0.0) > 0.85
        assert (agreement.snr_db or 0.0) > 10
