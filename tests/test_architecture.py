"""The rooms import what the design allows, and nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qgraph

PACKAGE = Path(qgraph.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FOUNDATION = {"errors", "objects", "tqc"}
PLAIN = {
    "errors",
    "objects",
    "tqc",
    "hints",
    "ir.elements",
    "ir.slots",
    "constraints.model",
    "calib.evidence",
    "solve.run",
}
"""Modules of plain data: they import no third party, so every room may use them."""

ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "tqc": (FOUNDATION, set()),
    "objects": (set(), set()),
    "ir": (FOUNDATION, {"networkx", "onnx", "onnx_ir", "onnxscript", "numpy", "torch"}),
    "constraints": (FOUNDATION | {"ir"}, set()),
    "calib": (FOUNDATION | {"ir"}, {"numpy", "numba", "llvmlite", "torch", "triton", "onnx", "onnxruntime", "PIL"}),
    "solve": (FOUNDATION | {"ir", "constraints", "calib"}, {"torch"}),
    "store": (PLAIN | {"table"}, {"sqlalchemy", "alembic"}),
    "formats": (PLAIN | {"ir", "graphdb.property_graph"}, {"onnx", "numpy", "tflite", "matplotlib"}),
    "analysis": (FOUNDATION | {"ir", "constraints", "calib", "solve", "formats"}, {"numpy", "onnx", "onnxruntime"}),
    "graphdb": (PLAIN | {"table"}, {"ladybug"}),
    "improve": (FOUNDATION | {"ir", "constraints", "calib", "solve", "formats"}, {"numpy", "onnx", "onnxruntime"}),
    "jobs": ({""}, {"numpy", "onnx"}),
    "passes": ({""}, {"torch", "onnx"}),
    "core": ({"passes"}, set()),
    "arguments": ({"errors", "constraints", "store"}, set()),
    "hints": (set(), set()),
    "table": ({"errors"}, {"pandas", "polars"}),
    "answers": (FOUNDATION | {"constraints", "store"}, set()),
    "calibration": ({""}, set()),
    "checking": ({""}, set()),
    "importing": ({""}, set()),
    "measuring": ({""}, set()),
    "run": ({""}, set()),
    "api": ({""}, set()),
    "cli": ({""}, {"typer", "rich"}),
    "__main__": ({"cli"}, set()),
}
"""Per room: what it may import inside qgraph ("" is everything), and which third parties."""

ONE_MODULE_ONLY = {
    "networkx": "ir/graph.py",
    "numba": "calib/cpu/compiling.py",
    "llvmlite": "calib/cpu/compiling.py",
    "triton": "calib/gpu/triton_kernels.py",
    "alembic": "store/migrate.py",
    "PIL": "calib/data/images.py",
    "matplotlib": "formats/plot.py",
    "ladybug": "graphdb/cypher.py",
    "pandas": "table.py",
    "polars": "table.py",
    "tflite": "formats/tflite_file.py",
}
"""Heavy or replaceable libraries that exactly one module knows."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inside(name: str, allowed: set[str]) -> bool:
    """Whether a dotted name below qgraph lies in one of the allowed rooms or modules."""
    return "" in allowed or any(
        name == room or name.startswith(f"{room}.") or room.startswith(f"{name}.") for room in allowed
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_row_allows(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        rooms, third_parties = {""}, set[str]()
    else:
        rooms, third_parties = ALLOWED[room]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "qgraph":
            assert not rest or inside(rest, rooms | {room}), f"{path} imports {name}"
        else:
            assert top in third_parties | sys.stdlib_module_names, f"{path} imports {name}"


@pytest.mark.parametrize(("library", "owner"), ONE_MODULE_ONLY.items())
def test_only_one_module_knows_a_heavy_library(library: str, owner: str) -> None:
    knowing = [
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(name.partition(".")[0] == library for name in imports(path))
    ]
    assert knowing == [owner]


def test_in_ir_only_the_importer_of_torch_modules_knows_torch() -> None:
    knowing = {
        path.name
        for path in (PACKAGE / "ir").glob("*.py")
        if any(name.partition(".")[0] == "torch" for name in imports(path))
    }
    assert knowing == {"torch_errors.py", "torch_import.py", "torch_inputs.py"}


def test_room_inits_are_empty() -> None:
    assert [
        path for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE and path.read_text()
    ] == []


def test_modules_of_plain_data_import_no_third_party() -> None:
    for name in PLAIN:
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        assert {n.partition(".")[0] for n in imports(path)} <= {"qgraph", *sys.stdlib_module_names}


def test_importing_qgraph_is_lazy() -> None:
    heavy = ("qgraph.", "numpy", "torch", "sqlalchemy")
    code = f"import sys, qgraph; print([m for m in sys.modules if m.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_outgrows_its_purpose() -> None:
    assert [path for path in MODULES if len(path.read_text().splitlines()) > 450] == []
