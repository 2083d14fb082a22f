"""A short list of overrides that gives a run the accuracy that is wanted, tried and measured in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import perf_counter

import numpy as np

from qgraph.analysis.advise import KINDS, Advice, Change, ChangeKind, Step, rungs
from qgraph.analysis.advise import advise as find
from qgraph.analysis.sensitivity import TOGETHER, Probe, Subject, batched, power, subjects
from qgraph.analysis.sensitivity_model import Exported
from qgraph.analysis.sessions import DTYPES, InMemory, Sample, open_session, run_float
from qgraph.analysis.verify_sums import Sums
from qgraph.answers import Answer
from qgraph.calib.data.images import ImageOptions
from qgraph.constraints.model import Group, Strength
from qgraph.constraints.overrides import Action, Override, Overrides, as_toml
from qgraph.constraints.pack import load_pack
from qgraph.errors import ExportError, NotFoundError, QgraphError
from qgraph.formats.encoding import Encoding, encoding_of
from qgraph.formats.qdq import to_qdq
from qgraph.formats.whole_file import whole_file
from qgraph.jobs.calibrating import Report, Ticker
from qgraph.jobs.exporting import Opened, open_run, refuse_to_overwrite
from qgraph.jobs.question import Question, pose, question_of, refuse_imported, settings_of
from qgraph.jobs.sensitivity import SAMPLES, Entry, few_samples, measure
from qgraph.jobs.solving import answer
from qgraph.jobs.verifying import reference_of
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import RunData, RunSettings
from qgraph.store import calibrations, runs
from qgraph.store.database import Database
from qgraph.store.records import CalibrationRecord

OBSERVERS = ("mse", "minmax", "percentile", "kl")
"""Whose parameters are tried for a group, beside those that it has."""

MOST_GROUPS = 32
"""For how many groups, those that lose most, other observers are tried."""

SHOWN = 5
"""How many groups a line of the list names."""

NAME_WIDTH = 48
"""Of a name in the list: some exporters join those of all ops that they fused."""

MODELS = 45
"""How many models are tried at most, or nearly so; mostly fewer."""

PART, OVERHEAD = 0.6, 1.0
"""Of running all samples, what measuring a group or tensor takes: what lies before it is not run again; and the seconds
beside it that solving and loading a model with changes take."""

SHARED = 0.5
"""Of a tensor's noise: where sharing makes more than this, a sharing is offered to be dropped."""

WIDE = 16
"""Bits that are offered."""

LEFT = 2.0 ** (2 * (8 - WIDE))
"""Of the power of rounding noise in 8 bits, what is left of it."""


@dataclass(frozen=True, slots=True)
class Advised:
    """What was found: the list, and the run's own overrides with those of the list behind them."""

    run: str
    settings: RunSettings
    samples: int
    advice: Advice
    overrides: Overrides


