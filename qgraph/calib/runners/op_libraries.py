"""Shared libraries with ops that onnxruntime does not have itself, for models that use such ops.

A library exports the function ``RegisterCustomOps``, as onnxruntime's C API defines it. Loading one runs its code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from qgraph.errors import ModelError, UsageError

NOT_REGISTERED = re.compile(r"(\S+?)\(-?\d+\) is not a registered function/op")
"""What onnxruntime says of an op that it does not know: DOMAIN:OP(VERSION). It has no code of its own for this."""

CURE = "give the library that has this op with --op-library (op_library=)"


def register(options: onnxruntime.SessionOptions, libraries: Sequence[Path]) -> None:
    """Make the ops of libraries known to the sessions that are opened with these options.

    Raises:
        UsageError: a library is missing, or cannot be loaded.
    """
    # Absolute, as a name without a folder would be looked for in the system's; and no op can be registered twice.
    places = {library.absolute(): library for library in libraries}
    for place, library in places.items():
        if not place.is_file():
            raise UsageError("no such op library", str(library), "name the shared library that has the model's ops")
        try:
            options.register_custom_ops_library(str(place))
        except Exception as error:  # the runtime's errors have no common class
            cure = "give a shared library that registers ops, built for this system and this onnxruntime"
            raise UsageError("the op library cannot be loaded", f"{library} ({error})", cure) from error


def content_digest(libraries: Sequence[Path]) -> str:
    """A digest of what is in libraries, whatever their places, their order and how often each is given.

    Raises:
        UsageError: one cannot be read.
    """
    digests = set()
    for library in libraries:
        try:
            with library.open("rb") as file:
                digests.add(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            cure = "name the shared library that has the model's ops"
            raise UsageError("the op library cannot be read", f"{library} ({error.strerror})", cure) from error
    return " ".join(sorted(digests))


def unregistered(error: Exception) -> ModelError | None:
    """The error for a model with an op that nobody registered, if that is what onnxruntime's error says."""
    found = NOT_REGISTERED.search(str(error))
    return None if found is None else ModelError("onnxruntime does not have an op of the model", found[1], CURE)
