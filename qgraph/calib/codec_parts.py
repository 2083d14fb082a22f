"""Channels, rows, provenance, users' statistics as bytes, and back. The layout is told in docs/statistics-format.md."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from qgraph.calib.byte_planes import Reader, corrupt, planes
from qgraph.calib.channels import CHANNEL_BINS, COUNTS, ChannelStatistics
from qgraph.calib.exact_sums import LIMB_BITS, LIMBS
from qgraph.calib.own import OwnState
from qgraph.calib.provenance import Provenance
from qgraph.calib.rows import KEYS, RowStatistics

_LENGTH = struct.Struct("<B")
_CHANNELS = struct.Struct("<b?II")
_ROWS = struct.Struct("<bI3q")
_OWN = struct.Struct("<I2dI")


def write_provenance(provenance: Provenance) -> bytes:
    """Three texts, each after its length; none is an empty one."""
    texts = [(one or "").encode() for one in (provenance.minimum, provenance.maximum, provenance.nonfinite)]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def read_provenance(reader: Reader) -> Provenance:
    """The inverse of `write_provenance`."""
    texts = [reader.take(*reader.numbers(_LENGTH)) for _ in range(3)]
    try:
        return Provenance(*(text.decode("ascii") or None for text in texts))
    except UnicodeDecodeError:
        raise corrupt("a sample's hash is no text") from None


def write_channels(one: ChannelStatistics) -> Iterator[bytes]:
    """Head, then each field as byte planes. The histogram is written as bins per channel and bins of all channels."""
    yield _CHANNELS.pack(one.axis, one.binned, one.size, one.bins.size)
    for name in COUNTS:
        yield planes(getattr(one, name), "<i8")
    yield planes(one.minimum, "<f8")
    yield planes(one.maximum, "<f8")
    yield planes(one.sums, "<i8")
    yield planes(np.diff(one.starts), "<u4")
    yield planes(one.bins, "<u2")
    yield planes(one.counts, "<i8")
    for _, count in one.atoms:
        yield planes(count, "<i8")


def read_channels(reader: Reader, atoms: Sequence[float]) -> ChannelStatistics:
    """The inverse of `write_channels`; raises `StatisticsError` for what no tensor can have."""
    axis, binned, size, bins = reader.numbers(_CHANNELS)
    counts = {name: reader.array(size, "<i8") for name in COUNTS}
    minimum, maximum = (reader.array(size, "<f8") for _ in range(2))
    sums = reader.array(size * LIMBS, "<i8").reshape(size, LIMBS)
    lengths = reader.array(size, "<u4").astype(np.int64)
    one = ChannelStatistics(
        axis=axis,
        binned=binned,
        **counts,
        minimum=minimum,
        maximum=maximum,
        sums=sums,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        bins=reader.array(bins, "<u2"),
        counts=reader.array(bins, "<i8"),
        atoms=tuple((atom, reader.array(size, "<i8")) for atom in (atoms if binned else ())),
    )
    _check_channels(one)
    return one


def _check_channels(one: ChannelStatistics) -> None:
    if int(one.starts[-1]) != one.bins.size:
        raise corrupt("the bins of its channels do not fill them")
    channel = np.repeat(np.arange(one.size), np.diff(one.starts))
    places = channel * CHANNEL_BINS + one.bins
    valid = bool((np.diff(places) > 0).all()) and bool((one.counts > 0).all())
    valid &= bool((one.bins % (CHANNEL_BINS // 2) < 255 << 5).all())
    valid &= all(bool((getattr(one, name) >= 0).all()) for name in COUNTS)
    valid &= all(bool((count >= 0).all()) for _, count in one.atoms)
    limbs = one.sums[:, :-1]
    valid &= bool(((limbs >= 0) & (limbs < 1 << LIMB_BITS)).all())
    some = one.finite > 0
    known = np.isfinite(one.minimum) & np.isfinite(one.maximum) & (one.minimum <= one.maximum)
    none = np.isposinf(one.minimum) & np.isneginf(one.maximum)
    valid &= bool(np.where(some, known, none).all())
    if not valid:
        raise corrupt("its channels are impossible")


def write_own(states: Sequence[OwnState]) -> bytes:
    """Each state after its name, version, bounds and length; nothing at all where there is none."""
    written = []
    for one in states:
        name = one.name.encode()
        head = _OWN.pack(one.version, one.low, one.high, len(one.data))
        written.append(_LENGTH.pack(len(name)) + name + head + one.data)
    return b"".join(written)


def read_own(reader: Reader) -> tuple[OwnState, ...]:
    """The inverse of `write_own`, up to the end of the payload."""
    found = []
    while not reader.at_end:
        name = reader.take(*reader.numbers(_LENGTH))
        version, low, high, size = reader.numbers(_OWN)
        try:
            found.append(OwnState(name.decode(), version, low, high, reader.take(size)))
        except UnicodeDecodeError:
            raise corrupt("a statistic's name is no text") from None
    keys = [one.key for one in found]
    if keys != sorted(set(keys)) or any(not one.low <= one.high for one in found):
        raise corrupt("its users' statistics are impossible")
    return tuple(found)


def write_rows(one: RowStatistics) -> bytes:
    """Head, then the differences of the keys and the counts as byte planes."""
    head = _ROWS.pack(one.axis, one.keys.size, one.nan, one.infinite, one.single)
    differences = np.diff(one.keys, prepend=np.zeros(1, np.uint32))
    return b"".join((head, planes(differences, "<u4"), planes(one.counts, "<i8")))


def read_rows(reader: Reader) -> RowStatistics:
    """The inverse of `write_rows`; raises `StatisticsError` for what no tensor can have."""
    axis, size, nan, infinite, single = reader.numbers(_ROWS)
    keys = np.cumsum(reader.array(size, "<u4"), dtype=np.int64)
    counts = reader.array(size, "<i8")
    ordered = bool((np.diff(keys) > 0).all()) and bool((keys < KEYS).all())
    if not ordered or min(nan, infinite, single) < 0 or not bool((counts > 0).all()):
        raise corrupt("its rows are impossible")
    return RowStatistics(axis, keys.astype(np.uint32), counts, nan, infinite, single)
