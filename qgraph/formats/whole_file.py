"""Files and folders that are never seen half written."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgraph.errors import ExportError


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder next to a path, in which it is made and which is gone afterwards.

    Its name is known before it is there: with `tempfile`, a signal between making it and noting it leaves it behind.

    Raises:
        OSError: it cannot be made.
    """
    folder = path.parent / f".{path.name[:100]}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[Path]:
    """A file to write, which takes its name once it is complete, and is gone where that fails.

    Args:
        what: what is written, in words.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        with folder_beside(path) as folder:
            file = folder / f"whole{path.suffix}"
            yield file
            with file.open("rb+") as written:  # a name that outlives a power failure shall not outlive what it names
                os.fsync(written.fileno())
            file.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {what}", f"{path} ({error.strerror})", "choose another place") from error