def advise(
    database: Database,
    reference: str,
    data: object,
    target_db: float,
    *,
    without: Sequence[str] = (),
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    libraries: Sequence[Path] = (),
    output: Path | None = None,
    report: Report = lambda _: None,
    tick: Ticker | None = None,
    trial: Ticker | None = None,
) -> Advised:
    """Find a short list of changes with which the worst output has an SNR.

    Args:
        target_db: the SNR.
        without: kinds of changes that are not wanted.
        steps: samples to measure on, the first ones; None for `SAMPLES`.
        images: how image files are made ready.
        libraries: with the model's custom ops.
        output: a file for the overrides.
        report: called with one line for each thing that the user should know.
        tick: called with how much is measured and how much there is to measure, for the sensitivities.
        trial: called with how many models are tried, and how many it will be at most.

    Raises:
        NotFoundError: no such kind.
        UsageError: the run has no scales or imported ones, or the file cannot be written.
    """
    for kind in without:
        if kind not in KINDS:
            raise NotFoundError.among("kind of change", kind, KINDS, f"use {', '.join(KINDS)}")
    opened = open_run(database, reference, model)
    refuse_imported(opened.run, opened.data.settings)
    if output is not None:
        refuse_to_overwrite(output, opened, database)
    samples, digest = few_samples(opened, data, steps or SAMPLES, images, report)
    with database.reading() as connection:
        run = runs.resolve_run(connection, opened.run)
        record = calibrations.load_calibration(connection, str(run.calibration))
    started = perf_counter()
    work = _Work(database, record, opened, samples, libraries)
    seconds = perf_counter() - started

    def begin(missing: int) -> None:
        report(_forecast(missing, len(samples), seconds))

    measured = measure(database, opened, samples, digest, libraries=libraries, tick=tick, begin=begin)
    noise = {one.name: power(one.noise_db["all"]) for one in measured.groups}
    offered = [kind for kind in _offered(opened.data.settings) if kind not in without]
    candidates = [
        *(_observers(work, measured.groups[:MOST_GROUPS], noise) if "observer" in offered else ()),
        *(one for entry in measured.groups for one in _wider(entry, noise[entry.name])),
        *_unshared(opened.data, measured.groups, noise),
    ]
    ordered = rungs([one for one in candidates if one.kind in offered], noise)
    groups = len({one.group for one in ordered})
    kinds = ", ".join(offered) or "no kind is left"
    report(f"{len(ordered)} changes to choose from, at {groups} of {len(noise)} groups: {kinds}")
    found = find(ordered, target_db, work, trial)
    changes = (change for step in found.steps for change in step.changes)
    wishes = tuple(dict.fromkeys(override for change in changes for override in change.overrides))
    overrides = (*work.question.overrides, *wishes)
    if output is not None:
        with whole_file(output, "the overrides") as file:
            file.write_text(as_toml(overrides), encoding="utf-8")
    return Advised(opened.run, opened.data.settings, len(samples), found, overrides)


def as_json(found: Advised) -> Answer:
    """The answer in the shape in which it is printed."""
    advice = found.advice
    return {
        "run": found.run,
        "target": found.settings.target,
        "observer": found.settings.observer,
        "samples": found.samples,
        "target_snr_db": advice.target_db,
        "before_db": advice.before_db,
        "after_db": advice.after_db,
        "best_db": advice.best_db,
        "reached": advice.reached,
        "trials": advice.trials,
        "changes": [
            {
                "kind": step.kind,
                "text": _text(step),
                "groups": [one.group for one in step.changes],
                "tensors": _distinct(tensor for one in step.changes for tensor in one.tensors),
                "overrides": _distinct(str(override) for one in step.changes for override in one.overrides),
                "gain_db": step.gain_db,
                "snr_db": step.snr_db,
            }
            for step in advice.steps
        ],
        "overrides": list(map(str, found.overrides)),
    }


def _forecast(missing: int, samples: int, seconds: float) -> str:
    """What is ahead, in words.

    >>> _forecast(314, 8, 0.5)
    'to measure on 8 samples: 314 groups and tensors, then up to 45 models with changes: about 3 minutes'
    """
    minutes = (missing * PART * seconds + MODELS * (seconds + OVERHEAD)) / 60
    told = f"about {minutes:.0f} minutes" if minutes > 1.5 else "a minute at most, or nearly so"
    before = f"{missing} groups and tensors, then " if missing else ""
    return f"to measure on {samples} samples: {before}up to {MODELS} models with changes: {told}"


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


WORDS: Mapping[ChangeKind, str] = {
    "observer": "another observer's scale",
    "unshare": "no sharing",
    "bits": f"{WIDE} bits",
    "float": "float",
}


def _text(step: Step) -> str:
    """A step in words: ``16 bits for 12 groups: a, b, …``; a group is called by its first tensor."""
    names = [_short(name) for name in _distinct(one.tensors[0] for one in step.changes)]
    count = len(step.changes)
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"{WORDS[step.kind]} for {count} group{'s' if count > 1 else ''}: {shown}"


