"""A model of more than 2 GiB, which no protobuf file may have, goes all the way with external weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH, COLUMNS = 400_000, 1000, 150_000
"""A table of 1.6 GB that is looked up, and a matrix of 0.6 GB that is multiplied with, and that ends beyond 2 GiB."""

USED = (0, 3, ROWS - 1)
"""The rows of both that are not zero: all else is a hole in the file, that takes no space on the disk."""


def write(path: Path) -> None:
    shapes = {"table": (ROWS, WIDTH), "matrix": (WIDTH, COLUMNS)}
    random, weights, offset = np.random.default_rng(0), [], 0
    with path.with_suffix(".data").open("wb") as file:
        for name, (rows, columns) in shapes.items():
            weight = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, columns])
            weight.data_location = TensorProto.EXTERNAL
            entries = {"location": path.with_suffix(".data").name, "offset": offset, "length": rows * columns * 4}
            weight.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in entries.items())
            weights.append(weight)
            for row in (min(row, rows - 1) for row in USED):
                file.seek(offset + row * columns * 4)
                file.write(random.standard_normal(columns).astype("<f4").tobytes())
            offset += rows * columns * 4
    weights.append(numpy_helper.from_array(np.array(USED), "rows"))
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["found"], name="look_up"),
        helper.make_node("Add", ["found", "x"], ["sum"], name="add"),
        helper.make_node("MatMul", ["sum", "matrix"], ["product"], name="multiply"),
        helper.make_node("ReduceMax", ["product"], ["y"], name="largest", axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(USED), WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(USED)])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_more_than_two_gibibytes_go_all_the_way(cli: Cli, tmp_path: Path) -> None:
    model, exported = tmp_path / "large.onnx", tmp_path / "int8.onnx"
    write(model)
    assert model.with_suffix(".data").stat().st_size == 2_200_000_000 > 2 << 30
    assert shutil.disk_usage(tmp_path).free > 3 << 30
    samples = np.random.default_rng(1).standard_normal((2, len(USED), WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=samples)
    try:
        assert cli("analyze", model, "--target", "tflite").code == 0
        done = cli("calibrate", model, "--data", "data.npz", "--target", "onnxruntime", "--name", "first", "--json")
        assert done.code == 0, done.stderr
        assert cli("solve", "first", "--target", "onnxruntime", "--observer", "minmax", "--name", "int8").code == 0
        scales = cli("scales", "int8", "--json").json["tensors"]
        assert scales["table"]["state"] == scales["matrix"]["state"] == "ACTIVATED"
        done = cli("export", "int8", "--format", "qdq", "-o", exported)
        assert done.code == 0, done.stderr
        assert 500 << 20 < exported.stat().st_size < 600 << 20
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        (largest,) = session.run(None, {"x": samples[0]})
        assert np.isfinite(largest).all()
        assert (largest > 0).all()
    finally:
        for file in tmp_path.iterdir():
            if file.is_file():
                file.unlink()
