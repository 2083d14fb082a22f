"""Blobs come back exactly as they went in, or not at all."""

import contextlib
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from activations import ATOMS, activations
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qgraph.calib import codec
from qgraph.calib.channels import channels_of
from qgraph.calib.provenance import Provenance
from qgraph.calib.rows import rows_of
from qgraph.calib.statistics import EMPTY_STATISTICS, TensorStatistics, same_statistics, statistics_of
from qgraph.errors import StatisticsError

NUMBERS = "<8q2d2I2B"
VALUES = np.random.default_rng(3).normal(size=(1, 3, 9)).astype(np.float32)
PARTS = replace(
    statistics_of(VALUES, atoms=ATOMS),
    provenance=Provenance("0a", None, "ff"),
    channels=(channels_of(VALUES, 1, atoms=ATOMS), channels_of(VALUES, 2, binned=False)),
    rows=(rows_of(VALUES, 1), rows_of(VALUES, 2)),
)
WITH_PARTS = codec.encode(PARTS)
BLOB = codec.encode(statistics_of(np.random.default_rng(0).normal(size=1000), atoms=ATOMS))


@given(activations(), st.sampled_from([(), ATOMS]))
def test_a_round_trip_is_exact(values: NDArray[np.float32], atoms: tuple[float, ...]) -> None:
    statistics = statistics_of(values, atoms, samples=7)
    assert same_statistics(codec.decode(codec.encode(statistics)), statistics)


def test_nothing_makes_a_round_trip_too() -> None:
    assert same_statistics(codec.decode(codec.encode(EMPTY_STATISTICS)), EMPTY_STATISTICS)


def test_decoded_arrays_have_their_types() -> None:
    decoded = codec.decode(BLOB)
    assert (decoded.bins.dtype, decoded.counts.dtype) == (np.dtype(np.uint32), np.dtype(np.int64))


def test_equal_statistics_have_equal_blobs() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    assert codec.encode(statistics_of(values[::-1], ATOMS)) == BLOB


def test_a_blob_takes_about_a_byte_per_bin() -> None:
    statistics = statistics_of(np.random.default_rng(0).normal(size=300_000))
    assert len(codec.encode(statistics)) < 1.5 * statistics.bins.size


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(position: int, flip: int) -> None:
    broken = bytearray(BLOB)
    broken[position] ^= flip
    try:
        decoded = codec.decode(bytes(broken))
    except StatisticsError:
        return
    # A zlib stream has bits that do not matter; whatever decodes must be the same.
    assert same_statistics(decoded, codec.decode(BLOB))


@given(st.integers(0, len(BLOB) - 1))
def test_any_truncation_is_noticed(length: int) -> None:
    with pytest.raises(StatisticsError, match="corrupt"):
        codec.decode(BLOB[:length])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(StatisticsError):
        codec.decode(noise)
    with pytest.raises(StatisticsError):
        codec.decode(BLOB + noise[:1] + b"x")


def test_an_unknown_version_says_to_upgrade() -> None:
    newer = BLOB[:4] + struct.pack("<H", codec.FORMAT_VERSION + 1) + BLOB[6:]
    with pytest.raises(StatisticsError, match="upgrade qgraph"):
        codec.decode(newer)


def test_a_decompression_bomb_is_not_unpacked() -> None:
    bomb = sealed(1000, zlib.compress(bytes(30_000_000)))
    tracemalloc.start()
    with pytest.raises(StatisticsError, match="corrupt"):
        codec.decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def sealed(size: int, stream: bytes) -> bytes:
    """A blob with a valid checksum around any stream."""
    signed = struct.pack("<4sHQ", codec.MAGIC, codec.FORMAT_VERSION, size)
    return signed + codec._digest(signed, stream) + stream


def repacked(payload: bytes) -> bytes:
    """A blob with a valid checksum around any payload."""
    return sealed(len(payload), zlib.compress(payload))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, -1),  # zeros
        (4, -1),  # samples
        (7, 0),  # has values but no extremes
        (8, float("nan")),  # minimum
        (9, float("inf")),  # maximum
        (9, -9.0),  # maximum below minimum
        (10, 2**31),  # bins
        (11, 2**31),  # atoms
        (12, 3),  # channel parts
        (13, 3),  # row parts
    ],
)
def test_impossible_statistics_are_refused_even_with_a_valid_checksum(field: int, value: float) -> None:
    payload = zlib.decompress(BLOB[30:])
    numbers = list(struct.unpack_from(NUMBERS, payload))
    numbers[field] = value
    with pytest.raises(StatisticsError, match="corrupt"):
        codec.decode(repacked(struct.pack(NUMBERS, *numbers) + payload[struct.calcsize(NUMBERS) :]))


@given(st.data())
def test_a_changed_payload_with_a_valid_checksum_is_decoded_or_refused_and_takes_no_memory(data: st.DataObject) -> None:
    payload = bytearray(zlib.decompress(WITH_PARTS[30:]))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload))))
    tracemalloc.start()
    with contextlib.suppress(StatisticsError):
        codec.encode(codec.decode(repacked(bytes(payload[:cut]))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_channels_rows_and_provenance_make_the_round_trip() -> None:
    assert same_statistics(codec.decode(WITH_PARTS), PARTS)


def test_a_count_beyond_64_bits_cannot_be_stored() -> None:
    one = TensorStatistics(np.zeros(0, np.uint32), np.zeros(0, np.int64), zeros=2**63, minimum=0.0, maximum=0.0)
    with pytest.raises(StatisticsError, match="64 bits"):
        codec.encode(one)
