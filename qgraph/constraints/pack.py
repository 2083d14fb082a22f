"""Find and load rule packs: those that come with qgraph, in ``packs/``, and a user's own files.

A pack is a TOML file. What each of its fields means is said by `qgraph.constraints.pack_reader` and by the dataclasses
of `qgraph.constraints.rule_pack`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from qgraph.constraints.pack_document import Document, Source, Table, inherit, listed_ops, parse, rule_names
from qgraph.constraints.pack_reader import read_pack
from qgraph.constraints.rule_pack import RulePack
from qgraph.errors import NotFoundError, PackError

__all__ = ["RulePack", "load_pack", "pack_names", "shipped_digest"]

_WITH_VERSION = re.compile(r"(?P<name>.+)@(?P<version>\d+(\.\d+)*)")


@dataclass(frozen=True, slots=True)
class _File:
    """A pack's own file: `digest` is that of a user's file, None of a shipped one."""

    document: Document
    digest: str | None
    folder: Path


def pack_names() -> tuple[str, ...]:
    """Names of the packs that come with qgraph, sorted."""
    return tuple(sorted(_shipped()))


def shipped_digest() -> str:
    """A digest of all packs that come with qgraph: it differs as soon as one of them does."""
    digest = hashlib.sha256()
    for name, file in sorted(_shipped().items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def load_pack(name: str) -> RulePack:
    """Load a rule pack.

    Args:
        name: that of a shipped pack, or the path of a user's ``.toml`` file; with ``@2.38`` behind it for that version
            of the target instead of the newest.

    Returns:
        The pack; the version of a user's file ends in a digest of its content, and of that of the files that it
        inherits from.

    Raises:
        NotFoundError: no shipped pack has the name, or there is no such file.
        PackError: the file is not valid TOML or not a valid pack; names every mistake with its line.
    """
    target_version = None
    if (match := _WITH_VERSION.fullmatch(name)) is not None:
        name, target_version = match["name"], match["version"]
    files = _lineage(name)
    document = files[-1].document
    mistakes: list[str] = []
    for file in reversed(files[:-1]):
        mistakes += _needless_exceptions(document, file.document)
        document = inherit(document, file.document)
    pack = read_pack(document, name, target_version, mistakes)
    digests = [file.digest for file in files if file.digest is not None]
    if not digests:
        return pack
    # A file that was edited is another pack, whether its version was raised or not: runs are found again by it.
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(pack, version=f"{pack.version}+{digest[:8]}")


def _lineage(name: str) -> list[_File]:
    """The file of that name, and behind it those that it inherits from."""
    files = [_read(name, Path(), inherited=False)]
    seen = {_identity(name, Path())}
    while (parent := _parent(files[-1].document)) is not None:
        folder = files[-1].folder
        identity = _identity(parent, folder)
        if identity in seen:
            itself = len(files) == 1
            what = "a rule pack that inherits from itself" if itself else "rule packs that inherit from each other"
            cure = "name another pack, or take `inherits` out" if itself else "take one `inherits` out"
            raise PackError(what, f"{name}: {parent}", cure)
        seen.add(identity)
        try:
            files.append(_read(parent, folder, inherited=True))
        except NotFoundError as error:
            which = f"{name}: `inherits` names {error.which}"
            raise PackError("a rule pack that inherits from what is not there", which, error.cure) from error
    return files


def _parent(document: Document) -> str | None:
    """What the pack inherits from; a value of a wrong type is left for the reader to refuse."""
    header = document.get("pack")
    parent = header.get("inherits") if isinstance(header, Table) else None
    return parent if isinstance(parent, str) else None


def _identity(name: str, folder: Path) -> str:
    return name if name in _shipped() else str((folder / name).resolve())


def _read(name: str, folder: Path, *, inherited: bool) -> _File:
    """Read one file; a path is relative to the folder of the file that names it."""
    shipped = _shipped()
    if name in shipped:
        return _File(parse(shipped[name].read_bytes(), name, inherited=inherited), None, Path())
    path = folder / name
    if path.suffix != ".toml":
        raise NotFoundError.among("target", name, shipped, "see qgraph targets, or give the path of a .toml file")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotFoundError("cannot read the rule pack", f"{path} ({reason})", "check the path") from error
    document = parse(content, str(path), inherited=inherited)
    return _File(document, hashlib.sha256(content).hexdigest(), path.parent)


def _needless_exceptions(parent: Document, child: Document) -> list[str]:
    """Mistakes in ``without`` and ``not_quantized``: what the parent does not have cannot be left out."""
    header = child.get("pack")
    if not isinstance(header, Table):
        return []
    return [
        *_unknown(header, "without", rule_names(parent), "rule"),
        *_unknown(header, "not_quantized", listed_ops(parent), "op"),
    ]


def _unknown(header: Table, field: str, known: Iterable[str], kind: str) -> list[str]:
    given, known = header.get(field), sorted(known)
    source: Source = header.source
    mistakes = []
    for name in given if isinstance(given, list) else ():
        if isinstance(name, str) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {near[0]}?" if near else "take it out"
            mistakes.append(f"{source.place(f'pack.{field}')}: what it inherits from has no {kind} {name}, {cure}")
    return mistakes


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("qgraph.constraints") / "packs"
    return {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
