"""Ground truth: int8 models made by the TFLite converter have no violations, and every single break in copies is found.

What is expected is derived here from the flatbuffer and the specification's table, with none of the package's code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import tflite

from qgraph.analysis.check import check
from qgraph.analysis.violation import Report
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.formats.tflite import read_tflite
from qgraph.ir.graph import Graph
from qgraph.ir.slots import parts

NAMES = ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")

SAME = {
    "RESHAPE": "reshape",
    "STRIDED_SLICE": "slice",
    "SPLIT_V": "split",
    "CONCATENATION": "concat",
}
"""Input and outputs have one scale and zero point; all inputs without a scale (shapes, indices) do not count."""

WEIGHTED = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise_conv", "FULLY_CONNECTED": "fully_connected"}
FIXED = {"LOGISTIC": "unit_interval"}
FREE = {"QUANTIZE", "CALL_ONCE", "VAR_HANDLE"}
VARIABLES = {"READ_VARIABLE", "ASSIGN_VARIABLE"}


def model_path(name: str) -> Path:
    spec = importlib.util.find_spec("pymicro_wakeword")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / f"{name}.tflite"


@dataclass(frozen=True)
class Node:
    """An op of the file: its type, and the quantized tensors that it reads and makes as (subgraph, index)."""

    type: str
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]
    variable: str | None


class Truth:
    """A file's content as the flatbuffer has it; its scales and zero points can be written in place."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.model: Any = tflite.Model.GetRootAs(self.content, 0)

    @cached_property
    def nodes(self) -> list[Node]:
        return list(self._nodes())

    def tensor(self, place: tuple[int, int]) -> Any:
        return self.model.Subgraphs(place[0]).Tensors(place[1])

    def name(self, place: tuple[int, int]) -> str:
        return str(self.tensor(place).Name().decode())

    def is_quantized(self, place: tuple[int, int]) -> bool:
        quantization = self.tensor(place).Quantization()
        return quantization is not None and quantization.ScaleLength() > 0

    def parameters(self, place: tuple[int, int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
        quantization = self.tensor(place).Quantization()
        return tuple(quantization.ScaleAsNumpy().tolist()), tuple(quantization.ZeroPointAsNumpy().tolist())

    def quantized(self) -> list[tuple[int, int]]:
        places = [(g, t) for g in range(self.model.SubgraphsLength()) for t in range(self.graph(g).TensorsLength())]
        return [place for place in places if self.is_quantized(place)]

    def graph(self, index: int) -> Any:
        return self.model.Subgraphs(index)

    def _nodes(self) -> Iterator[Node]:
        for g in range(self.model.SubgraphsLength()):
            handles: dict[int, str] = {}
            for o in range(self.graph(g).OperatorsLength()):
                op = self.graph(g).Operators(o)
                code = self.model.OperatorCodes(op.OpcodeIndex())
                kind = tflite.BUILTIN_OPCODE2NAME[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
                inputs = op.InputsAsNumpy().tolist() if op.InputsLength() else []
                outputs = op.OutputsAsNumpy().tolist() if op.OutputsLength() else []
                if kind == "VAR_HANDLE":
                    options = tflite.VarHandleOptions()
                    options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
                    handles[outputs[0]] = options.SharedName().decode()
                yield Node(
                    kind,
                    tuple((g, i) for i in inputs if i >= 0 and self.is_quantized((g, i))),
                    tuple((g, i) for i in outputs if self.is_quantized((g, i))),
                    handles.get(inputs[0]) if inputs else None,
                )

    def expected(self, broken: tuple[int, int], *, scale: bool) -> list[tuple[str, str, str]]:
        """Rule and the two tensors, sorted, of each violation that one other scale or zero point makes."""
        found: list[tuple[str, str, str]] = []
        name = self.name(broken)
        for node in self.nodes:
            if node.type in SAME:
                pairs = [(i, o) for i in node.inputs for o in node.outputs if broken in (i, o)]
                for i, o in pairs:
                    first, second = sorted((self.name(i), self.name(o)))
                    found.append((SAME[node.type], first, second))
            elif node.type in FIXED and broken in node.outputs:
                found.append((FIXED[node.type], name, ""))
            elif node.type in WEIGHTED:
                data, weight, bias = node.inputs
                if broken == bias or (scale and broken in node.inputs):
                    found.append((WEIGHTED[node.type], self.name(bias), self.name(data)))
                elif broken == weight:
                    found.append(("weight_symmetry", name, ""))
            else:
                assert node.type in FREE | VARIABLES | set(FIXED)
        return sorted(found)

    def holders(self, variable: str) -> set[tuple[int, int]]:
        """The values that are read from a variable or assigned to it."""
        of_it = [node for node in self.nodes if node.type in VARIABLES and node.variable == variable]
        return {place for node in of_it for place in (*node.inputs, *node.outputs)}

    def classes(self) -> set[frozenset[str]]:
        """Activations that a rule ties, directly or through others, each tensor in one class."""
        home = {place: {place} for place in self.quantized()}

        def join(places: list[tuple[int, int]]) -> None:
            union = set().union(*(home[place] for place in places))
            for place in union:
                home[place] = union

        for node in self.nodes:
            if node.type in SAME:
                join([*node.inputs, *node.outputs])
        for variable in sorted({node.variable for node in self.nodes if node.variable is not None}):
            join(sorted(self.holders(variable)))
        weights = {place for node in self.nodes if node.type in WEIGHTED for place in node.inputs[1:]}
        interface = {place for node in self.nodes if node.type == "QUANTIZE" for place in node.outputs}
        return {frozenset(map(self.name, home[place])) for place in home if place not in weights | interface}


@pytest.fixture(scope="module", params=NAMES)
def truth(request: pytest.FixtureRequest) -> Truth:
    return Truth(model_path(request.param).read_bytes())


TFLITE = load_pack("tflite")


def checked(content: bytes | bytearray, path: Path) -> Report:
    path.write_bytes(content)
    return check(read_tflite(path), TFLITE)


def summary(report: Report) -> list[tuple[str, str, str]]:
    found = []
    for violation in report.violations:
        names = [tensor.name for tensor in violation.tensors]
        if violation.kind == "same":
            names.sort()
        found.append((violation.rule, names[0], names[1] if len(names) > 1 else ""))
    return sorted(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_converter_has_no_violations(name: str) -> None:
    report = check(read_tflite(model_path(name)), load_pack("tflite"))
    assert report.violations == ()
    assert report.summary.left_float == report.summary.not_wanted == report.summary.unread == ()
    assert report.summary.quantized == len(Truth(model_path(name).read_bytes()).quantized())


@pytest.mark.parametrize("force_overlap", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_solved_groups_are_the_classes_of_tensors_that_the_rules_tie(name: str, force_overlap: bool) -> None:
    truth = Truth(model_path(name).read_bytes())
    model = read_tflite(model_path(name))
    constraints = constrain(Graph(model.structure), load_pack("tflite"))
    grouping = solve_groups(constraints, force_overlap=force_overlap)
    activations = {slot for slot, plan in constraints.slots.items() if plan.role in ("activation", "constant")}
    found = {frozenset(group.tensors) for group in grouping.groups if activations & set(group.slots)}
    assert found == truth.classes()
    for group in grouping.groups:
        held = {entry for slot in group.slots for entry in model.quantizations[slot]}
        assert len({(entry.scale, entry.offset) for entry in held}) == 1, group
    assert grouping.requantizes == ()


def test_classes_run_through_variables_and_back_into_the_convolutions_before_a_concat() -> None:
    classes = Truth(model_path("okay_nabu").read_bytes()).classes()
    (of_concat,) = [entry for entry in classes if "model_1/tf.concat_3/concat" in entry]
    assert len(of_concat) == 3
    assert any({"model_1/stream_9/concat/ReadVariableOp", "tfl.pseudo_qconst"} <= entry for entry in classes)


@pytest.mark.no_cover
class TestOneBreak:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("scale", [True, False], ids=["scale", "zero point"])
    def test_it_is_found_and_nothing_else(self, name: str, scale: bool, tmp_path: Path) -> None:
        source = model_path(name).read_bytes()
        truth = Truth(source)
        for broken in truth.quantized():
            copy = Truth(source)
            quantization = copy.tensor(broken).Quantization()
            if scale:
                channel = quantization.ScaleLength() // 2
                quantization.ScaleAsNumpy()[channel] *= 1.25
            else:
                quantization.ZeroPointAsNumpy()[0] += 1
            report = checked(copy.content, tmp_path / "broken.tflite")
            others = [entry for entry in summary(report) if entry[0] != "variable"]
            assert others == truth.expected(broken, scale=scale), truth.name(broken)
            self.check_variables(truth, broken, report)

    @staticmethod
    def check_variables(truth: Truth, broken: tuple[int, int], report: Report) -> None:
        found = [entry for entry in report.violations if entry.rule == "variable"]
        assert all(truth.name(broken) in {tensor.name for tensor in entry.tensors} for entry in found)
        variables = {node.variable for node in truth.nodes if node.variable is not None}
        holding = [variable for variable in variables if broken in truth.holders(variable)]
        assert bool(found) == bool(holding)

    def test_only_what_logistic_reads_and_the_uint8_copy_of_the_output_have_no_rule(self, truth: Truth) -> None:
        quiet = {place for place in truth.quantized() if not truth.expected(place, scale=True)}
        holders = {place for node in truth.nodes if node.variable for place in truth.holders(node.variable)}
        before = {place for node in truth.nodes if node.type == "LOGISTIC" for place in node.inputs}
        copies = {place for node in truth.nodes if node.type == "QUANTIZE" for place in node.outputs}
        assert quiet - holders == before | copies


class TestStructure:
    def test_names_are_those_of_the_file(self) -> None:
        for name in NAMES:
            path = model_path(name)
            names = {tensor.name for tensor in read_tflite(path).structure.tensors}
            raw = Truth(path.read_bytes())
            assert {raw.name(place) for place in raw.quantized()} <= names

    def test_every_op_of_every_subgraph_is_there(self) -> None:
        model = read_tflite(model_path("okay_nabu"))
        raw = Truth(model_path("okay_nabu").read_bytes())
        assert len(model.structure.ops) == len(raw.nodes)
        assert sum(op.name.startswith("ASSIGN_VARIABLE@") for op in model.structure.ops) == 12

    def test_every_slot_on_a_quantized_tensor_has_its_parameters(self) -> None:
        model = read_tflite(model_path("alexa"))
        op = next(op for op in model.structure.ops if op.name.startswith("CONV_2D"))
        slots = {slot for slot in model.quantizations if parts(slot).op == op.name}
        assert slots == {f"{op.name}:in:0", f"{op.name}:in:1", f"{op.name}:in:2", f"{op.name}:out:0"}
        (weight,) = model.quantizations[f"{op.name}:in:1"]
        assert weight.axis == 0
        assert (weight.low, weight.high) == (-127, 127)
