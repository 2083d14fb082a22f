"""A .tflite file is read as ops that packs know; whatever is wrong with a file ends in one error."""

from __future__ import annotations

import importlib.util
import random
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from small_tflite import G, N, T, build

from qgraph.analysis.check import check
from qgraph.analysis.violation import Report
from qgraph.constraints.pack import load_pack
from qgraph.errors import ModelError, QgraphError
from qgraph.formats.quantized_model import QuantizedModel
from qgraph.formats.tflite import read_tflite
from qgraph.ir.elements import Op

TFLITE = load_pack("tflite")
A, B = ((0.5,), (3,)), ((0.25,), (-7,))
"""Scale and zero point of tensors; `Parameters` is their type."""
Parameters = tuple[tuple[float, ...], tuple[int, ...]]


def read(path: Path, content: bytes) -> QuantizedModel:
    (path / "model.tflite").write_bytes(content)
    return read_tflite(path / "model.tflite")


def checked(path: Path, *graphs: G) -> Report:
    return check(read(path, build(*graphs)), TFLITE)


def only(model: QuantizedModel) -> Op:
    (op,) = model.structure.ops
    return op


def one(op: str, *inputs: T, result: T | None = None) -> G:
    """A model of one op whose inputs that are no constants are the model's."""
    made = result or T("y", *A)
    return G([*inputs, made], [N(op, [t.name for t in inputs], [made.name])], _given(inputs), [made.name])


def _given(tensors: tuple[T, ...]) -> list[str]:
    return [tensor.name for tensor in tensors if tensor.data is None]


class TestOps:
    @pytest.mark.parametrize(
        ("builtin", "op_type"),
        [("CONV_2D", "Conv"), ("LOGISTIC", "Sigmoid"), ("DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D"), ("PACK", "Concat")],
    )
    def test_an_op_has_the_type_that_packs_speak(self, tmp_path: Path, builtin: str, op_type: str) -> None:
        op = only(read(tmp_path, build(one(builtin, T("x", *A)))))
        assert (op.type, op.domain, op.name, op.excluded) == (op_type, "", f"{builtin}@y", None)

    @pytest.mark.parametrize("builtin", ["DEQUANTIZE", "QUANTIZE", "GELU"])
    def test_an_op_is_known_by_the_new_code_alone(self, tmp_path: Path, builtin: str) -> None:
        op = only(read(tmp_path, build(one(builtin, T("x", *A)), old_codes=False)))
        assert op.name == f"{builtin}@y"

    def test_operands_come_in_the_order_of_onnx(self, tmp_path: Path) -> None:
        axis = T("axis", dtype="INT32", shape=(1,), data=np.array([1], np.int32))
        assert only(read(tmp_path, build(one("SPLIT", axis, T("x", *A))))).inputs == ("x", "axis")
        size = T("size", dtype="INT32", shape=(2,), data=np.array([8, 8], np.int32))
        op = only(read(tmp_path, build(one("RESIZE_BILINEAR", T("x", *A), size))))
        assert (op.inputs, op.attributes["mode"]) == (("x", None, None, "size"), "linear")

    def test_a_custom_op_is_carried_and_never_quantized(self, tmp_path: Path) -> None:
        graph = G(
            [T("x", *A), T("y", *A), T("z", *B)],
            [N("RELU", ["x"], ["y"]), N("TFLite_Detection_PostProcess", ["y", None], ["z"])],
            ["x"],
            ["z"],
        )
        model = read(tmp_path, build(graph))
        op = model.structure.ops[1]
        assert (op.type, op.inputs) == ("TFLite_Detection_PostProcess", ("y", None))
        assert check(model, TFLITE).violations == ()

    def test_names_that_occur_twice_are_told_apart(self, tmp_path: Path) -> None:
        body = G([T("x", *A), T("y", *A)], [N("RELU", ["x"], ["y"])], ["x"], ["y"], name="body")
        model = read(tmp_path, build(one("RELU", T("x", *A)), body))
        assert [tensor.name for tensor in model.structure.tensors] == ["x", "x@body", "y", "y@body"]
        assert [op.name for op in model.structure.ops] == ["RELU@y", "RELU@y@body"]

    def test_a_constant_of_integers_has_its_real_range_and_values(self, tmp_path: Path) -> None:
        fill = T("fill", (0.5,), (2,), shape=(2,), data=np.array([-4, 10], np.int8))
        model = read(tmp_path, build(one("MAXIMUM", T("x", *A), fill)))
        (entry,) = model.quantizations["graph:const:fill"]
        assert (entry.low, entry.high) == (-4, 10)
        tensor = next(tensor for tensor in model.structure.tensors if tensor.name == "fill")
        assert (tensor.values, tensor.dtype, tensor.constant) == ((-3.0, 4.0), "float32", True)

    def test_four_bit_weights_are_two_in_a_byte(self, tmp_path: Path) -> None:
        weight = T("w", (0.5,), (0,), dtype="INT4", shape=(1, 3), data=np.array([0x7E, 0x09], np.uint8))
        model = read(tmp_path, build(one("FULLY_CONNECTED", T("x", *A), weight)))
        (entry,) = model.quantizations["FULLY_CONNECTED@y:in:1"]
        assert (entry.low, entry.high) == (-7, 7)


