"""Where a run loses its accuracy: what the outputs lose by each group and each tensor alone, measured and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from qgraph.analysis.sensitivity import PARTS, Kind, Noise, Own, Part, Probe, Subject, batched, subjects
from qgraph.analysis.sensitivity_model import Exported
from qgraph.analysis.sessions import Sample
from qgraph.calib import plan as planning
from qgraph.calib.codec import decode
from qgraph.calib.data.batches import batches, joined
from qgraph.calib.data.images import ImageOptions
from qgraph.calib.data.source import open_data
from qgraph.errors import DataError
from qgraph.formats.encoding import Encoding
from qgraph.jobs.calibrating import Ticker
from qgraph.jobs.exporting import Opened, open_run
from qgraph.jobs.question import IMPORTED, REFERENCE, pose, question_of
from qgraph.jobs.recording import channels_for
from qgraph.jobs.verifying import model_inputs
from qgraph.solve.activations import Calibration, solve_activations
from qgraph.solve.voices import Voices
from qgraph.store import calibrations, runs
from qgraph.store.database import Database
from qgraph.store.evidence import load_evidence
from qgraph.store.sensitivities import Sensitivity, load_sensitivities, save_sensitivities

SAMPLES = 8
"""How many samples are measured on where nobody says."""

METHOD = "2"
"""Of measuring; another one makes what is stored another measurement."""

Measured = Mapping[Part, Noise]
Key = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """What was measured of a group or a tensor.

    Attributes:
        name: the id of the group, or the tensor's name.
        group: the id of the group.
        tensors: that are quantized.
        noise_db: at all outputs together by part: noise power over signal power; −inf where nothing is lost.
        outputs: the same at each output, by part.
    """

    kind: Kind
    name: str
    group: str
    tensors: tuple[str, ...]
    role: str
    noise_db: Mapping[Part, float]
    outputs: Mapping[str, Mapping[Part, float]]


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """Groups and tensors, those that lose most first.

    Attributes:
        measured: how many of them this call measured; the others were stored.
    """

    run: str
    samples: int
    measured: int
    groups: tuple[Entry, ...]
    tensors: tuple[Entry, ...]


def sensitivity(
    database: Database,
    reference: str,
    data: object,
    *,
    model: Path | None = None,
    steps: int | None = None,
    images: ImageOptions | None = None,
    libraries: Sequence[Path] = (),
    report: Callable[[str], None] = lambda _: None,
    tick: Ticker | None = None,
) -> Sensitivities:
    """Measure what is not stored yet; each result is stored at once, so that an interrupted call goes on.

    Args:
        steps: samples to use, the first ones; None for `SAMPLES`.
        images: how image files are made ready.
        libraries: with the model's custom ops.
        report: called with one line for each thing that the user should know.
        tick: called with how much is measured and how much there is to measure.
    """
    opened = open_run(database, reference, model)
    samples, digest = few_samples(opened, data, steps or SAMPLES, images, report)
    return measure(database, opened, samples, digest, libraries=libraries, tick=tick)


def few_samples(
    opened: Opened, data: object, most: int, images: ImageOptions | None, report: Callable[[str], None]
) -> tuple[list[Sample], str]:
    """The first samples of the data, and what they and the way of measuring are stored under."""
    with closing(open_data(data, model_inputs(opened.model.structure), images=images)) as source:
        most = max(most, source.fixed_batch or 1)
        read = list(batches(source.samples(most), source))
        for line in source.notes():
            report(line)
        if not read:
            raise DataError("no samples to measure on", source.name, "give at least one")
        return [joined(batch) for batch in read], f"{METHOD}:{source.digest(most)}"


def measure(
    database: Database,
    opened: Opened,
    samples: Sequence[Sample],
    digest: str,
    *,
    libraries: Sequence[Path] = (),
    tick: Ticker | None = None,
    begin: Callable[[int], None] = lambda _: None,
) -> Sensitivities:
    """As `sensitivity`, on samples that are read already.

    Args:
        begin: called with how much there is to measure, before it is.
    """
    exported = Exported(opened.model, opened.data)
    every = subjects(exported.sites, {group.id: group.tensors for group in opened.data.grouping.groups})
    with database.reading() as connection:
        known = _by_subject(load_sensitivities(connection, opened.run, digest))
    missing = [one for one in every if (one.kind, one.name) not in known]
    own = own_parameters(database, opened) if missing else {}
    alike: dict[tuple[int, ...], list[Subject]] = {}
    for one in missing:  # a group of one tensor is that tensor
        alike.setdefault(tuple(site.position for site in one.sites), []).append(one)
    begin(len(alike))
    done = 0
    for batch in batched([same[0] for same in alike.values()]):
        probe = Probe(exported, [site for one in batch for site in one.sites], samples, opened.model.folder, libraries)
        for subject in batch:
            found = probe.parts(subject, own)
            same = alike[tuple(site.position for site in subject.sites)]
            with database.transaction() as connection:
                save_sensitivities(connection, opened.run, digest, _rows(same, found))
            known |= {(one.kind, one.name): found for one in same}
            done += 1
            if tick is not None:
                tick(done, len(alike))
    entries = sorted((_entry(one, known[one.kind, one.name]) for one in every), key=_most_first)
    groups, tensors = (tuple(one for one in entries if one.kind == kind) for kind in ("group", "tensor"))
    return Sensitivities(opened.run, len(samples), len(missing), groups, tensors)


def _most_first(entry: Entry) -> tuple[float, str]:
    return -entry.noise_db["all"], entry.name


def _by_subject(stored: Iterable[Sensitivity]) -> dict[Key, Measured]:
    """What is stored of each group and tensor, where all parts are."""
    found: dict[Key, dict[Part, dict[str, float]]] = {}
    for one in stored:
        if one.kind != "op":
            found.setdefault((one.kind, one.subject), {}).setdefault(one.part, {})[one.output] = one.noise_db
    return {key: parts for key, parts in found.items() if set(parts) == set(PARTS)}


def _rows(same: Iterable[Subject], found: Measured) -> list[Sensitivity]:
    return [
        Sensitivity(one.kind, one.name, part, output, noise)
        for one in same
        for part, outputs in found.items()
        for output, noise in outputs.items()
    ]


def _entry(subject: Subject, found: Measured) -> Entry:
    outputs = sorted(name for name in found["all"] if name)
    return Entry(
        subject.kind,
        subject.name,
        subject.group,
        subject.tensors,
        subject.sites[0].role,
        {part: found[part][""] for part in PARTS},
        {name: {part: found[part][name] for part in PARTS} for name in outputs},
    )


def own_parameters(database: Database, opened: Opened) -> Own:
    """What the run's observer would give each activation alone, where that is not what its group has.

    Of a run that was imported, what `REFERENCE` would give; nothing if it was imported without a calibration.
    """
    if opened.calibration is None:
        return {}
    roles = {one.slot: one.role for one in opened.data.tqcs}
    groups = [
        one
        for one in opened.data.grouping.groups
        if (len(one.tensors) > 1 or one.fixed) and roles[one.master] in ("activation", "constant")
    ]
    if not groups:
        return {}
    alone = {
        f"{group.id}/{tensor}": replace(group, slots=(), tensors=(tensor,), fixed=None)
        for group in groups
        for tensor in group.tensors
    }
    single = [replace(one, id=name) for name, one in alone.items()]
    members = {one.id: one.tensors for one in single}
    voices = {one.id: Voices(one.tensors) for one in single}
    solved = solve_activations(members, single, voices, _calibration(database, opened)).parameters
    found = {}
    for name, one in alone.items():
        scheme, parameters = one.scheme, solved[name]
        if parameters.scale and parameters.offset is not None:
            found[one.id, one.tensors[0]] = Encoding(
                scheme.dtype, scheme.quant_min, scheme.quant_max, scheme.axis, parameters.scale, parameters.offset
            )
    return found


def _calibration(database: Database, opened: Opened) -> Calibration:
    """What the run was solved from."""
    structure, settings = opened.model.structure, opened.data.settings
    if settings.observer == IMPORTED:
        settings = replace(settings, observer=REFERENCE, observer_parameters={})
    with database.reading() as connection:
        run = runs.resolve_run(connection, opened.run)
        evidence = load_evidence(connection, run.model)
        blobs = calibrations.load_statistics(connection, str(run.calibration))
    plan = planning.plan_collection(structure)
    collected = planning.complete(plan, {tensor: decode(blob) for tensor, blob in blobs.items()})
    constants = {tensor: decode(blob) for tensor, blob in evidence.constants.items()}
    posed = pose(structure, question_of(settings))
    return Calibration(
        {**constants, **collected},
        {name: op for op in structure.ops for name in op.outputs if name is not None},
        str(settings.observer),
        settings.observer_parameters,
        "cpu",
        channels_for(posed.constraints.slots.values(), collected),
    )
