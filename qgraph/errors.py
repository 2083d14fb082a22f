"""Every error a user can cause, each as one line: what went wrong, which thing, what to do.

QgraphError                  root; the command line prints it and exits with code 2
├── UsageError               an argument that cannot work
├── NotFoundError            an unknown name; the cure suggests near matches
├── ModelError               a model file that cannot be read, is invalid, or is not the stored one
├── DataError                calibration data that is missing, broken, misshapen or does not repeat
├── PackError                a rule pack that is not valid
├── ConflictError            constraints that contradict each other; carries all of them
├── TransitionError          a quantization config asked for a state or a master it cannot have
├── StatisticsError          a stored statistic that is corrupt, or that cannot serve the question
├── ExportError              a result that the format cannot say, or a file that failed its check
└── StoreError               the database
    ├── DamagedError         its file is damaged
    ├── SchemaError          its schema is older or newer than this qgraph
    └── BusyError            a live process holds the calibration
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_PART = 1000
"""Characters of each part of an error's line: a model's names may have any length."""


class QgraphError(Exception):
    """An error with one cause and one cure.

    Args:
        what: what went wrong, in plain words, without a full stop.
        which: the file, tensor, op, field or argument that it is about.
        cure: what the user can do about it.
    """

    def __init__(self, what: str, which: str, cure: str) -> None:
        super().__init__(what, which, cure)
        self.what = what
        self.which = which
        self.cure = cure

    def __str__(self) -> str:
        """The error as one line, whatever line breaks the parts contain; of a very long part its ends."""
        return " ".join(f"{_shortened(self.what)}: {_shortened(self.which)}; {_shortened(self.cure)}".split())


def _shortened(part: str) -> str:
    return part if len(part) <= LONGEST_PART else f"{part[: LONGEST_PART // 2]} … {part[-LONGEST_PART // 2 :]}"


class UsageError(QgraphError):
    """An argument, option or combination of them that cannot work."""


class NotFoundError(QgraphError):
    """A name that nothing has."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], otherwise: str) -> NotFoundError:
        """Build the error for an unknown `name`, suggesting the nearest of the `known` names.

        Args:
            kind: what the name should have named, for example ``"tensor"``.
            otherwise: the cure where no known name is near.

        >>> print(NotFoundError.among("target", "tflight", ["tflite", "onnxruntime"], "see qgraph targets"))
        unknown target: tflight; did you mean tflite?
        """
        near = difflib.get_close_matches(name, sorted(known), n=3)
        cure = f"did you mean {' or '.join(near)}?" if near else otherwise
        return cls(f"unknown {kind}", name, cure)


class ModelError(QgraphError):
    """A model that cannot be read, is invalid, or is not the one that was stored."""


class DataError(QgraphError):
    """Calibration data that is missing, broken, misshapen or does not repeat."""


class PackError(QgraphError):
    """A rule pack that is not valid."""


class ConflictError(QgraphError):
    """Constraints that contradict each other. `conflicts` has one line for each."""

    def __init__(self, what: str, which: str, cure: str, conflicts: tuple[str, ...] = ()) -> None:
        super().__init__(what, which, cure)
        self.conflicts = conflicts


class TransitionError(QgraphError):
    """A quantization config asked for a state or a master that it cannot have."""


class StatisticsError(QgraphError):
    """A stored statistic that is corrupt, or that cannot serve the question."""


class ExportError(QgraphError):
    """A result that the format cannot say, or a written file that failed its check."""


class StoreError(QgraphError):
    """A database that cannot be opened, read or written."""


class DamagedError(StoreError):
    """A database whose file is damaged."""


class SchemaError(StoreError):
    """A database whose schema is older or newer than this qgraph's."""


class BusyError(StoreError):
    """A calibration that a live process holds."""