class TestRules:
    def test_a_constant_bound_of_maximum_has_the_parameters_of_the_output(self, tmp_path: Path) -> None:
        bound = np.array([3], np.int8)
        same = T("c", *A, shape=(1,), data=bound)
        assert checked(tmp_path, one("MAXIMUM", T("x", *A), same)).violations == ()
        other = T("c", *B, shape=(1,), data=bound)
        (found,) = checked(tmp_path, one("MAXIMUM", T("x", *A), other)).violations
        assert (found.rule, [t.name for t in found.tensors]) == ("max_min", ["c", "y"])

    def test_a_separate_relu_is_a_kernel_of_its_own(self, tmp_path: Path) -> None:
        weight = T("w", (0.1,), (0,), data=np.ones((1, 4), np.int8))
        graph = G(
            [T("x", *A), weight, T("y", *B), T("z", *A)],
            [N("FULLY_CONNECTED", ["x", "w", None], ["y"]), N("RELU", ["y"], ["z"])],
            ["x"],
            ["z"],
        )
        assert checked(tmp_path, graph).violations == ()

    def test_activations_may_have_16_bits_and_a_bias_beside_them_64(self, tmp_path: Path) -> None:
        weight = T("w", (0.1, 0.2), (0, 0), shape=(2, 4), data=np.ones((2, 4), np.int8))

        def violations(activation: str, bias: str) -> list[str]:
            data = np.ones(2, np.dtype(bias.lower()))
            stored = T("b", (0.05, 0.1), (0, 0), dtype=bias, shape=(2,), data=data)
            made = T("y", (0.5,), (0,), dtype=activation, shape=(1, 2))
            graph = one("FULLY_CONNECTED", T("x", (0.5,), (0,), dtype=activation), weight, stored, result=made)
            return [found.message for found in checked(tmp_path, graph).violations]

        assert violations("INT16", "INT64") == violations("INT16", "INT32") == violations("INT8", "INT32") == []
        assert violations("INT8", "INT64") == ["the bias b is int64, not int32"]

    @pytest.mark.parametrize(
        ("activation", "bias", "stored_as"),
        [
            ("INT16", "INT64", "int64"),
            ("INT16", "INT32", "int32"),
            ("INT16", "INT16", "int64"),
            ("INT8", "INT32", "int32"),
        ],
    )
    def test_a_bias_is_stored_again_in_a_type_that_the_kernel_takes(
        self, tmp_path: Path, activation: str, bias: str, stored_as: str
    ) -> None:
        weight = T("w", (0.1, 0.2), (0, 0), shape=(2, 4), data=np.ones((2, 4), np.int8))
        data = np.ones(2, np.dtype(bias.lower()))
        wrong = T("b", (0.5, 0.5), (0, 0), dtype=bias, shape=(2,), data=data)
        made = T("y", (0.5,), (0,), dtype=activation, shape=(1, 2))
        graph = one("FULLY_CONNECTED", T("x", (0.5,), (0,), dtype=activation), weight, wrong, result=made)
        (found,) = checked(tmp_path, graph).violations
        assert found.repair.startswith(f"store b as {stored_as} with ")

    def test_what_is_prescribed_is_as_fine_as_16_bits_are(self, tmp_path: Path) -> None:
        def violations(scale: float) -> list[str]:
            made = T("y", (scale,), (0,), dtype="INT16")
            graph = one("LOGISTIC", T("x", (0.5,), (0,), dtype="INT16"), result=made)
            return [found.rule for found in checked(tmp_path, graph).violations]

        assert violations(1 / 32768) == []
        assert violations(1 / 256) == ["unit_interval"]

    def test_quantize_may_stand_between_any_two_parameters(self, tmp_path: Path) -> None:
        graph = G(
            [T("x", *A), T("y", *B), T("z", *B)],
            [N("QUANTIZE", ["x"], ["y"]), N("RESHAPE", ["y"], ["z"])],
            ["x"],
            ["z"],
        )
        report = checked(tmp_path, graph)
        assert (report.violations, report.summary.not_wanted) == ((), ())

    def test_ops_behind_dequantize_are_float(self, tmp_path: Path) -> None:
        graph = G(
            [T("x", *A), T("y", dtype="FLOAT32"), T("z", dtype="FLOAT32")],
            [N("DEQUANTIZE", ["x"], ["y"]), N("SOFTMAX", ["y"], ["z"])],
            ["x"],
            ["z"],
        )
        report = checked(tmp_path, graph)
        assert (report.violations, report.summary.left_float) == ((), ("y", "z"))

    def test_batch_to_space_moves_values(self, tmp_path: Path) -> None:
        (found,) = checked(tmp_path, one("BATCH_TO_SPACE_ND", T("x", *B))).violations
        assert (found.rule, found.source) == (
            "space_batch",
            "quantization_spec.md: BATCH_TO_SPACE_ND, SPACE_TO_BATCH_ND",
        )

    @pytest.mark.parametrize(("axis", "rules"), [(0, []), (3, ["derived", "scheme"])])
    def test_the_channel_axis_of_a_weight_is_that_of_its_op(self, tmp_path: Path, axis: int, rules: list[str]) -> None:
        scale = (0.1, 0.2)
        weight = T("w", scale, (0, 0), shape=(2, 1, 1, 2), axis=axis, data=np.ones((2, 1, 1, 2), np.int8))
        products = tuple(float(np.float32(0.5) * np.float32(s)) for s in (scale if axis == 0 else (0.3, 0.4)))
        bias = T("b", products, (0, 0), dtype="INT32", shape=(2,), data=np.ones(2, np.int32))
        found = checked(tmp_path, one("CONV_2D", T("x", *A), weight, bias)).violations
        assert sorted(violation.kind for violation in found) == rules
        assert all("axis 3" in violation.message for violation in found if violation.kind == "scheme")


