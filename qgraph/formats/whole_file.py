"""Files that are never seen half written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgraph.errors import ExportError


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[Path]:
    """A file to write, which takes its name once it is complete, and is gone where that fails.

    Args:
        what: what is written, in words.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", dir=path.parent) as folder:
            file = Path(folder) / f"whole{path.suffix}"
            yield file
            with file.open("rb+") as written:  # a name that outlives a power failure shall not outlive what it names
                os.fsync(written.fileno())
            file.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {what}", f"{path} ({error.strerror})", "choose another place") from error
