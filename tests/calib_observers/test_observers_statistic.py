"""A user's observer brings a statistic of its own: collected in the same pass, stored, resumed, extended and merged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from numpy.typing import NDArray
from onnx import parser

import qgraph
from qgraph.calib.codec import decode, encode
from qgraph.calib.observers.registry import REGISTRY
from qgraph.calib.own import OwnState, merge_own
from qgraph.calib.statistics import statistics_of
from qgraph.errors import StatisticsError, UsageError

KEPT = 24


class Largest:
    """The largest magnitudes, each as often as it occurred."""

    name = "largest"
    version = 1

    def record(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sort them."""
        return np.sort(np.abs(values[np.isfinite(values)]).ravel())[-KEPT:]

    def merge(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sort both."""
        return np.sort(np.concatenate([a, b]))[-KEPT:]

    def to_bytes(self, state: NDArray[np.float32]) -> bytes:
        """Little endian floats."""
        return state.astype("<f4").tobytes()

    def from_bytes(self, data: bytes) -> NDArray[np.float32]:
        """Read them."""
        return np.frombuffer(data, "<f4").astype(np.float32)


class Trimmed:
    """The range without the largest magnitudes."""

    def __init__(self, statistic: object = None) -> None:
        self.statistic = statistic or Largest()

    def __call__(self, statistics: Any, scheme: Any, state: Any, *, dropped: int = 4) -> tuple[float, float]:
        """The range below what is dropped."""
        known = state is not None and state.size > dropped
        high = float(state[-1 - dropped]) if known else max(-statistics.minimum, statistics.maximum)
        return -high, high


@pytest.fixture(autouse=True)
def trimmed() -> Iterator[None]:
    """The observer is known within a test."""
    qgraph.register_calibration_observer("trimmed", Trimmed())
    yield
    for name in ("trimmed", "other"):
        REGISTRY.remove(name)


SAMPLES = np.random.default_rng(3).normal(size=(6, 2, 5, 5)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Tensors that are counted, cut off, joined and rearranged."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[n, 2, 5, 5] x) => (float[n, 100] y)
        <float low = {-0.5}, float high = {1.0}, int64[2] rows = {0, -1}>
        {
            m = Mul (x, x)
            a = Sub (x, m)
            r = Relu (a)
            c = Clip (a, low, high)
            j = Concat <axis: int = 1> (r, c)
            k = Relu (j)
            y = Reshape (k, rows)
        }
    """
    onnx.save(parser.parse_model(text), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def literal(model: Path, samples: NDArray[np.float32]) -> dict[str, bytes]:
    """The statistic of every tensor, from its values all at once."""
    proto = onnx.load(model)
    names = [name for node in proto.graph.node for name in node.output]
    proto.graph.ClearField("output")
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = onnxruntime.InferenceSession(proto.SerializeToString()).run(names, {"x": samples})
    own = Largest()
    return {name: own.to_bytes(own.record(value)) for name, value in [("x", samples), *zip(names, values, strict=True)]}


def stored(database: Path, calibration: str = "c1") -> dict[str, bytes]:
    connection = sqlite3.connect(database)
    query = "SELECT tensor, blob FROM statistics WHERE calibration_id = ? ORDER BY tensor"
    found = dict(connection.execute(query, [int(calibration[1:])]).fetchall())
    connection.close()
    return found


def followed(database: Path, model: Path) -> dict[str, bytes]:
    """What `solve` sees of every tensor."""
    from qgraph.calib.own import complete_own
    from qgraph.calib.plan import plan_collection
    from qgraph.ir.onnx_import import load_model

    collected = {tensor: decode(blob) for tensor, blob in stored(database).items()}
    states = complete_own(plan_collection(load_model(model).structure), collected, {"largest"})
    assert all(len(several) == 1 for several in states.values())
    return {tensor: own.data for tensor, (own,) in states.items()}


def test_the_state_of_every_tensor_is_that_of_its_values(model: Path, tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as database:
        database.calibrate(model, SAMPLES)
    expected = literal(model, SAMPLES)
    assert followed(tmp_path / "q.db", model) == expected
    assert expected["r"] != expected["a"] != expected["c"]


def test_the_observer_gets_the_state_of_its_group(model: Path, tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as database:
        calibration = database.calibrate(model, SAMPLES)
        run = calibration.solve(target="tflite", observer="trimmed", parameters={"dropped": 3})
        state = Largest().from_bytes(literal(model, SAMPLES)["x"])
        assert run.scales()["tensors"]["x"]["scale"] == pytest.approx(float(state[-4]) * 2 / 255)
        mixed = calibration.solve(target="tflite", observer="auto", parameters={"candidates": "trimmed,mse"})
        assert mixed.scales()["tensors"]["x"]["scale"] > 0


def test_order_interruption_shards_extension_and_passes_change_no_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: int) -> None:
        raise StoppedError

    with qgraph.open(tmp_path / "whole.db") as database:
        database.calibrate(model, SAMPLES)
    expected = stored(tmp_path / "whole.db")
    with qgraph.open(tmp_path / "resumed.db") as database:
        with pytest.raises(StoppedError):
            database.calibrate(model, SAMPLES, checkpoint_every=0.0, tick=stop)
        assert database.calibrate(model, SAMPLES[::-1].copy()).resumed_from > 0
    with qgraph.open(tmp_path / "extended.db") as database:
        database.calibrate(model, SAMPLES, extend=database.calibrate(model, SAMPLES[:2]))
    with qgraph.open(tmp_path / "merged.db") as database:
        parts = [database.calibrate(model, SAMPLES, shard=f"{i}/2") for i in (1, 2)]
        database.merge(*parts)
    monkeypatch.setattr("qgraph.jobs.counting.schedule", _one_by_one)
    with qgraph.open(tmp_path / "passes.db") as database:
        database.calibrate(model, SAMPLES, max_memory="1G")
    assert stored(tmp_path / "resumed.db") == expected
    assert stored(tmp_path / "extended.db", "c2") == expected
    assert stored(tmp_path / "merged.db", "c3") == expected
    assert stored(tmp_path / "passes.db") == expected


def _one_by_one(footprint: Any, threads: int, _: int | None) -> Any:
    from qgraph.calib.passes import Schedule

    return Schedule(threads, tuple((name,) for name in footprint.counters))


def test_histograms_are_the_same_with_and_without_it(model: Path, tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "with.db") as database:
        database.calibrate(model, SAMPLES)
    REGISTRY.remove("trimmed")
    with qgraph.open(tmp_path / "without.db") as database:
        database.calibrate(model, SAMPLES)
    from dataclasses import replace

    own = {name: encode(replace(decode(blob), own=())) for name, blob in stored(tmp_path / "with.db").items()}
    assert own == stored(tmp_path / "without.db")


def test_a_calibration_without_it_says_so_before_anything_runs(cli: Cli, model: Path, tmp_path: Path) -> None:
    REGISTRY.remove("trimmed")
    np.savez(tmp_path / "data.npz", x=SAMPLES)
    cli("calibrate", model, "--data", "data.npz")
    qgraph.register_calibration_observer("trimmed", Trimmed())
    told = cli("solve", "c1", "--target", "tflite", "--observer", "trimmed", "--json")
    assert told.code == 2
    error = json.loads(told.stdout or told.stderr)["error"]
    assert "largest, version 1, in c1" in error["which"]
    done = cli("calibrate", model, "--data", "data.npz", "--target", "tflite", "--observer", "trimmed", "--json")
    assert done.json["calibration"] == "c2"
    assert done.json["run"] == "r1"


def test_states_survive_storing_and_a_damaged_one_is_named() -> None:
    from dataclasses import replace

    own = (OwnState("largest", 1, data=b"1234"), OwnState("largest", 1, 0.0, 6.0, b""))
    statistics = replace(statistics_of([1.0, 2.0]), own=tuple(sorted(own)))
    blob = encode(statistics)
    assert decode(blob).own == statistics.own
    with pytest.raises(StatisticsError, match="corrupt"):
        decode(blob[:-1] + bytes([blob[-1] ^ 1]))


def test_states_of_an_unknown_statistic_are_kept_but_not_merged() -> None:
    one = (OwnState("unheard_of", 1, data=b"1"),)
    assert merge_own(one, ()) == one
    with pytest.raises(StatisticsError, match=r"not known here: unheard_of, version 1"):
        merge_own(one, one)


class Sum(Largest):
    """A sum of floats, which depends on the order."""

    name = "sum"

    def record(self, values: NDArray[np.float32]) -> Any:
        """Add up."""
        return values[np.isfinite(values)].sum(keepdims=True)

    def merge(self, a: Any, b: Any) -> Any:
        """Add up."""
        return a + b


class Forgetful(Largest):
    """Loses the second state."""

    name = "forgetful"

    def merge(self, a: Any, b: Any) -> Any:
        """Drop one."""
        assert b is not None
        return a


class Lossy(Largest):
    """Bytes that lead elsewhere."""

    name = "lossy"

    def from_bytes(self, data: bytes) -> Any:
        """Halve them."""
        return super().from_bytes(data) / 2


class Growing(Largest):
    """Changes what it is given."""

    name = "growing"

    def merge(self, a: Any, b: Any) -> Any:
        """Write into one."""
        found = super().merge(a, b)
        a[:] = 0
        return found


class Pickled(Largest):
    """No bytes."""

    name = "pickled"

    def to_bytes(self, state: Any) -> Any:
        """A list."""
        return state.tolist()


class Renamed(Largest):
    """Another statistic of the same name."""


class Nameless:
    """Neither name nor functions but one."""

    def record(self, values: Any) -> Any:
        """Keep all."""
        return values


class Unnumbered(Largest):
    """A version that is a text."""

    version: Any = "1"


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        (Nameless(), "lacks something: other: name, version, merge, to_bytes, from_bytes"),
        (Largest, "a class; give an instance"),
        (Unnumbered(), "whole number from 1"),
        (Sum(), r"not exactly mergeable: sum: merge\(merge"),
        (Forgetful(), r"merge\(a, b\) differs"),
        (Lossy(), "does not restore"),
        (Growing(), "changes what it is given"),
        (Pickled(), "did not give bytes"),
        (Renamed(), "different statistics of one name"),
    ],
)
def test_a_wrong_statistic_is_refused_when_it_is_registered(statistic: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        qgraph.register_calibration_observer("other", Trimmed(statistic))


def test_an_observer_that_brings_one_has_to_take_its_state() -> None:
    def without(statistics: Any, scheme: Any) -> tuple[float, float]:
        """Take no state."""
        return 0.0, 1.0

    without.statistic = Largest()  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="lacks an argument: other: state"):
        qgraph.register_calibration_observer("other", without)
