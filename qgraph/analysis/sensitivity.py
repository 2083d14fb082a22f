"""What a model's outputs lose by the quantization of one tensor or group alone, and to which part of it.

Noise at the outputs, everything else being float::

    all        the tensor is rounded and clipped as the run says
    rounding   it is rounded only: the range has no end
    clipping   it is clipped only: the steps are too fine to count
    sharing    what `all` adds to the noise with the parameters that the tensor would have alone
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from qgraph.analysis.sensitivity_model import Exported, Feed, Site, Switched
from qgraph.analysis.sessions import InMemory, Sample, open_session, run_float
from qgraph.analysis.verify_sums import count_broken, inner
from qgraph.calib.decibels import BROKEN
from qgraph.errors import DataError, ModelError
from qgraph.formats.encoding import Encoding

Kind = Literal["tensor", "group"]
Part = Literal["all", "rounding", "clipping", "sharing"]
PARTS: tuple[Part, ...] = ("all", "rounding", "clipping", "sharing")

TOGETHER = ""
"""Stands for all outputs together: the mean of their noise power over signal power."""

Own = Mapping[tuple[str, str], Encoding]
"""The parameters that a tensor would have alone, by group and tensor, where they are other than the group's."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is quantized alone: a group, or a tensor with the parameters of one of its groups.

    Attributes:
        name: the id of the group, or the tensor's name.
        group: the id of the group.
        tensors: that are quantized.
    """

    kind: Kind
    name: str
    group: str
    sites: tuple[Site, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that are quantized, sorted."""
        return tuple(sorted({site.tensor for site in self.sites}))


Noise = Mapping[str, float]
"""Noise power over signal power at the outputs, in dB, by name, and at `TOGETHER`; −inf where nothing is lost."""


def subjects(sites: Iterable[Site], groups: Mapping[str, Sequence[str]]) -> tuple[Subject, ...]:
    """Everything that can be quantized alone: each group, followed by each tensor that belongs to it.

    Args:
        groups: the tensors that belong to each group, by its id, in the order that is wanted.
    """
    of_group: dict[str, list[Site]] = {}
    for site in sites:
        for group in site.groups:
            of_group.setdefault(group, []).append(site)
    found: list[Subject] = []
    for group, tensors in groups.items():
        here = of_group.get(group, [])
        if here:
            found.append(Subject("group", group, group, tuple(here)))
        for tensor in tensors:
            mine = tuple(site for site in here if site.tensor == tensor)
            if mine:
                found.append(Subject("tensor", tensor, group, mine))
    return tuple(found)


AT_ONCE = 32
"""How many switches a model gets: each costs a little even where it is off, each model a session."""


