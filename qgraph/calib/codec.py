"""Statistics of one tensor as bytes, and back: versioned, checksummed, compressed, never pickled.

All numbers are little endian; docs/statistics-format.md tells all of it::

    offset  size
         0     4  magic "QGTS"
         4     2  format version, 2
         6     8  bytes of the payload once decompressed
        14    16  BLAKE2b digest of the first 14 bytes and of the zlib stream
        30        zlib stream of the payload

    payload
         0    64  int64: zeros, NaN, +Inf, −Inf, samples, minimum's count, maximum's count, 1 if extremes follow
        64    16  float64: minimum, maximum (0 where there are none)
        80    10  uint32: number of bins n, number of atoms a; uint8: number of channel parts, of row parts
        90   16a  float64 values, then int64 counts, of the atoms
             12n  differences of the bins (uint32), counts (int64), as in `qgraph.calib.byte_planes`
                  provenance, channel parts, row parts, states of users' statistics if there are
                  any: see `qgraph.calib.codec_parts`

About one byte per bin is left of it. The digest is checked before anything is decompressed, and a payload that is
longer than announced is not decompressed to its end, so no blob makes a reader allocate what it does not need.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.byte_planes import Reader, corrupt, planes
from qgraph.calib.codec_parts import (
    read_channels,
    read_own,
    read_provenance,
    read_rows,
    write_channels,
    write_own,
    write_provenance,
    write_rows,
)
from qgraph.calib.grid import BIN_COUNT, FIRST_NONFINITE, SIGN_BIN
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import StatisticsError

MAGIC = b"QGTS"
FORMAT_VERSION = 2
MAX_ATOMS = 4096
"""More atoms than any plan has."""

MAX_PARTS = 255
"""More axes than a tensor has."""

_HEAD = struct.Struct("<4sHQ16s")
_SIGNED = struct.Struct("<4sHQ")
_NUMBERS = struct.Struct("<8q2d2I2B")
_LARGEST_PAYLOAD = 1 << 29
"""Bytes; several times what all channels and rows of a large tensor take, so that a small blob cannot fill memory."""
_COMPRESSION_LEVEL = 1
_LARGEST_RATIO = 1040
"""zlib compresses at most about 1032 to 1."""


def encode(statistics: TensorStatistics) -> bytes:
    """The statistics as one self-contained blob; equal statistics give equal bytes with one zlib.

    Raises:
        StatisticsError: a count does not fit 64 bits, there are more than `MAX_ATOMS` atoms, or it is too large.
    """
    s = statistics
    if max(len(s.channels), len(s.rows)) > MAX_PARTS:
        raise StatisticsError("too many axes to store", f"{len(s.channels)}, {len(s.rows)}", "plan fewer axes")
    if len(s.atoms) > MAX_ATOMS:
        raise StatisticsError("too many atoms to store", f"{len(s.atoms)}", f"plan at most {MAX_ATOMS}")
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    size, stream = 0, b""
    try:
        for part in _parts(s):
            size += len(part)
            stream += compressor.compress(part)
    except (struct.error, OverflowError):
        counts = (s.zeros, s.nan, s.positive_infinities, s.negative_infinities, s.samples)
        raise StatisticsError("a count that does not fit 64 bits", f"{counts}", "collect fewer samples") from None
    if size > _LARGEST_PAYLOAD:
        raise StatisticsError("statistics too large to store", f"{size} bytes", "collect fewer samples")
    stream += compressor.flush()
    signed = _SIGNED.pack(MAGIC, FORMAT_VERSION, size)
    return signed + _digest(signed, stream) + stream


def _parts(s: TensorStatistics) -> Iterator[bytes]:
    """The payload piece by piece, so that a large one is never held as a whole."""
    extremes = s.minimum is not None and s.maximum is not None
    counts = (s.zeros, s.nan, s.positive_infinities, s.negative_infinities, s.samples)
    multiplicities = (s.minimum_count, s.maximum_count)
    sizes = (s.bins.size, len(s.atoms), len(s.channels), len(s.rows))
    yield _NUMBERS.pack(*counts, *multiplicities, extremes, s.minimum or 0.0, s.maximum or 0.0, *sizes)
    yield np.array(s.atom_values, "<f8").tobytes()
    yield np.array([count for _, count in s.atoms], "<i8").tobytes()
    yield planes(np.diff(s.bins, prepend=np.zeros(1, np.uint32)), "<u4")
    yield planes(s.counts, "<i8")
    yield write_provenance(s.provenance)
    for channels in s.channels:
        yield from write_channels(channels)
    yield from map(write_rows, s.rows)
    yield write_own(s.own)


def decode(blob: bytes) -> TensorStatistics:
    """The statistics behind a blob made by `encode`, equal in every field.

    Raises:
        StatisticsError: it is of another format or version, truncated, corrupt, or impossible as statistics.
    """
    reader = Reader(_payload(blob))
    (*counts, extremes, minimum, maximum, bin_count, atom_count, channels, rows) = reader.numbers(_NUMBERS)
    if atom_count > MAX_ATOMS or bin_count > BIN_COUNT:
        raise corrupt("more bins or atoms than there can be")
    zeros, nan, positive, negative, samples, minimum_count, maximum_count = counts
    atom_values = np.frombuffer(reader.take(8 * atom_count), "<f8").tolist()
    atom_counts = np.frombuffer(reader.take(8 * atom_count), "<i8").tolist()
    bins = np.cumsum(reader.array(bin_count, "<u4"), dtype=np.int64)
    statistics = TensorStatistics(
        bins=bins.astype(np.uint32),
        counts=reader.array(bin_count, "<i8"),
        zeros=zeros,
        nan=nan,
        positive_infinities=positive,
        negative_infinities=negative,
        samples=samples,
        minimum=minimum if extremes else None,
        maximum=maximum if extremes else None,
        minimum_count=minimum_count,
        maximum_count=maximum_count,
        atoms=tuple(zip(atom_values, atom_counts, strict=True)),
        provenance=read_provenance(reader),
        channels=tuple([read_channels(reader, atom_values) for _ in range(channels)]),
        rows=tuple([read_rows(reader) for _ in range(rows)]),
        own=read_own(reader),
    )
    reader.end()
    _check(statistics, bins, counts)
    return statistics


def _payload(blob: bytes) -> bytes:
    """Check the head and the digest, then decompress no more than the head announces."""
    if len(blob) < _HEAD.size:
        raise corrupt(f"{len(blob)} bytes long")
    magic, version, size, digest = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise corrupt(f"begins with {magic!r}")
    if version != FORMAT_VERSION:
        cure = "upgrade qgraph" if version > FORMAT_VERSION else "calibrate again"
        raise StatisticsError("statistics of an unknown format", f"version {version}, known is {FORMAT_VERSION}", cure)
    stream = blob[_HEAD.size :]
    if _digest(blob[: _SIGNED.size], stream) != digest:
        raise corrupt("its checksum differs")
    if not _NUMBERS.size <= size <= min(_LARGEST_PAYLOAD, _LARGEST_RATIO * len(blob)):
        raise corrupt(f"announces {size} bytes")
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(stream, size + 1)
    except zlib.error as error:
        raise corrupt(str(error)) from None
    if len(payload) != size or not unpacker.eof or unpacker.unused_data:
        raise corrupt("truncated, or longer than announced")
    return payload


def _check(statistics: TensorStatistics, bins: NDArray[np.int64], counts: list[int]) -> None:
    """Refuse what no tensor can have, so that no later computation meets it."""
    s = statistics
    some = bins.size > 0 or s.zeros > 0
    ordered = bool((np.diff(bins) > 0).all()) and (bins.size == 0 or int(bins[-1]) < BIN_COUNT)
    finite_bins = bool((bins % SIGN_BIN < FIRST_NONFINITE).all())
    atoms_ordered = all(math.isfinite(v) for v in s.atom_values) and list(s.atom_values) == sorted(set(s.atom_values))
    if not (ordered and finite_bins and atoms_ordered and bool((s.counts > 0).all())):
        raise corrupt("its bins, counts or atoms are impossible")
    if min(counts) < 0 or any(count < 0 for _, count in s.atoms) or some == (s.minimum is None):
        raise corrupt("its numbers contradict each other")
    if s.minimum is not None and s.maximum is not None and not -math.inf < s.minimum <= s.maximum < math.inf:
        raise corrupt("its extremes are impossible")


def _digest(signed: bytes, stream: bytes) -> bytes:
    return hashlib.blake2b(signed + stream, digest_size=16).digest()
