"""What torch says when it cannot export a module, as one line: its reason, and the place in the user's code.

The exporter's stages raise errors of many kinds, most of them several screens long. The place is found in the
traceback, in what an error quotes of one, or in the program's note of where the op that failed came from.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock

import torch
from torch.export import ExportedProgram

from qgraph.errors import ModelError, QgraphError

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_QUOTED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NODE = re.compile(r"\bnode %(?P<name>\w+)")
_PAGES = "\n\n"
"""Behind the first paragraph torch explains itself at length."""
_ALONE = Lock()
"""torch traces a module by patching itself, and what it prints is kept back by patching `sys`: one thread at a time."""


@contextmanager
def reported(name: str, what: str, program: ExportedProgram | None = None) -> Iterator[None]:
    """Turn whatever torch raises into a `ModelError`, and keep torch's own notes off the user's terminal.

    Another thread waits until this one is done. Not to be nested.

    Args:
        name: the module.
        what: what went wrong.
        program: knows from where its nodes came.
    """
    with _ALONE:
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        except QgraphError:
            raise
        except Exception as error:
            # The exporter's stages raise classes of their own with no common base.
            causes = _causes(error)
            place = _place(causes, program)
            which = ": ".join((name if place is None else f"{name}, {place}", _reason(causes[0])))
            given = "pass inputs that it takes, or " if program is None else ""
            cure = f"{given}change the module there, or export it yourself and give the .onnx file"
            raise ModelError(what, which, cure) from error
        finally:
            logging.disable(disabled)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what caused it, the first cause first."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.insert(0, one)
        one = one.__cause__
    return found


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).strip().split(_PAGES)[0].split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(causes: list[BaseException], program: ExportedProgram | None) -> str | None:
    """``FILE, line N``: the innermost line that is not a library's."""
    for cause in causes:
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(cause.__traceback__)]
        found = _innermost(frames)
        if found is not None and program is None:
            return found
    texts = [*(_origin(str(cause), program) for cause in causes), *map(str, causes)]
    for text in texts:
        found = _innermost([(match["file"], int(match["line"])) for match in _QUOTED.finditer(text)])
        if found is not None:
            return found
    return None


def _origin(text: str, program: ExportedProgram | None) -> str:
    """The program's note of where the node that a text names came from."""
    named = _NODE.search(text)
    if program is None or named is None:
        return ""
    for nodes in (program.graph.nodes, _decomposed(program)):
        for node in nodes:
            if node.name == named["name"]:
                return str(node.meta.get("stack_trace", ""))
    return ""


def _decomposed(program: ExportedProgram) -> list[torch.fx.Node]:
    """The nodes into which the exporter takes a program apart before it writes them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(program.run_decompositions().graph.nodes)
    except Exception:  # noqa: BLE001 - a second failure while the first one is told; it goes without a place then
        return []


def _innermost(frames: list[tuple[str, int | None]]) -> str | None:
    for file, line in reversed(frames):
        if not file.startswith((*_LIBRARIES, "<")):
            return f"{file}, line {line}"
    return None
