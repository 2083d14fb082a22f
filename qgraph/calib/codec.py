"""Statistics of one tensor as bytes, and back: versioned, checksummed, compressed, never pickled.

All numbers are little endian::

    offset  size
         0     4  magic "QGTS"
         4     2  format version, 1
         6     4  bytes of the payload once decompressed
        10    16  BLAKE2b digest of the decompressed payload
        26        zlib stream of the payload

    payload
         0    64  int64: zeros, NaN, +Inf, −Inf, samples, minimum's count, maximum's count, 1 if extremes follow
        64    16  float64: minimum, maximum (0 where there are none)
        80     8  uint32: number of bins n, number of atoms a
        88   16a  float64 values, then int64 counts, of the atoms
             12n  differences of the bins (uint32), counts (int64), each as byte planes: all lowest bytes first

Differences and counts are small, so the higher planes are almost only zeros and compress well: about one byte
per bin in all. A reader never allocates more than the largest possible statistics need.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.grid import BIN_COUNT, FIRST_NONFINITE, SIGN_BIN
from qgraph.calib.statistics import TensorStatistics
from qgraph.errors import StatisticsError

MAGIC = b"QGTS"
FORMAT_VERSION = 1
MAX_ATOMS = 4096
"""More atoms than any plan has."""

_HEAD = struct.Struct("<4sHI16s")
_NUMBERS = struct.Struct("<8q2d2I")
_LARGEST_PAYLOAD = _NUMBERS.size + 16 * MAX_ATOMS + 12 * BIN_COUNT
_LARGEST_BLOB = _HEAD.size + _LARGEST_PAYLOAD + _LARGEST_PAYLOAD // 1000 + 64
_COMPRESSION_LEVEL = 1


def encode(statistics: TensorStatistics) -> bytes:
    """The statistics as one self-contained blob; equal statistics give equal bytes with one zlib.

    Raises:
        StatisticsError: a count does not fit 64 bits, or there are more than `MAX_ATOMS` atoms.
    """
    s = statistics
    if len(s.atoms) > MAX_ATOMS:
        raise StatisticsError("too many atoms to store", f"{len(s.atoms)}", f"plan at most {MAX_ATOMS}")
    extremes = s.minimum is not None and s.maximum is not None
    counts = (s.zeros, s.nan, s.positive_infinities, s.negative_infinities, s.samples)
    multiplicities = (s.minimum_count, s.maximum_count)
    try:
        numbers = _NUMBERS.pack(
            *counts, *multiplicities, extremes, s.minimum or 0.0, s.maximum or 0.0, s.bins.size, len(s.atoms)
        )
        atom_counts = np.array([count for _, count in s.atoms], "<i8")
    except (struct.error, OverflowError):
        raise StatisticsError("a count that does not fit 64 bits", f"{counts}", "collect fewer samples") from None
    atom_values = np.array(s.atom_values, "<f8")
    differences = np.diff(s.bins.astype("<u4"), prepend=np.zeros(1, "<u4"))
    payload = b"".join(
        (numbers, atom_values.tobytes(), atom_counts.tobytes(), _planes(differences), _planes(s.counts.astype("<i8")))
    )
    head = _HEAD.pack(MAGIC, FORMAT_VERSION, len(payload), _digest(payload))
    return head + zlib.compress(payload, _COMPRESSION_LEVEL)


def decode(blob: bytes) -> TensorStatistics:
    """The statistics behind a blob made by `encode`, equal in every field.

    Raises:
        StatisticsError: it is of another format or version, truncated, corrupt, or impossible as statistics.
    """
    payload = _payload(blob)
    (*counts, extremes, minimum, maximum, bin_count, atom_count) = _NUMBERS.unpack_from(payload)
    expected = _NUMBERS.size + 16 * atom_count + 12 * bin_count
    if len(payload) != expected or atom_count > MAX_ATOMS or bin_count > BIN_COUNT:
        raise _corrupt("its parts do not fill it")
    zeros, nan, positive, negative, samples, minimum_count, maximum_count = counts
    at = _NUMBERS.size
    atom_values = np.frombuffer(payload, "<f8", atom_count, at)
    atom_counts = np.frombuffer(payload, "<i8", atom_count, at + 8 * atom_count)
    at += 16 * atom_count
    differences = _from_planes(payload[at : at + 4 * bin_count], "<u4")
    bins = np.cumsum(differences, dtype=np.int64)
    statistics = TensorStatistics(
        bins=bins.astype(np.uint32),
        counts=_from_planes(payload[at + 4 * bin_count :], "<i8").astype(np.int64),
        zeros=zeros,
        nan=nan,
        positive_infinities=positive,
        negative_infinities=negative,
        samples=samples,
        minimum=minimum if extremes else None,
        maximum=maximum if extremes else None,
        minimum_count=minimum_count,
        maximum_count=maximum_count,
        atoms=tuple(zip(atom_values.tolist(), atom_counts.tolist(), strict=True)),
    )
    _check(statistics, bins, counts)
    return statistics


def _payload(blob: bytes) -> bytes:
    """Check the head, decompress no more than it announces, check the digest."""
    if len(blob) < _HEAD.size or len(blob) > _LARGEST_BLOB:
        raise _corrupt(f"{len(blob)} bytes long")
    magic, version, size, digest = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise _corrupt(f"begins with {magic!r}")
    if version != FORMAT_VERSION:
        raise StatisticsError(
            "statistics of an unknown format", f"version {version}, known is {FORMAT_VERSION}", "upgrade qgraph"
        )
    if not _NUMBERS.size <= size <= _LARGEST_PAYLOAD:
        raise _corrupt(f"announces {size} bytes")
    stream = zlib.decompressobj()
    try:
        payload = stream.decompress(blob[_HEAD.size :], size + 1)
    except zlib.error as error:
        raise _corrupt(str(error)) from None
    if len(payload) != size or not stream.eof or stream.unused_data:
        raise _corrupt("truncated, or longer than announced")
    if _digest(payload) != digest:
        raise _corrupt("its checksum differs")
    return payload


def _check(statistics: TensorStatistics, bins: NDArray[np.int64], counts: list[int]) -> None:
    """Refuse what no tensor can have, so that no later computation meets it."""
    s = statistics
    some = bins.size > 0 or s.zeros > 0
    ordered = bool((np.diff(bins) > 0).all()) and (bins.size == 0 or int(bins[-1]) < BIN_COUNT)
    finite_bins = bool((bins % SIGN_BIN < FIRST_NONFINITE).all())
    atoms_ordered = all(math.isfinite(v) for v in s.atom_values) and list(s.atom_values) == sorted(set(s.atom_values))
    if not (ordered and finite_bins and atoms_ordered and bool((s.counts > 0).all())):
        raise _corrupt("its bins, counts or atoms are impossible")
    if min(counts) < 0 or any(count < 0 for _, count in s.atoms) or some == (s.minimum is None):
        raise _corrupt("its numbers contradict each other")
    if s.minimum is not None and s.maximum is not None and not -math.inf < s.minimum <= s.maximum < math.inf:
        raise _corrupt("its extremes are impossible")


def _corrupt(detail: str) -> StatisticsError:
    return StatisticsError("a stored statistic is corrupt", detail, "restore the database or calibrate again")


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


def _planes(numbers: NDArray[np.generic]) -> bytes:
    """The bytes of an array, all first bytes of the numbers first, then all second bytes, and so on."""
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(numbers.size, -1).T.tobytes() if numbers.size else b""


def _from_planes(data: bytes, dtype: str) -> NDArray[np.generic]:
    """The inverse of `_planes`."""
    width = np.dtype(dtype).itemsize
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(width, -1).T).reshape(-1).view(dtype)
