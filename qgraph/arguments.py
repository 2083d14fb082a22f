"""What Python callers pass, checked once at the door: one clear line instead of a TypeError from the depths."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from qgraph.errors import UsageError

LARGEST_COUNT = 2**31 - 1
"""Of batches, of samples per inference: more than any data set has."""

Model = Any
"""A path, `torch.nn.Module` or `torch.export.ExportedProgram`; torch is not loaded to say so."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None
"""What `paths` takes."""


def text(argument: str, value: object, cure: str = "pass a text") -> str:
    """A text.

    Raises:
        UsageError: it is something else, or was made of bytes that are no UTF-8.
    """
    if not isinstance(value, str):
        raise UsageError(f"{argument} must be a text", _shown(value), cure)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{argument} is not valid UTF-8", _shown(value), "write it in UTF-8") from None
    return value


def path(argument: str, value: object) -> Path:
    """A path, given as text or as a path.

    Raises:
        UsageError: it is something else, or has a zero byte, or is no UTF-8: the database could not keep it.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UsageError(f"{argument} must be a path", _shown(value), "pass a text or a pathlib.Path")
    if "\0" in text(argument, os.fspath(value), "rename the file or its folder"):
        raise UsageError(f"{argument} must be a path", _shown(value), "no file has a name with a zero byte")
    return Path(value)


def moved(model: object) -> Path | None:
    """Where a stored model is said to be now; None stays None: where it was.

    Raises:
        UsageError: it is no path.
    """
    return None if model is None else path("model", model)


def target(value: object) -> str:
    """A target: its name, or the path of a rule pack.

    Raises:
        UsageError: it is neither.
    """
    return name_or_path("target", value, "see qgraph targets, or pass the path of a rule pack")


def known_target(value: object) -> str:
    """A target that there is, seen before anything heavy is loaded.

    Raises:
        UsageError: it is neither a name nor a path.
        NotFoundError, PackError: no such target, or its pack is not valid.
    """
    from qgraph.constraints.pack import load_pack  # reads the pack

    named = target(value)
    load_pack(named)
    return named


def run_name(value: object) -> str | None:
    """A name that a new run can have, seen before anything is computed; None stays None.

    Raises:
        UsageError: it is none.
    """
    if value is None:
        return None
    from qgraph.store.runs import check_name_is_usable  # loads sqlalchemy

    name = text("name", value)
    check_name_is_usable(name)
    return name


def paths(argument: str, value: object) -> tuple[Path, ...]:
    """A path, or several; None stays none at all.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return ()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike):
        return tuple(path(argument, one) for one in value)
    return (path(argument, value),)


def name_or_path(argument: str, value: object, cure: str) -> str:
    """A name, or the path of a file that is used in its place.

    Raises:
        UsageError: it is neither.
    """
    return text(argument, str(value) if isinstance(value, Path) else value, cure)


def mapping(argument: str, value: object, cure: str = "pass a dict") -> Mapping[str, Any]:
    """A mapping whose keys are texts; None stays an empty one.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{argument} must be a dict by name", _shown(value), cure)
    return value


def function(argument: str, value: Any) -> Any:
    """A function, or None.

    Raises:
        UsageError: it is something else.
    """
    if value is not None and not callable(value):
        raise UsageError(f"{argument} must be a function", _shown(value), "pass a function, or None")
    return value


def count(argument: str, value: Any) -> int | None:
    """A whole number from 1 on; None stays None.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return None
    whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
    if not whole or not 1 <= int(value) <= LARGEST_COUNT:
        what = f"{argument} must be a whole number from 1 to {LARGEST_COUNT}"
        raise UsageError(what, _shown(value), "None stands for the default")
    return int(value)


def seconds(argument: str, value: Any) -> float | None:
    """A number of seconds, 0 or more; None stays None.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return None
    number = isinstance(value, SupportsFloat) and not isinstance(value, bool)
    if not number or not float(value) >= 0:  # NaN is neither
        raise UsageError(f"{argument} must be a number of seconds", _shown(value), "pass 0 or more")
    return float(value)


def finite(argument: str, value: Any) -> float:
    """A finite number.

    Raises:
        UsageError: it is something else.
    """
    number = isinstance(value, SupportsFloat) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise UsageError(f"{argument} must be a finite number", _shown(value), "pass such as 20")
    return float(value)


def _shown(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
