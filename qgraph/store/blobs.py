"""Checksums of the blobs that statistics are stored as. What is inside is for the room that made them."""

from __future__ import annotations

import hashlib

from qgraph.errors import StatisticsError


def digest(blob: bytes) -> str:
    """The checksum that is stored beside a blob; equal blobs need not be written twice."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def checked(blob: bytes, expected: str, tensor: str) -> bytes:
    """Return the blob if it is what was written.

    Raises:
        StatisticsError: it is not.
    """
    if not isinstance(blob, bytes) or digest(blob) != expected:
        raise StatisticsError("damaged statistics in the database", tensor, "restore a backup, or calibrate again")
    return blob
