"""Find and load rule packs: those that come with qgraph, in ``packs/``, and a user's own files.

A pack is a TOML file. What each of its fields means is said by the dataclasses of `qgraph.constraints.rule_pack`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from qgraph.constraints.pack_reader import read_pack
from qgraph.constraints.rule_pack import RulePack
from qgraph.errors import NotFoundError, PackError

__all__ = ["RulePack", "load_pack", "pack_names"]


def pack_names() -> tuple[str, ...]:
    """Names of the packs that come with qgraph, sorted."""
    return tuple(sorted(_shipped()))


def load_pack(name: str) -> RulePack:
    """Load a rule pack.

    Args:
        name: that of a shipped pack, or the path of a user's ``.toml`` file.

    Returns:
        The pack; the version of a user's file ends in a digest of its content.

    Raises:
        NotFoundError: no shipped pack has the name, or there is no such file.
        PackError: the file is not valid TOML or not a valid pack; names every mistake.
    """
    shipped = _shipped()
    if name in shipped:
        return read_pack(_parse(shipped[name].read_bytes(), name), name)
    path = Path(name)
    if path.suffix != ".toml":
        raise NotFoundError.among("target", name, shipped, "see qgraph targets, or give the path of a .toml file")
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotFoundError("cannot read the rule pack", f"{name} ({reason})", "check the path") from error
    pack = read_pack(_parse(content, name), name)
    # A file that was edited is another pack, whether its version was raised or not: runs are found again by it.
    return replace(pack, version=f"{pack.version}+{hashlib.sha256(content).hexdigest()[:8]}")


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("qgraph.constraints") / "packs"
    return {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}


def _parse(content: bytes, name: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError("a rule pack that is not TOML", f"{name}: {error}", "correct the file at that place") from error
