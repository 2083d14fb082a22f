"""The smallest repair is really one, is the smallest, and says what it costs where statistics exist."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.analysis.check import check
from qgraph.analysis.least_changes import cheapest
from qgraph.analysis.pricing import StoredPrices
from qgraph.analysis.violation import Change, Report
from qgraph.calib.statistics import statistics_of
from qgraph.constraints.pack import load_pack
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.quantized_onnx import read_quantized_onnx
from qgraph.formats.tflite import read_tflite
from qgraph.ir.graph import Graph
from qgraph.ir.slots import graph_constant, graph_input, input_slot, output_slot

TFLITE = load_pack("tflite")
HEAD = """<ir_version: 8, opset_import: ["" : 13]> g
(float[1,4,8,8] x, float[1,4,8,8] z, float[1,4,8,8] w) => (float[1,12,8,8] y)
<float a = {0.5}, int8 az = {3}, float b = {0.25}, int8 bz = {-7}>
"""


def pair(source: str, result: str, scale: str) -> str:
    return (
        f"{result}_q = QuantizeLinear({source}, {scale}, {scale}z) "
        f"{result} = DequantizeLinear({result}_q, {scale}, {scale}z) "
    )


def concat(path: Path, x: str, z: str, w: str, y: str) -> QuantizedModel:
    """Three values and their concat, each with the parameters a or b."""
    nodes = pair("x", "xd", x) + pair("z", "zd", z) + pair("w", "wd", w)
    nodes += "[c] c = Concat <axis=1> (xd, zd, wd) " + pair("c", "y", y)
    onnx.save(onnx.parser.parse_model(f"{HEAD} {{ {nodes} }}"), path / "m.onnx")
    return read_quantized_onnx(path / "m.onnx")


def told(report: Report) -> list[tuple[int, list[tuple[str, str]]]]:
    return [(len(r.violations), [(c.kind, c.tensor) for c in r.changes]) for r in report.repairs]


def repaired(model: QuantizedModel, changes: tuple[Change, ...]) -> QuantizedModel:
    """The model after the changes, made by hand here."""
    graph = Graph(model.structure)
    slots = dict(model.quantizations)

    def write(slot: str, to: Change) -> None:
        for entry in slots.get(slot, ()):
            slots[slot] = (replace(entry, scale=to.to.scale, offset=to.to.offset),)

    for change in sorted(changes, key=lambda change: change.kind == "requantize"):
        readers = [(op.name, index) for op, index in graph.consumers(change.tensor)]
        if change.kind == "requantize":
            for name, index in readers:
                if name == change.op:
                    write(input_slot(name, index), change)
            continue
        producer = graph.producer(change.tensor)
        write(graph_constant(change.tensor), change)
        write(graph_input(change.tensor), change)
        if producer is not None:
            write(output_slot(producer[0].name, producer[1]), change)
        for name, index in readers:
            write(input_slot(name, index), change)
    return replace(model, quantizations=slots)


class TestFewest:
    def test_a_result_that_differs_from_all_its_sources_is_one_change(self, tmp_path: Path) -> None:
        report = check(concat(tmp_path, "a", "a", "a", "b"), TFLITE)
        assert len(report.violations) == 3
        assert told(report) == [(3, [("parameters", "y")])]
        text = "1 change repairs these 3 violations: quantize y with scale 0.5, zero point 3"
        assert {violation.repair for violation in report.violations} == {text}

    def test_a_source_that_differs_is_one_change(self, tmp_path: Path) -> None:
        report = check(concat(tmp_path, "a", "b", "a", "a"), TFLITE)
        assert told(report) == [(1, [("parameters", "z")])]
        assert report.violations[0].repair.startswith("quantize z with the output's parameters")

    def test_the_majority_decides(self, tmp_path: Path) -> None:
        report = check(concat(tmp_path, "a", "b", "b", "a"), TFLITE)
        assert [len(repair.changes) for repair in report.repairs] == [2]
        # Two of four have each: what is merged keeps its parameters.
        assert {change.tensor for change in report.repairs[0].changes} == {"z", "w"}

    @pytest.mark.parametrize("labels", sorted(itertools.product("ab", repeat=4)))
    def test_it_repairs_with_as_few_changes_as_trying_all(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        model = concat(tmp_path, *labels)
        report = check(model, TFLITE)
        changes = tuple(change for repair in report.repairs for change in repair.changes)
        assert len(changes) == min(labels.count("a"), labels.count("b"))
        assert check(repaired(model, changes), TFLITE).violations == ()

    def test_distant_violations_are_repaired_apart(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a") + "[p] p = MaxPool <kernel_shape=[1,1]> (xd) " + pair("p", "pd", "b")
        nodes += pair("z", "zd", "a") + "[q] q = MaxPool <kernel_shape=[1,1]> (zd) " + pair("q", "qd", "b")
        nodes += pair("w", "wd", "b") + "s = Mul(pd, qd) " + pair("s", "sd", "a") + "y = Mul(sd, wd) "
        onnx.save(onnx.parser.parse_model(f"{HEAD.replace('12', '4')} {{ {nodes} }}"), tmp_path / "m.onnx")
        report = check(read_quantized_onnx(tmp_path / "m.onnx"), TFLITE)
        assert told(report) == [(1, [("parameters", "p")]), (1, [("parameters", "q")])]

    def test_every_single_break_of_a_converted_model_is_repaired_by_one_change(self) -> None:
        spec = importlib.util.find_spec("pymicro_wakeword")
        assert spec is not None
        assert spec.origin is not None
        model = read_tflite(Path(spec.origin).parent / "models" / "okay_nabu.tflite")
        names = [tensor.name for tensor in model.structure.tensors]
        slots_of = {name: [slot for slot in model.quantizations if _tensor(model, slot) == name] for name in names}
        seen = 0
        for name in names[::3]:
            broken = dict(model.quantizations)
            for slot in slots_of[name]:
                (entry,) = broken[slot]
                broken[slot] = (_with_scale(entry, 1.25),)
            copy = replace(model, quantizations=broken)
            for repair in check(copy, TFLITE).repairs:
                seen += 1
                assert len(repair.changes) == 1, name
                if repair.changes[0].kind == "parameters":
                    assert check(repaired(copy, repair.changes), TFLITE).violations == (), name
        assert seen > 15


def _with_scale(entry: Quantization, factor: float) -> Quantization:
    return replace(entry, scale=tuple(float(np.float32(scale * factor)) for scale in entry.scale))


def _tensor(model: QuantizedModel, slot: str) -> str:
    for op in model.structure.ops:
        for index, name in enumerate(op.inputs):
            if slot == input_slot(op.name, index):
                return name or ""
        for index, name in enumerate(op.outputs):
            if slot == output_slot(op.name, index):
                return name or ""
    return slot.split(":", 2)[2]


class TestPrices:
    def test_each_alternative_has_its_price_and_the_cheapest_is_first(self, tmp_path: Path) -> None:
        values = np.linspace(-20, 20, 1001)
        prices = StoredPrices({name: statistics_of(values) for name in ("x", "z", "w", "y")})
        report = check(concat(tmp_path, "a", "b", "b", "b"), TFLITE, prices)
        (violation,) = report.violations
        ways = [(change.kind, change.tensor) for change in violation.alternatives]
        assert sorted(ways) == [("parameters", "x"), ("parameters", "y"), ("requantize", "x")]
        found = [change.price_db for change in violation.alternatives]
        assert None not in found
        assert found == sorted(found, key=lambda price: price or 0.0)
        assert " dB)" in violation.repair

    def test_among_equally_few_changes_the_cheapest_counts(self, tmp_path: Path) -> None:
        """Label b has a quarter of a's step, but cuts at 33.5: wide values want a, narrow ones b."""
        for span, tensors in ((60.0, {"z", "w"}), (1.0, {"x", "y"})):
            statistics = statistics_of(np.linspace(-span, span, 1001))
            prices = StoredPrices(dict.fromkeys(("x", "z", "w", "y"), statistics))
            report = check(concat(tmp_path, "a", "b", "b", "a"), TFLITE, prices)
            assert {change.tensor for change in report.repairs[0].changes} == tensors

    def test_without_statistics_there_are_none(self, tmp_path: Path) -> None:
        report = check(concat(tmp_path, "a", "b", "b", "b"), TFLITE)
        assert report.violations[0].alternatives == ()


@given(st.data())
def test_the_cheapest_choice_is_that_of_trying_all(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    costs = st.integers(0, 4)

    def table(*shape: int) -> np.ndarray:
        values = data.draw(st.lists(costs, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return np.array(values, np.float64).reshape(shape)

    own = [table(size) for size in sizes]
    couples = [(a, b) for a in range(len(sizes)) for b in range(len(sizes)) if a != b]
    chosen = data.draw(st.lists(st.sampled_from(couples), unique=True)) if couples else []
    pairs = {(a, b): table(sizes[a], sizes[b]) for a, b in chosen}

    def total(choice: tuple[int, ...]) -> float:
        alone = sum(float(costs[label]) for costs, label in zip(own, choice, strict=True))
        return alone + sum(float(costs[choice[a], choice[b]]) for (a, b), costs in pairs.items())

    least = min(total(choice) for choice in itertools.product(*map(range, sizes)))
    assert total(tuple(cheapest(own, pairs))) == least
