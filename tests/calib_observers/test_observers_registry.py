"""Observers that users bring: what is accepted, what is refused, and that they solve like the shipped ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgraph
from qgraph.calib.observers.catalog import entries, entry_of, observer_digest, parse_parameters
from qgraph.calib.observers.observe import observe
from qgraph.calib.observers.registry import REGISTRY
from qgraph.calib.observers.values import weighted_values
from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.errors import NotFoundError, UsageError
from qgraph.tqc import Scheme, scale_and_offset

SCHEMES = [
    Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127),
    Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
    Scheme(4, signed=True, symmetric=False, quant_min=-8, quant_max=7, power_of_two=True),
]


def spread(statistics: TensorStatistics, scheme: Scheme, *, sigmas: float = 3.0) -> tuple[float, float]:
    """The mean, plus and minus some standard deviations.

    More words that are no summary.
    """
    values, counts = weighted_values(statistics)
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    return float(mean - sigmas * deviation), float(mean + sigmas * deviation)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for one in list(REGISTRY):
        REGISTRY.remove(one.entry.name)


def test_a_registered_observer_is_found_by_name_in_any_case_with_its_parameters() -> None:
    qgraph.register_calibration_observer("Spread", spread)
    entry = entry_of("sPREAD")
    assert (entry.name, entry.summary) == ("spread", "The mean, plus and minus some standard deviations")
    assert dict(entry.parameters) == {"sigmas": 3.0}
    assert parse_parameters(entry, ["sigmas=2"]) == {"sigmas": 2.0}
    assert entry in list(entries())
    with pytest.raises(NotFoundError, match="did you mean spread"):
        entry_of("spraed")


def test_its_range_becomes_scale_and_offset_as_every_range_does() -> None:
    qgraph.register_calibration_observer("spread", spread)
    statistics = statistics_of(np.random.default_rng(0).normal(1, 2, 999))
    for scheme in SCHEMES:
        found = observe("spread", [statistics, statistics], [scheme, scheme], parameters={"sigmas": 2})
        assert found == [scale_and_offset(*spread(statistics, scheme, sigmas=2), scheme)] * 2


def test_degenerate_statistics_never_reach_it() -> None:
    def touchy(statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
        assert statistics.minimum != statistics.maximum
        return statistics.minimum or 0.0, statistics.maximum or 0.0

    qgraph.register_calibration_observer("touchy", touchy)
    none, zeros = statistics_of([np.nan]), statistics_of([0.0, 0.0])
    assert observe("touchy", [none, zeros], [SCHEMES[1]] * 2) == [None, (1.0, 0)]


def test_an_instance_and_a_partial_function_will_do() -> None:
    class Fixed:
        """Always the same range."""

        def __init__(self, high: float) -> None:
            self.high = high

        def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
            return 0.0, self.high

    qgraph.register_calibration_observer("fixed", Fixed(6.0))
    qgraph.register_calibration_observer("narrow", functools.partial(spread, sigmas=1.0))
    assert entry_of("fixed").summary == "Always the same range"
    assert observe("fixed", [statistics_of([1.0])], [SCHEMES[1]]) == [scale_and_offset(0.0, 6.0, SCHEMES[1])]
    assert entry_of("narrow").parameters["sigmas"] == 1.0


class NoCall:
    """An observer as another tool wants it."""

    def observe(self) -> None:
        """Do nothing."""


def no_answer(statistics: TensorStatistics, scheme: Scheme) -> None:
    """Forget to answer."""


def not_a_number(statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """Divide zero by zero."""
    return 0.0, float("nan")


def reversed_range(statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """Take the ends the wrong way round."""
    return 1.0, -1.0


def failing(statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """Read what is not there."""
    return statistics.histogram  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (NoCall, "not a class"),
        (NoCall(), "an observer is a function"),
        (lambda: (0.0, 1.0), "lacks an argument.*statistics and scheme"),
        (lambda statistics: (0.0, statistics.maximum), "lacks an argument: wrong: scheme"),
        (lambda statistics, scheme, sigmas=3: (0.0, sigmas), "must be keyword-only: wrong: sigmas"),
        (lambda statistics, scheme, *, sigmas: (0.0, sigmas), "needs a default.*sigmas"),
        (lambda statistics, scheme, *, axes=(0, 1): (0.0, 1.0), "needs a default.*axes"),
        (no_answer, r"did not answer \(low, high\): wrong: None"),
        (not_a_number, "no finite range"),
        (reversed_range, "no finite range"),
        (failing, "observer failed.*AttributeError.*histogram"),
        (lambda statistics, scheme: (0.0, 1.0, 2.0), "did not answer"),
    ],
)
def test_a_wrong_observer_is_refused_when_it_is_registered(observer: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        qgraph.register_calibration_observer("wrong", observer)
    with pytest.raises(NotFoundError):
        entry_of("wrong")


@pytest.mark.parametrize("name", ["", "two words", "a-b", "3sigma", "a,b", None])
def test_a_name_that_cannot_be_typed_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="cannot have this name"):
        qgraph.register_calibration_observer(name, spread)


@pytest.mark.parametrize("name", ["mse", "MSE", "precentile", "auto"])
def test_a_shipped_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="a shipped observer has this name"):
        qgraph.register_calibration_observer(name, spread)


def test_a_taken_name_is_refused_unless_it_shall_be_replaced() -> None:
    qgraph.register_calibration_observer("spread", spread)
    qgraph.register_calibration_observer("spread", spread)
    with pytest.raises(UsageError, match="registered already: spread"):
        qgraph.register_calibration_observer("SPREAD", lambda statistics, scheme: (0.0, 1.0))
    qgraph.register_calibration_observer("spread", lambda statistics, scheme: (0.0, 1.0), replace=True)
    assert dict(entry_of("spread").parameters) == {}


def test_an_edited_observer_is_told_from_the_one_before() -> None:
    def made(high: float) -> Any:
        return lambda statistics, scheme: (0.0, high)

    def digest(observer: Any) -> str | None:
        qgraph.register_calibration_observer("mine", observer, replace=True)
        return observer_digest("mine", {})

    assert digest(made(1.0)) == digest(made(1.0)) != digest(made(2.0))
    assert digest(spread) not in (None, digest(made(1.0)))
    assert observer_digest("auto", {"candidates": "mse,mine"}) == observer_digest("mine", {})
    assert observer_digest("mse", {}) is None


PACKAGE = '''
"""Observers of a package."""

def widest(statistics, scheme, *, margin: float = 0.0):
    """The whole range and a margin."""
    low, high = statistics.minimum, statistics.maximum
    return low - margin * (high - low), high + margin * (high - low)

def broken(statistics):
    """One that was never tried."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with a good observer and two bad ones."""
    (tmp_path / "observing_package.py").write_text(PACKAGE)
    info = tmp_path / "observing_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: observing-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[qgraph.observers]\nWidest = observing_package:widest\nbroken = observing_package:broken\n"
        "gone = observing_package:gone\nmse = observing_package:widest\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "observing-package"