class TestVariables:
    def variable(self, name: str, read: Parameters, written: Parameters) -> list[G]:
        handle = T("handle", dtype="RESOURCE", shape=())
        main = G(
            [T("x", *written), handle, T("y", *read)],
            [
                N("VAR_HANDLE", [], ["handle"], variable="state"),
                N("READ_VARIABLE", ["handle"], ["y"]),
                N("ASSIGN_VARIABLE", ["handle", "x"], []),
            ],
            ["x"],
            ["y"],
        )
        initial = T("zeros", *A, data=np.zeros((1, 4), np.int8))
        init = G(
            [handle, initial],
            [N("VAR_HANDLE", [], ["handle"], variable=name), N("ASSIGN_VARIABLE", ["handle", "zeros"], [])],
            name="init",
        )
        return [main, init]

    def test_what_is_assigned_and_read_means_the_same_in_all_subgraphs(self, tmp_path: Path) -> None:
        assert checked(tmp_path, *self.variable("state", A, A)).violations == ()
        found = checked(tmp_path, *self.variable("state", B, A)).violations
        assert {entry.rule for entry in found} == {"variable"}
        assert all("y" in {tensor.name for tensor in entry.tensors} for entry in found)

    def test_another_variable_is_another_matter(self, tmp_path: Path) -> None:
        assert checked(tmp_path, *self.variable("other", B, B)).violations == ()