def _short(name: str) -> str:
    """A name without its middle, where it is long.

    >>> _short("model_1/dense/MatMul;model_1/dense/BiasAdd/ReadVariableOp;model_1/dense/Relu")
    'model_1/dense/MatMul;mod…leOp;model_1/dense/Relu'
    """
    half = (NAME_WIDTH - 1) // 2
    return name if len(name) <= NAME_WIDTH else f"{name[: half + 1]}…{name[-half:]}"


def _offered(settings: RunSettings) -> Iterator[ChangeKind]:
    """The kinds of changes that a target can make.

    Another width is offered where the pack says how the target quantizes in it, and float where it leaves ops in float
    that it does not know.
    """
    pack = load_pack(settings.target)
    yield from ("observer", "unshare")
    if any(width.scheme.bits == WIDE for width in pack.widths):
        yield "bits"
    if not pack.quantize_unlisted:
        yield "float"


class _Work:
    """Solves, makes and measures the run's model with changes."""

    def __init__(
        self,
        database: Database,
        record: CalibrationRecord,
        opened: Opened,
        samples: Sequence[Sample],
        libraries: Sequence[Path],
    ) -> None:
        self.database, self.record, self.opened = database, record, opened
        self.samples, self.libraries = samples, libraries
        self.question = question_of(opened.data.settings)
        self._posed: tuple[tuple[Change, ...], tuple[Group, ...]] = (), ()
        session = open_session(reference_of(opened.model, libraries), libraries=libraries)
        self._outputs = sorted(value.name for value in session.get_outputs() if value.type in DTYPES)
        numbered = enumerate(samples, start=1)
        self._expected = [run_float(session, self._outputs, one, number) for number, one in numbered]

    def changed(self, changes: Sequence[Change]) -> Question:
        """The run's question with the changes."""
        wishes = dict.fromkeys(override for one in changes for override in one.overrides)
        return replace(self.question, overrides=(*self.question.overrides, *wishes))

    def can_make(self, changes: Sequence[Change]) -> bool:
        """See `qgraph.analysis.advise.Bench`."""
        try:
            groups = pose(self.opened.model.structure, self.changed(changes)).grouping.groups
        except QgraphError:
            return False
        self._posed = tuple(changes), groups  # most often it is measured next
        return True

    def measure(self, changes: Sequence[Change]) -> float:
        """See `qgraph.analysis.advise.Bench`."""
        data = self.opened.data
        if changes:
            asked = self.changed(changes)
            known, groups = self._posed
            if known != tuple(changes):
                groups = pose(self.opened.model.structure, asked).grouping.groups
            data = answer(self.database, self.record, asked, given=_kept(data, groups))
        if all(encoding_of(one) is None for one in data.tqcs):
            return inf  # nothing is quantized any more
        folder = self.opened.model.folder
        try:
            quantized = to_qdq(self.opened.model.proto, data, {}, folder)
        except ExportError:  # not as ONNX can say it: no model that anybody asked for
            return -inf
        exported = InMemory(quantized.SerializeToString(), folder, "the changed model")
        session = open_session(exported, libraries=self.libraries)
        sums = {name: Sums() for name in self._outputs}
        for sample, expected in zip(self.samples, self._expected, strict=True):
            for name, found in zip(self._outputs, session.run(self._outputs, dict(sample)), strict=True):
                sums[name].add(expected[name], np.asarray(found), name)
        return min((one.agreement().snr_db for one in sums.values()), default=inf)


def _kept(run: RunData, groups: Iterable[Group]) -> dict[str, GroupParameters]:
    """The parameters of the activations of a run that groups still can have: the run may not have solved them."""
    masters = {one.group: one for one in run.tqcs if one.group is not None and one.master is None}
    found = {}
    for group in groups:
        one = masters.get(group.id)
        if one is None or one.scale is None or one.scheme != group.scheme or group.fixed is not None:
            continue
        if one.role in ("activation", "constant"):
            found[group.id] = GroupParameters(one.state, one.scale, one.offset, one.reason)
    return found