def test_observers_of_installed_packages_are_found_by_name(package: str) -> None:
    statistics = statistics_of([-1.0, 3.0])
    found = observe("widest", [statistics], [SCHEMES[1]], parameters={"margin": 0.5})
    assert found == [scale_and_offset(-3.0, 5.0, SCHEMES[1])]
    with pytest.raises(UsageError, match="lacks an argument: broken: scheme"):
        entry_of("broken")
    with pytest.raises(UsageError, match=f"the observer that {package} names cannot be loaded: gone"):
        entry_of("gone")
    assert entry_of("mse").parameters == {"octaves": 24}


def test_a_broken_package_does_not_keep_the_others_from_the_list(package: str) -> None:
    assert package
    told = {entry.name: entry.summary for entry in entries()}
    assert told["widest"] == "The whole range and a margin"
    assert told["broken"].startswith("cannot be used: an observer lacks an argument")
    assert told["gone"].startswith("cannot be used")
    both = [entry.summary for entry in entries() if entry.name == "mse"]
    assert both[0] == "the least expected squared error of quantization"
    assert both[1].startswith("cannot be used: a shipped observer has this name")


def test_the_command_line_solves_with_an_observer_of_an_installed_package(
    cli: Any, calibrated: Path, package: str
) -> None:
    assert package
    listed = {one["observer"]: one for one in cli("observers", "--json").json["observers"]}
    assert listed["widest"]["parameters"] == {"margin": 0.0}
    shared = ["solve", "c1", "--target", "tflite", "--db", calibrated, "--json"]
    wide = cli(*shared, "--observer", "widest", "--param", "margin=0.0")
    minmax = cli(*shared, "--observer", "minmax")
    assert wide.code == minmax.code == 0, wide.stderr + minmax.stderr
    tensors = [cli("scales", one.json["run"], "--db", calibrated, "--json").json["tensors"] for one in (wide, minmax)]
    activations = [{n: t["scale"] for n, t in found.items() if t["state"] == "ACTIVATED"} for found in tensors]
    names = [name for name in activations[0] if not isinstance(activations[0][name], list)]
    assert len(names) > 50
    assert [activations[0][n] for n in names] == [activations[1][n] for n in names]
    refused = cli(*shared, "--observer", "broken")
    assert refused.code == 2
    assert "scheme" in refused.stdout + refused.stderr
