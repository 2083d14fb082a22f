"""Every command of the README and of the other pages runs, in its order, on a model that has the README's names."""

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

import qgraph

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


def blocks(language: str, page: str = README) -> list[str]:
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    return [text for named, text in fenced if named == language]


def qgraph_commands(page: str) -> list[list[str]]:
    """The arguments of every qgraph command in the page's blocks of shell commands."""
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("qgraph ")]


@pytest.fixture(scope="module")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx (two convolutions, concatenated), samples.npz, others.npz and photos."""
    folder = tmp_path_factory.mktemp("project")
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
    onnx.save(model, folder / "model.onnx")
    for name in ("samples", "others"):
        np.savez(folder / f"{name}.npz", input=random.normal(size=(4, 3, 8, 8)).astype(np.float32))
    (folder / "photos").mkdir()
    for number in range(3):
        pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def known_project(new_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same once the README's main commands ran: c1, mse, minmax, model.int8.onnx; and what a device will give."""
    folder = tmp_path_factory.mktemp("known") / "project"
    shutil.copytree(new_project, folder)
    with qgraph.open(folder / "qgraph.db") as database:
        calibration = database.calibrate(folder / "model.onnx", folder / "samples.npz")
        calibration.solve(target="tflite", observer="mse", name="mse").export(folder / "model.int8.onnx")
        calibration.solve(target="tflite", observer="minmax", name="minmax")
    (folder / "device").symlink_to("golden")
    return folder


@pytest.fixture
def project(new_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(new_project, tmp_path, dirs_exist_ok=True))


def run_all(cli: Cli, commands: list[list[str]]) -> None:
    for command in commands:
        result = cli(*command)
        assert result.code == 0, (command, result.stderr)
        assert result.stdout


def test_every_command_of_the_readme_runs_in_its_order(cli: Cli, project: Path) -> None:
    commands = qgraph_commands(README)
    assert len(commands) >= 11
    run_all(cli, commands)
    assert (project / "model.int8.onnx").exists()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if qgraph_commands(page.read_text())], ids=lambda page: page.stem
)
def test_every_command_of_a_page_runs_in_its_order(cli: Cli, known_project: Path, tmp_path: Path, page: Path) -> None:
    shutil.copytree(known_project, tmp_path, symlinks=True, dirs_exist_ok=True)
    run_all(cli, qgraph_commands(page.read_text()))


def test_a_command_of_a_page_that_is_shown_is_one_that_runs() -> None:
    for page in PAGES:
        others = "\n".join(blocks("", page.read_text()))
        assert not re.findall(r"^qgraph .*", others, re.MULTILINE), page


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target.read_text()), link


def headings(page: str) -> set[str]:
    """The names by which a page's headings are linked to."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


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