def _wider(entry: Entry, noise: float) -> Iterator[Change]:
    """More bits for a group, and float."""
    if not noise:
        return
    names = tuple(f"tensor:{tensor}" for tensor in entry.tensors)
    if entry.role in ("activation", "constant"):
        wide = tuple(Override(Action.BITS, name, bits=WIDE) for name in names)
        yield Change("bits", entry.name, entry.tensors, wide, noise * (1 - LEFT))
    plain = tuple(Override(Action.FLOAT, name) for name in names)
    yield Change("float", entry.name, entry.tensors, plain, noise)


def _unshared(run: RunData, groups: Sequence[Entry], noise: Mapping[str, float]) -> Iterator[Change]:
    """For groups that lose by sharing: drop a sharing that the target only prefers."""
    homes = {slot: group.id for group in run.grouping.groups for slot in group.slots}
    ops: dict[str, dict[str, None]] = {}
    for edge in run.grouping.joined:
        if edge.strength == Strength.PREFERRED and edge.op is not None and edge.a in homes:
            ops.setdefault(homes[edge.a], {})[edge.op] = None
    for entry in groups:
        sharing = power(entry.noise_db["sharing"])
        if entry.name in ops and sharing >= SHARED * noise[entry.name] > 0:
            drop = tuple(Override(Action.UNSHARE, f"op:{op}") for op in sorted(ops[entry.name]))
            yield Change("unshare", entry.name, entry.tensors, drop, sharing)


def _observers(work: _Work, entries: Sequence[Entry], noise: Mapping[str, float]) -> list[Change]:
    """For each group the parameters of that observer with which the outputs lose least, if that is another one."""
    opened = work.opened
    wanted = {one.name for one in entries if one.role in ("activation", "constant") and noise[one.name]}
    groups = {one.id: one for one in opened.data.grouping.groups if one.id in wanted and one.fixed is None}
    others = _other_parameters(work, groups)
    exported = Exported(opened.model, opened.data)
    every = subjects(exported.sites, dict.fromkeys(others, ()))
    found = []
    for batch in batched(every):
        sites = [site for one in batch for site in one.sites]
        probe = Probe(exported, sites, work.samples, opened.model.folder, work.libraries)
        for subject in batch:
            best = _best(probe, subject, others[subject.name])
            gain = noise[subject.name] - best[0]
            if gain > 0:
                found.append(_pinned(groups[subject.name], best[1], gain))
    return found


def _other_parameters(work: _Work, groups: Mapping[str, Group]) -> dict[str, dict[str, Encoding]]:
    """By group and observer, the parameters that differ from those of the run."""
    found: dict[str, dict[str, Encoding]] = {}
    own = {one.slot: encoding_of(one) for one in work.opened.data.tqcs}
    for observer in OBSERVERS:
        asked = replace(work.question, observer=observer, parameters={}, weights=settings_of(work.question).weights)
        solved = {one.slot: one for one in answer(work.database, work.record, asked).tqcs}
        for id_, group in groups.items():
            record = solved[group.master]
            encoding = encoding_of(record)
            if record.group == id_ and encoding is not None and encoding != own[group.master]:
                found.setdefault(id_, {})[observer] = encoding
    return {id_: found[id_] for id_ in sorted(found)}


def _best(probe: Probe, subject: Subject, others: Mapping[str, Encoding]) -> tuple[float, Encoding]:
    """The noise that is left with the best of some parameters, by observer, and the parameters."""
    tried = [
        (power(probe.noise(site.feed(encoding) for site in subject.sites)[TOGETHER]), observer, encoding)
        for observer, encoding in others.items()
    ]
    noise, _, encoding = min(tried, key=lambda one: one[:2])
    return noise, encoding


def _pinned(group: Group, encoding: Encoding, gain: float) -> Change:
    tensor = group.tensors[0]
    pin = Override(Action.PIN, f"tensor:{tensor}", scale=encoding.scale[0], offset=encoding.offset[0])
    return Change("observer", group.id, group.tensors, (pin,), gain)