class TestBadFiles:
    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such model file"):
            read_tflite(tmp_path / "none.tflite")
        with pytest.raises(ModelError, match="folder"):
            read_tflite(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 100, b"PK\x03\x04 something else"])
    def test_what_is_no_tflite(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(ModelError, match="not a TensorFlow Lite model"):
            read(tmp_path, content)

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            (T("x", (0.0,), (0,)), "a scale that is no positive number"),
            (T("x", (float("nan"),), (0,)), "a scale that is no positive number"),
            (T("x", (0.5,), (200,)), "a zero point outside int8"),
            (T("x", (0.5, 0.5), (0, 0), axis=0), "2 scales along axis 0 of 1×4"),
            (T("x", (0.5, 0.5, 0.5, 0.5), (0, 0, 0), axis=1), "4 scales and 3 zero points"),
        ],
    )
    def test_parameters_that_are_none(self, tmp_path: Path, tensor: T, message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            read(tmp_path, build(one("RELU", tensor)))
        assert "x" in caught.value.which

    def test_every_cut_ends_in_one_error(self, tmp_path: Path) -> None:
        content = build(one("RELU", T("x", *A)))
        for size in range(0, len(content), 4):
            with pytest.raises(ModelError):
                read(tmp_path, content[:size])

    def test_names_that_share_their_bytes_cost_no_memory(self, tmp_path: Path) -> None:
        """10,000 tensors that share one name of 4 MB would be 40 GB."""
        content = bytearray(build(G([T("x" * 4_000_000, *A)] * 2, [N("RELU")])))
        graph = _table(content, _vector_of(content, _root(content), 2), 0)
        content += b"\0" * (-len(content) % 4)
        tensors = _vector_of(content, graph, 0)
        shared = _table(content, tensors, 0)
        place = len(content)
        content += struct.pack("<I", 10_000)
        for index in range(10_000):
            # Offsets lead forward only; this one wraps, as a hostile file would have it.
            content += struct.pack("<I", (shared - (place + 4 + 4 * index)) & 0xFFFFFFFF)
        field = _field(content, graph, 0)
        content[field : field + 4] = struct.pack("<I", place - field)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ModelError, match="damaged"):
            read(tmp_path, bytes(content))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB

    def test_a_vector_that_claims_billions_of_entries(self, tmp_path: Path) -> None:
        content = bytearray(build(one("RELU", T("x", *A))))
        vector = _vector_of(content, _root(content), 2)
        content[vector : vector + 4] = b"\xff\xff\xff\x7f"
        with pytest.raises(ModelError, match="damaged"):
            read(tmp_path, bytes(content))

    @pytest.mark.parametrize("seed", range(4))
    def test_damaged_bytes_end_in_one_error_or_a_report(self, tmp_path: Path, seed: int) -> None:
        spec = importlib.util.find_spec("pymicro_wakeword")
        assert spec is not None
        assert spec.origin is not None
        source = (Path(spec.origin).parent / "models" / "alexa.tflite").read_bytes()
        chance = random.Random(seed)
        for _ in range(150):
            content = bytearray(source)
            for _ in range(chance.choice([1, 2, 5, 50, 500])):
                place = chance.randrange(len(content) - 4)
                words = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x04\0\0\0", chance.randbytes(4)]
                content[place : place + 4] = chance.choice(words)
            try:
                check(read(tmp_path, bytes(content)), TFLITE)
            except QgraphError:
                continue


def _root(content: bytearray) -> int:
    return int(struct.unpack_from("<I", content, 0)[0])


def _field(content: bytearray, table: int, number: int) -> int:
    """The place of a table's field."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    return int(table + struct.unpack_from("<H", content, vtable + 4 + 2 * number)[0])


def _vector_of(content: bytearray, table: int, number: int) -> int:
    field = _field(content, table, number)
    return int(field + struct.unpack_from("<I", content, field)[0])


def _table(content: bytearray, vector: int, index: int) -> int:
    place = vector + 4 + 4 * index
    return int(place + struct.unpack_from("<I", content, place)[0])
