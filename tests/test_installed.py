"""The package works outside the checkout: from its wheel and from an editable install."""

from __future__ import annotations

import gzip
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A new virtual environment that sees this one's libraries, but not its qgraph; returns its python."""
    venv.create(tmp_path / "env")
    site = Path(
        run(tmp_path / "env/bin/python", "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    # A folder named in a .pth file is searched, but the .pth files inside it (this checkout's editable one) are not.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "env/bin/python"


def test_the_wheel_holds_migrations_and_rule_packs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "qgraph/migrations/env.py" in names
    assert any(name.startswith("qgraph/migrations/versions/0") for name in names)
    assert {
        "qgraph/constraints/packs/tflite.toml",
        "qgraph/constraints/packs/onnxruntime.toml",
        "qgraph/py.typed",
    } <= set(names)
    assert not [name for name in names if name.startswith(("tests", "migrations", "examples"))]


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_installation_makes_a_run_and_checks_its_database(
    kind: str, environment: Path, tmp_path: Path, request: pytest.FixtureRequest, ppocr4_det: Path, ocr_photos: Path
) -> None:
    what = [request.getfixturevalue("wheel")] if kind == "wheel" else ["--no-build-isolation", "-e", ROOT]
    pip = (sys.executable, "-m", "pip", "--python", environment)
    run(*pip, "install", "--quiet", "--no-deps", *what, cwd=tmp_path)
    where = run(environment, "-c", "import qgraph; print(qgraph.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path if kind == "wheel" else ROOT)
    qgraph = environment.parent / "qgraph"
    if kind == "wheel":
        run(qgraph, "calibrate", ppocr4_det, "--data", ocr_photos, "--steps", 2, "--target", "tflite", cwd=tmp_path)
    else:
        run(qgraph, "analyze", ppocr4_det, "--target", "tflite", cwd=tmp_path)
    assert run(qgraph, "db", "check", cwd=tmp_path)
    for released in sorted((ROOT / "tests" / "store" / "released").glob("*.db.gz")):
        (tmp_path / "old.db").write_bytes(gzip.decompress(released.read_bytes()))
        assert "up to date" in run(qgraph, "db", "upgrade", "--db", "old.db", cwd=tmp_path)
        assert "nothing wrong" in run(qgraph, "db", "check", "--deep", "--db", "old.db", cwd=tmp_path)
    assert "p2o.Concat.1" in run(qgraph, "share", "p2o.Concat.1", "--run", "latest", cwd=tmp_path)
