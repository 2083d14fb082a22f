"""A written model is whole, checked and has run, or it is not there."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper

from qgraph.errors import DataError, ExportError
from qgraph.formats.onnx_file import write_checked

WEIGHT = np.arange(4096, dtype="float32")


def model(factor: float = 1.0, kind: str = "Add") -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"], name="node")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
        [numpy_helper.from_array(WEIGHT * np.float32(factor), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def weight_of(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(path).graph.initializer[0])


def runs(_: Path) -> None:
    pass


def test_the_file_is_there_when_the_check_and_the_trial_have_passed(tmp_path: Path) -> None:
    tried: list[Path] = []
    write_checked(model(), tmp_path / "m.onnx", tried.append)
    assert [one.name for one in tried] == ["m.onnx"]
    assert tried[0].parent != tmp_path
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]
    np.testing.assert_array_equal(weight_of(tmp_path / "m.onnx"), WEIGHT)


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_checked(model(), tmp_path / name, runs)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_invalid_model_leaves_the_existing_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("before")
    with pytest.raises(ExportError, match="not valid ONNX") as caught:
        write_checked(model(kind="NoSuchOp"), path, runs)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "before"


def test_a_wrong_shape_does_not_pass_the_check(tmp_path: Path) -> None:
    wrong = model()
    wrong.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(ExportError, match="not valid ONNX"):
        write_checked(wrong, tmp_path / "m.onnx", runs)


def test_a_model_that_does_not_run_leaves_no_trace(tmp_path: Path) -> None:
    def fails(_: Path) -> None:
        raise RuntimeError("no such kernel\nsecond line")

    with pytest.raises(ExportError, match=r"does not run: .*no such kernel second line;"):
        write_checked(model(), tmp_path / "m.onnx", fails)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_told_already_keeps_its_words(tmp_path: Path) -> None:
    def fails(_: Path) -> None:
        raise DataError("cannot make up an input", "x", "give a sample")

    with pytest.raises(DataError, match="cannot make up an input"):
        write_checked(model(), tmp_path / "m.onnx", fails)


def test_an_interrupt_leaves_no_trace(tmp_path: Path) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checked(model(), tmp_path / "m.onnx", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write the model"):
        write_checked(model(), tmp_path / "missing" / "m.onnx", runs)


def test_a_large_model_has_its_weights_beside_it_and_a_second_one_does_not_touch_them(tmp_path: Path) -> None:
    path, copy = tmp_path / "m.onnx", tmp_path / "copy.onnx"
    write_checked(model(), path, onnx.load, in_one_file=1000)
    copy.write_bytes(path.read_bytes())
    write_checked(model(2.0), path, onnx.load, in_one_file=1000)
    np.testing.assert_array_equal(weight_of(path), 2 * WEIGHT)
    np.testing.assert_array_equal(weight_of(copy), WEIGHT)
    assert path.stat().st_size < 1000


@pytest.mark.parametrize("in_one_file", [1000, 1_000_000])
def test_external_weights_are_copied_from_the_models_folder(tmp_path: Path, in_one_file: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    onnx.save_model(model(), source / "s.onnx", save_as_external_data=True, location="s.data")
    light = onnx.load(source / "s.onnx", load_external_data=False)
    write_checked(light, target / "m.onnx", runs, folder=source, in_one_file=in_one_file)
    assert external_data_helper.uses_external_data(light.graph.initializer[0])
    (source / "s.data").unlink()
    np.testing.assert_array_equal(weight_of(target / "m.onnx"), WEIGHT)


def test_the_second_file_holds_the_large_weights_only_each_on_its_own_page(tmp_path: Path) -> None:
    large = model()
    large.graph.name, large.doc_string = "named", "documented"
    large.metadata_props.add(key="k", value="v")
    large.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.int64), "small"))
    large.graph.initializer.append(TensorProto(name="text", data_type=TensorProto.STRING, dims=[1], string_data=[b"t"]))
    large.graph.initializer.append(helper.make_tensor("listed", TensorProto.FLOAT, [500], np.arange(500.0)))
    before = large.SerializeToString(deterministic=True)
    write_checked(large, tmp_path / "m.onnx", runs, in_one_file=1000)
    assert large.SerializeToString(deterministic=True) == before
    light, read = onnx.load(tmp_path / "m.onnx", load_external_data=False), onnx.load(tmp_path / "m.onnx")
    moved = {t.name: dict(entries_of(t)) for t in light.graph.initializer if t.data_location}
    assert moved.keys() == {"w", "listed"}
    assert all(int(entries["offset"]) % 4096 == 0 for entries in moved.values())
    weights = {t.name: t for t in read.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(weights["listed"]), np.arange(500, dtype=np.float32))
    np.testing.assert_array_equal(numpy_helper.to_array(weights["small"]), [1, 1])
    assert weights["text"].string_data == [b"t"]
    assert (read.graph.name, read.doc_string, read.metadata_props[0].value) == ("named", "documented", "v")


def entries_of(tensor: TensorProto) -> list[tuple[str, str]]:
    return [(entry.key, entry.value) for entry in tensor.external_data]


def test_weights_go_from_file_to_file_without_lying_in_memory(tmp_path: Path) -> None:
    source, target, size = tmp_path / "source", tmp_path / "target", 400 << 20
    source.mkdir()
    target.mkdir()
    with (source / "s.data").open("wb") as file:
        file.truncate(size)
    light = model()
    weight = light.graph.initializer[0]
    weight.CopyFrom(TensorProto(name="w", data_type=TensorProto.INT8, dims=[size], data_location=TensorProto.EXTERNAL))
    weight.external_data.add(key="location", value="s.data")
    light.graph.node[0].CopyFrom(helper.make_node("Size", ["w"], ["y"], name="node"))
    light.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, []))
    tracemalloc.start()
    try:
        write_checked(light, target / "m.onnx", runs, folder=source, in_one_file=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    (written,) = target.glob("*.data")
    assert written.stat().st_size == size
    written.unlink()
