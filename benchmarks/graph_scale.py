"""How long a graph of 100,000 ops takes, and one that has 1,000,000 slots as well: import, solve, store, why.

    python benchmarks/graph_scale.py
    python benchmarks/graph_scale.py --ops 10000 --slots 100000

The models are made here: deep residual stages, feature pyramids and transformer blocks, in turn, one behind the other;
in the second one also dense blocks, whose concats read all layers before them: as many of them as give an op the slots
that it has on average. Tensors are tiny, since only the structure counts. Times are of one process, without its start.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.ir.elements import Structure
from qgraph.ir.onnx_import import load_model
from qgraph.jobs.question import Question, pose
from qgraph.objects import many_objects
from qgraph.run import Run
from qgraph.solve.solver import solve
from qgraph.store import models, runs
from qgraph.store.database import open_database

CHANNELS = 4
RESIDUAL_LAYERS = 50
PYRAMID_LEVELS = 4
DENSE_LAYERS = 48
MOST_SLOTS = 13
"""For each op, on average: a dense block has a few more."""

ASKED = 40
"""Pairs of tensors that `why` is asked about."""


class Model:
    """An ONNX model that grows op by op; weights are few and shared, as they do not matter here."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.slots = 0
        weights: dict[str, NDArray[Any]] = {
            "conv_w": np.ones((CHANNELS, CHANNELS, 1, 1), np.float32),
            "conv_b": np.ones(CHANNELS, np.float32),
            "matmul_w": np.ones((CHANNELS, CHANNELS), np.float32),
            "norm_w": np.ones(CHANNELS, np.float32),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "to_tokens": np.array([1, CHANNELS, -1], np.int64),
            "to_image": np.array([1, CHANNELS, 8, 8], np.int64),
        }
        self.weights = [numpy_helper.from_array(value, name) for name, value in weights.items()]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an op with one output, and return the output's name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [i for i in inputs], [f"{name}_out"], name, **attributes))  # noqa: C416
        self.slots += len(inputs) + 1
        return f"{name}_out"

    def conv(self, x: str) -> str:
        """A convolution with bias."""
        return self.op("Conv", x, "conv_w", "conv_b")

    def save(self, path: Path, output: str) -> None:
        """Write the model, all of it in one file."""
        shape = [1, CHANNELS, 8, 8]
        graph = helper.make_graph(
            self.nodes,
            "scale",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def residual_stage(model: Model, x: str) -> str:
    """Conv, Relu, Conv, Add, Relu, many times: one long trunk."""
    for _ in range(RESIDUAL_LAYERS):
        inner = model.conv(model.op("Relu", model.conv(x)))
        x = model.op("Relu", model.op("Add", x, inner))
    return x


def pyramid(model: Model, x: str) -> str:
    """Down through max pools, up through resizes with a lateral connection at each level; the levels are joined."""
    levels = [x]
    for _ in range(PYRAMID_LEVELS - 1):
        levels.append(model.conv(model.op("MaxPool", levels[-1], kernel_shape=[2, 2], strides=[2, 2])))
    top = model.conv(levels.pop())
    while levels:
        top = model.op("Add", model.conv(levels.pop()), model.op("Resize", top, "", "scales", mode="nearest"))
    smooth = [model.conv(top), model.op("AveragePool", top, kernel_shape=[1, 1])]
    joined = model.op("Concat", *smooth, axis=0)
    return model.op("ReduceMean", joined, axes=[0], keepdims=1)


def transformer_block(model: Model, x: str) -> str:
    """Attention and a feed-forward network, each with its residual, over the image's places as tokens."""
    tokens = model.op("Transpose", model.op("Reshape", x, "to_tokens"), perm=[0, 2, 1])
    q, k, v = (model.op("MatMul", tokens, "matmul_w") for _ in range(3))
    scores = model.op("MatMul", q, model.op("Transpose", k, perm=[0, 2, 1]))
    context = model.op("MatMul", model.op("Softmax", scores, axis=-1), v)
    tokens = model.op("Add", tokens, model.op("MatMul", context, "matmul_w"))
    tokens = model.op("LayerNormalization", tokens, "norm_w", "norm_w", axis=-1)
    hidden = model.op("Relu", model.op("MatMul", tokens, "matmul_w"))
    tokens = model.op("Add", tokens, model.op("MatMul", hidden, "matmul_w"))
    return model.op("Reshape", model.op("Transpose", tokens, perm=[0, 2, 1]), "to_image")


def dense_block(model: Model, x: str) -> str:
    """Each layer reads the concat of all before it, as in DenseNet."""
    features = [x]
    for _ in range(DENSE_LAYERS):
        joined = model.op("Concat", *features, axis=0)
        features.append(model.op("ReduceMean", joined, axes=[0], keepdims=1))
    return features[-1]


BLOCKS = (residual_stage, pyramid, transformer_block)


def build(ops: int, slots: int, path: Path) -> Model:
    """Write a model of the blocks in turn, the transformer's ten times each, until it has enough ops.

    Args:
        slots: dense blocks follow each round until that many belong to as many ops; 0 for none.
    """
    model, x = Model(), "x"
    while len(model.nodes) < ops:
        for block in BLOCKS:
            for _ in range(10 if block is transformer_block else 1):
                x = block(model, x)
        while model.slots * ops < slots * len(model.nodes):
            x = dense_block(model, x)
    model.save(path, x)
    return model


def timed(what: str, job: Callable[[], object]) -> object:
    """Run a job and print its time."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = job()
    print(f"  {what:8} {time.perf_counter() - wall:7.2f} s  ({time.process_time() - cpu:.2f} s of CPU)", flush=True)
    return answer


def measure(path: Path, target: str) -> None:
    """Print the time of each step for one model."""
    with many_objects():  # as the jobs do
        measure_steps(path, target)


def measure_steps(path: Path, target: str) -> None:
    """The steps, and the questions afterwards."""
    structure = timed("import", lambda: load_model(path).structure)
    assert isinstance(structure, Structure)
    question = Question(target)

    def solved() -> object:
        posed = pose(structure, question)
        return solve(structure, posed.constraints, posed.grouping, {}, (), (), posed.settings)

    data = timed("solve", solved)
    location = path.with_suffix(".db")

    def stored() -> None:
        database = open_database(str(location), create=True)
        with database.transaction() as connection:
            model = models.save_model(connection, structure, str(path))
            runs.save_run(connection, model, None, data, name=None)  # type: ignore[arg-type]
        database.close()

    timed("store", stored)
    with qgraph.open(location) as database:
        ask(database.run())
    print(f"  memory   {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MiB at the peak", flush=True)


def ask(run: Run) -> None:
    """Print how long `why` takes for pairs from the largest groups, in a session that is open already."""
    groups = sorted(run.groups()["groups"], key=lambda group: -len(group["slots"]))
    pairs = [(group["slots"][0], group["slots"][-1]) for group in groups[:ASKED]]
    times = []
    for a, b in pairs:
        start = time.perf_counter()
        assert run.why(a, b)["shared"]
        times.append(time.perf_counter() - start)
    largest = len(groups[0]["slots"])
    print(f"  why      {max(times):7.3f} s at most, {sorted(times)[len(times) // 2]:.3f} s in the middle")
    print(f"           {len(groups)} groups, the largest of {largest} slots", flush=True)


def main() -> None:
    """Build both models and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, default=100_000, help="of either model")
    parser.add_argument("--slots", type=int, default=1_000_000, help="of the second model; 0 leaves it out")
    parser.add_argument("--target", default="tflite")
    options = parser.parse_args()
    if options.slots > MOST_SLOTS * options.ops:
        parser.error(f"at most {MOST_SLOTS} slots for each op")
    with tempfile.TemporaryDirectory() as folder:
        for slots in (0, options.slots) if options.slots else (0,):
            path = Path(folder) / f"{slots}.onnx"
            model = build(options.ops, slots, path)
            print(f"{len(model.nodes)} ops, {model.slots} slots of ops, target {options.target}")
            measure(path, options.target)


if __name__ == "__main__":
    main()
