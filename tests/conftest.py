"""Real models and photographs, made once per session, and the command line as a function."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import triton_place  # isort: skip  # noqa: F401 - before anything that may import triton
import coverage
import numpy as np
import pytest
from development_models import IMAGENET_MEAN, IMAGENET_STD, MODELS
from filelock import FileLock
from hypothesis import HealthCheck, settings
from photographs import photographs
from postgresql_server import Server, name_of

from qgraph.cli.main import run
from qgraph.store.database import open_database

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

FATES = "fates of tensors"
"""Property of a test's report: a model, a target, and how many tensors had which fate."""


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and both streams."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.stdout)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run a command in `tmp_path`, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QGRAPH_DB", raising=False)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server of this session's own."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database without any rows. Copy it."""
    path = tmp_path_factory.mktemp("empty") / "q.db"
    open_database(path, create=True).close()
    return path


@pytest.fixture(scope="session")
def empty_template(postgresql: Server) -> str:
    """The name of a PostgreSQL database without any rows. Make copies of it."""
    url = postgresql.new_database()
    open_database(url, create=True).close()
    return name_of(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a database without any rows is: everything that does not depend on its kind is tested on both."""
    if request.param == "sqlite":
        yield str(shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "q.db"))
        return
    server: Server = request.getfixturevalue("postgresql")
    url = server.new_database(request.getfixturevalue("empty_template"))
    yield url
    server.drop(url)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps the models, data and databases of all test processes. Read it, copy from it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "real"
    folder.mkdir(exist_ok=True)
    return folder


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The file at `path`, which the first test process that asks for it makes: the others wait and take it."""
    with FileLock(f"{path}.lock"):
        if not path.exists():
            unfinished = path.with_name(f"unfinished_{path.name}")
            make(unfinished)
            unfinished.rename(path)
    return path


def real_model(real: Path, name: str) -> Path:
    """The file of a development model."""
    return once(real / f"{name}.onnx", MODELS[name].write)


@pytest.fixture(scope="session")
def ppocr4_det(real: Path) -> Path:
    """PP-OCRv4's text detector."""
    return real_model(real, "ppocr4_det")


@pytest.fixture(scope="session")
def ppocr_cls(real: Path) -> Path:
    """PP-OCR's small classifier of text directions, for all that would be the same on a larger model."""
    return real_model(real, "ppocr_cls_v2")


@pytest.fixture(scope="session")
def mobilenet_v2(real: Path) -> Path:
    """MobileNetV2 with its ImageNet weights."""
    return real_model(real, "mobilenet_v2")


def real_samples(real: Path, name: str, count: int) -> Path:
    """The first samples of a development model, as a file."""
    return once(
        real / f"{name}_{count}.npz",
        lambda path: np.savez(path, allow_pickle=False, **MODELS[name].samples(count, 0)),
    )


@pytest.fixture(scope="session")
def cls_photos(real: Path) -> Path:
    """8 photographs for `ppocr_cls`, 48x192."""
    return real_samples(real, "ppocr_cls_v2", 8)


@pytest.fixture(scope="session")
def imagenet_photos(real: Path) -> Path:
    """8 photographs for `mobilenet_v2`, 224x224."""
    return real_samples(real, "mobilenet_v2", 8)


@pytest.fixture(scope="session")
def ocr_photos(real: Path) -> Path:
    """32 photographs for `ppocr4_det`, 96x96."""

    def write(path: Path) -> None:
        np.savez(path, x=photographs(32, 96, 96, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=True))

    return once(real / "ocr_photos.npz", write)


@pytest.fixture(scope="session")
def calibrated_session(real: Path, ppocr4_det: Path, ocr_photos: Path) -> Path:
    """A database with ppocr4_det calibrated on all photographs, and one run named ``mse`` for tflite."""

    def calibrate(path: Path) -> None:
        arguments = ["calibrate", ppocr4_det, "--data", ocr_photos, "--db", path, "--target", "tflite"]
        assert run([*map(str, arguments), "--observer", "mse", "--name", "mse", "--json"]) == 0

    return once(real / "calibrated.db", calibrate)


@pytest.fixture
def calibrated(calibrated_session: Path, tmp_path: Path) -> Path:
    """A copy of that database, in the current folder of `cli`, under the default name."""
    with sqlite3.connect(calibrated_session) as source, sqlite3.connect(tmp_path / "qgraph.db") as target:
        source.backup(target)
    source.close()
    target.close()
    return tmp_path / "qgraph.db"


LONG_FILES = (
    *("test_models_matrix.py", "test_readme.py", "test_cli_interruptions.py", "test_cli_resume.py"),
    *("test_models_large.py", "test_cli_max_memory.py", "test_installed.py", "test_analysis_layers.py"),
    *("test_cli_import.py", "test_cli_main_job.py", "test_cli_merge.py", "test_cli_lean.py", "test_cli_auto.py"),
    *("test_cli_blame.py", "test_cli_database.py", "test_cli_alignment.py", "test_api_torch.py"),
    *("test_observers_real_activations.py", "test_store_hostile.py", "test_formats_qdq_models.py"),
    *("test_store_round_trips.py", "test_passes_document.py"),
)
"""Test files that take ten seconds to two minutes: the whole program, real activations, many random inputs."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Coverage leaves out what the fixtures of an uncounted test do, too."""
    measured = coverage.Coverage.current() if item.get_closest_marker("no_cover") else None
    if measured is None or item.config.getoption("cov_context", None):  # contexts need a coverage that runs
        return (yield)
    measured.stop()
    try:
        return (yield)
    finally:
        measured.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that no process is left alone with one of them in the end.

    Coverage does not count their lines, which shorter tests reach, too: it would double their time.
    """
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        if item.path.name in LONG_FILES:
            item.add_marker("no_cover")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of the tensors of the development models, on every target, once all tests are done."""
    reports = terminalreporter.getreports("passed")
    told = (value for one in reports for key, value in one.user_properties if key == FATES)
    found = sorted(told, key=itemgetter(0, 1))
    if not found:
        return
    terminalreporter.section("what became of the tensors of the development models")
    columns = tuple(found[0][2])
    terminalreporter.line(f"{'model':18}{'target':13}" + "".join(f"{column:>12}" for column in columns))
    for model, target, counts in found:
        terminalreporter.line(f"{model:18}{target:13}" + "".join(f"{counts[column]:12}" for column in columns))