class Probe:
    """Measures on a few samples, in a model with switches. State: the open session, and what it makes in float.

    Args:
        sites: where there is a switch.
        samples: kept in memory, with the outputs.
        libraries: with the model's custom ops.

    Raises:
        ModelError: the model cannot be loaded, or has no output of floats.
        DataError: there is no sample, or the model does not take one.
    """

    def __init__(
        self,
        exported: Exported,
        sites: Iterable[Site],
        samples: Sequence[Sample],
        folder: Path,
        libraries: Sequence[Path] = (),
    ) -> None:
        if not samples:
            raise DataError("no samples to measure on", "the data", "give at least one")
        if not exported.outputs:
            raise ModelError("no output has a noise", "none is of floats", "export a model with one")
        self._all = exported.outputs
        switched = exported.switched(sites)
        self._feeds = _until_the_cut(switched, samples, folder, libraries)
        behind = ModelProto()
        behind.CopyFrom(switched.behind)
        for name, array in self._feeds[0].items():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            behind.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        self._session = open_session(InMemory(behind.SerializeToString(), folder, "a part"), libraries=libraries)
        reached = {value.name for value in behind.graph.output}
        self._outputs = [name for name in self._all if name in reached]
        self._expected = [self._run(feed) for feed in self._feeds]

    def _run(self, feed: Feed) -> list[NDArray[np.float64]]:
        if not self._outputs:
            return []
        return [np.asarray(one).astype("float64") for one in self._session.run(self._outputs, dict(feed))]

    def noise(self, feeds: Iterable[Feed]) -> Noise:
        """What is lost with some switches on.

        Args:
            feeds: one per switch, see `Site.feed`.
        """
        fed = {key: value for feed in feeds for key, value in feed.items()}
        signal, error, broken = (dict.fromkeys(self._all, 0.0) for _ in range(3))
        for feed, expected in zip(self._feeds, self._expected, strict=True):
            for name, x, y in zip(self._outputs, expected, self._run({**feed, **fed}), strict=True):
                finite = np.isfinite(x) & np.isfinite(y)
                difference = (x - y)[finite]
                signal[name] += inner(x[finite], x[finite])
                error[name] += inner(difference, difference)
                broken[name] += count_broken(x, y)
        ratios = {name: BROKEN if broken[name] else _ratio(error[name], signal[name]) for name in self._all}
        ratios[TOGETHER] = sum(ratios.values()) / len(ratios)
        return {name: decibels(ratio) for name, ratio in sorted(ratios.items())}

    def parts(self, subject: Subject, own: Own) -> dict[Part, Noise]:
        """The noise of a subject, and of each part of its quantization."""
        found: dict[Part, Noise] = {"all": self.noise(site.feed(site.encoding) for site in subject.sites)}
        silent = dict.fromkeys(found["all"], -inf)
        if found["all"] == silent:
            return dict.fromkeys(PARTS, silent)
        found["rounding"] = self.noise(site.feed(site.encoding, clipping=False) for site in subject.sites)
        found["clipping"] = silent
        if found["rounding"] != found["all"]:
            found["clipping"] = self.noise(site.feed(site.encoding, rounding=False) for site in subject.sites)
        alone = [own.get((subject.group, site.tensor), site.encoding) for site in subject.sites]
        found["sharing"] = silent
        if any(one != site.encoding for one, site in zip(alone, subject.sites, strict=True)):
            without = self.noise(site.feed(one) for site, one in zip(subject.sites, alone, strict=True))
            found["sharing"] = more(found["all"], without)
        return found


def _until_the_cut(
    switched: Switched, samples: Sequence[Sample], folder: Path, libraries: Sequence[Path]
) -> list[dict[str, NDArray[np.generic]]]:
    """What the part behind the cut is fed with, for each sample."""
    feeds = [{name: np.asarray(sample[name]) for name in switched.inputs} for sample in samples]
    if switched.between:
        model = InMemory(switched.before.SerializeToString(), folder, "the float model")
        session = open_session(model, libraries=libraries)
        for count, (sample, feed) in enumerate(zip(samples, feeds, strict=True), start=1):
            feed.update(run_float(session, switched.between, sample, count))
    return feeds


def batched(chosen: Sequence[Subject]) -> Iterator[tuple[Subject, ...]]:
    """Subjects that are measured in one model, in the order of the model: those with about `AT_ONCE` switches."""
    batch: list[Subject] = []
    sites: set[str] = set()
    for subject in sorted(chosen, key=lambda one: (min(site.position for site in one.sites), one.kind, one.name)):
        mine = {site.name for site in subject.sites}
        if batch and len(sites | mine) > AT_ONCE:
            yield tuple(batch)
            batch, sites = [], set()
        batch.append(subject)
        sites |= mine
    if batch:
        yield tuple(batch)


def more(noise: Noise, other: Noise) -> Noise:
    """What one noise has more than another, as a noise; −inf where it has less."""
    return {name: decibels(max(0.0, power(one) - power(other[name]))) for name, one in noise.items()}


def power(decibel: float) -> float:
    """Power over power of decibels; 0 for −inf."""
    return 0.0 if decibel == -inf else float(10 ** (decibel / 10))


def decibels(ratio: float) -> float:
    """Decibels of power over power; −inf for 0."""
    return 10 * log10(ratio) if ratio else -inf


def _ratio(error: float, signal: float) -> float:
    """Noise over signal; an output that should be silent counts as if its noise were its signal."""
    return error / signal if signal else float(error > 0)
