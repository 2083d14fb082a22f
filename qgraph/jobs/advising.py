"""The shortest list of overrides that gives a run the accuracy that is wanted, each tried and measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from qgraph.analysis.advise import KINDS, Advice, Change, plans
from qgraph.analysis.advise import advise as find
from qgraph.analysis.sensitivity import TOGETHER, Probe, Subject, batched, power, subjects
from qgraph.analysis.sensitivity_model import Exported
from qgraph.analysis.sessions import InMemory, Sample
from qgraph.analysis.verify import verify as compare
from qgraph.answers import Answer
from qgraph.calib.images import ImageOptions
from qgraph.constraints.model import Group, Strength
from qgraph.constraints.overrides import Action, Override, Overrides, as_toml
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
) -> Advised:
    """Find the shortest list of changes with which the worst output has an SNR.

    Args:
        target_db: the SNR.
        without: kinds of changes that are not wanted.
        steps: samples to measure on, the first ones; None for `SAMPLES`.
        images: how image files are made ready.
        libraries: with the model's custom ops.
        output: a file for the overrides.
        report: called with one line for each thing that the user should know.
        tick: called with how much is measured and how much there is to measure, for the sensitivities.

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
    measured = measure(database, opened, samples, digest, libraries=libraries, tick=tick)
    with database.reading() as connection:
        run = runs.resolve_run(connection, opened.run)
        record = calibrations.load_calibration(connection, str(run.calibration))
    work = _Work(database, record, opened, samples, libraries, report)
    noise = {one.name: power(one.noise_db["all"]) for one in measured.groups}
    candidates = [
        *([] if "observer" in without else _observers(work, measured.groups[:MOST_GROUPS], noise)),
        *(one for entry in measured.groups for one in _wider(entry, noise[entry.name])),
        *_unshared(opened.data, measured.groups, noise),
    ]
    ordered = plans([one for one in candidates if one.kind not in without], noise)
    report(f"{sum(map(len, ordered))} changes to try, at {len(ordered)} of {len(noise)} groups")
    found = find(ordered, target_db, work)
    wishes = tuple(override for step in found.steps for override in step.change.overrides)
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
        "reached": advice.reached,
        "trials": advice.trials,
        "changes": [
            {
                "kind": step.change.kind,
                "text": step.change.text,
                "group": step.change.group,
                "tensors": list(step.change.tensors),
                "overrides": list(map(str, step.change.overrides)),
                "gain_db": step.gain_db,
                "snr_db": step.snr_db,
            }
            for step in advice.steps
        ],
        "overrides": list(map(str, found.overrides)),
    }


class _Work:
    """Solves, makes and measures the run's model with changes."""

    def __init__(
        self,
        database: Database,
        record: CalibrationRecord,
        opened: Opened,
        samples: Sequence[Sample],
        libraries: Sequence[Path],
        report: Report,
    ) -> None:
        self.database, self.record, self.opened = database, record, opened
        self.samples, self.libraries, self.report = samples, libraries, report
        self.question = question_of(opened.data.settings)
        self._float = reference_of(opened.model, libraries)

    def changed(self, changes: Sequence[Change]) -> Question:
        """The run's question with the changes."""
        wishes = tuple(override for one in changes for override in one.overrides)
        return replace(self.question, overrides=(*self.question.overrides, *wishes))

    def can_make(self, changes: Sequence[Change]) -> bool:
        """See `qgraph.analysis.advise.Bench`."""
        try:
            pose(self.opened.model.structure, self.changed(changes))
        except QgraphError:
            return False
        return True

    def measure(self, changes: Sequence[Change]) -> float:
        """See `qgraph.analysis.advise.Bench`."""
        data = self.opened.data
        if changes:
            asked = self.changed(changes)
            groups = pose(self.opened.model.structure, asked).grouping.groups
            data = answer(self.database, self.record, asked, given=_kept(data, groups))
        folder = self.opened.model.folder
        try:
            quantized = to_qdq(self.opened.model.proto, data, {}, folder)
        except ExportError:  # nothing is quantized any more, or not as ONNX can say it: no model that anybody asked for
            return -inf
        exported = InMemory(quantized.SerializeToString(), folder, "the changed model")
        found = compare(self._float, exported, self.samples, libraries=self.libraries)
        worst = min(one.snr_db for one in found.outputs.values())
        self.report(f"SNR with {len(changes)} of the changes: {worst:.2f} dB")
        return worst


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
    shown = ", ".join(entry.tensors[:3]) + (", …" if len(entry.tensors) > 3 else "")
    if entry.role in ("activation", "constant"):
        wide = tuple(Override(Action.BITS, name, bits=WIDE) for name in names)
        yield Change("bits", entry.name, entry.tensors, wide, f"{WIDE} bits for {shown}", noise * (1 - LEFT))
    plain = tuple(Override(Action.FLOAT, name) for name in names)
    yield Change("float", entry.name, entry.tensors, plain, f"float for {shown}", noise)


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
            text = f"no sharing at {', '.join(sorted(ops[entry.name]))}"
            yield Change("unshare", entry.name, entry.tensors, drop, text, sharing)


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
                found.append(_pinned(groups[subject.name], *best[1:], gain))
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


def _best(probe: Probe, subject: Subject, others: Mapping[str, Encoding]) -> tuple[float, str, Encoding]:
    """The noise that is left with the best of some parameters, whose they are, and the parameters."""
    tried = [
        (power(probe.noise(site.feed(encoding) for site in subject.sites)[TOGETHER]), observer, encoding)
        for observer, encoding in others.items()
    ]
    return min(tried, key=lambda one: one[:2])


def _pinned(group: Group, observer: str, encoding: Encoding, gain: float) -> Change:
    tensor = group.tensors[0]
    pin = Override(Action.PIN, f"tensor:{tensor}", scale=encoding.scale[0], offset=encoding.offset[0])
    return Change("observer", group.id, group.tensors, (pin,), f"the scale of {observer} for {tensor}", gain)
