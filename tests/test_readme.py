"""Every command of the README runs, in its order, on a model that has the README's names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with model.onnx (two convolutions, concatenated), samples.npz, others.npz and photos."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), f"w{i}") for i in (1, 2)]
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["conv1_out"], "conv1"),
        helper.make_node("Conv", ["input", "w2"], ["conv2_out"], "conv2"),
        helper.make_node("Concat", ["conv1_out", "conv2_out"], ["joined"], "concat", axis=1),
    ]
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])
    target = helper.make_tensor_value_info("joined", TensorProto.FLOAT, ["n", 8, 6, 6])
    graph = helper.make_graph(nodes, "readme", [source], [target], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    for name in ("samples", "others"):
        np.savez(tmp_path / f"{name}.npz", input=random.normal(size=(4, 3, 8, 8)).astype(np.float32))
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def test_every_command_of_the_readme_runs_in_its_order(cli: Cli, project: Path) -> None:
    commands = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    qgraph_commands = [shlex.split(line)[1:] for line in commands if line.startswith("qgraph ")]
    assert len(qgraph_commands) >= 11
    for command in qgraph_commands:
        result = cli(*command)
        assert result.code == 0, (command, result.stderr)
        assert result.stdout
    assert (project / "model.int8.onnx").exists()


def test_the_other_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"^(?:\w+=\S+ )*make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert set(used) == {"demo", "test"} <= targets


def test_the_demo_runs_and_runs_again_from_what_is_stored(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer photographs: the rest is as written."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    demo = (ROOT / "examples" / "demo.sh").read_text()
    for many, few in (("--count 32", "--count 4"), ("--count 16", "--count 2")):
        assert demo.count(many) == 1
        demo = demo.replace(many, few)
    (tmp_path / "examples" / "demo.sh").write_text(demo)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = ["sh", "examples/demo.sh"]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "calibration c1: 4 samples (4 run now)" in done.stdout
    assert {"ppocr4_det.int8.onnx", "qgraph.db"} <= {path.name for path in (tmp_path / "demo").iterdir()}
    monkeypatch.chdir(tmp_path / "demo")
    commands = re.findall(r"^run qgraph (.*)$", demo, re.MULTILINE)
    again = [cli(*shlex.split(command)) for command in commands]
    assert [result.code for result in again] == [0] * len(commands), [result.stderr for result in again]
    assert "reused, nothing was run" in "".join(result.stdout for result in again)


def test_the_python_of_the_readme_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {"data": "samples.npz"})  # our own text
    assert onnx.load(project / "model.int8.onnx").graph.node
