"""What the shipped targets need of a model: found once, and stored with the model.

Applying every rule pack to a model takes longer than a short calibration, so what came of it is kept: the evidence
that solving needs, and the axes along which activations are counted per channel. A digest of the packs tells whether
it still holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from qgraph.calib.codec import decode, encode
from qgraph.calib.plan import CollectionPlan, plan_collection
from qgraph.constraints.model import SlotPlan
from qgraph.constraints.pack import pack_names, shipped_digest
from qgraph.ir.elements import Structure
from qgraph.ir.onnx_import import ImportedModel
from qgraph.jobs.evidence import Evidence, add_evidence
from qgraph.jobs.question import Question, pose
from qgraph.jobs.recording import channel_axes, plan_recording, shipped_slots
from qgraph.store import models
from qgraph.store.database import Database
from qgraph.store.evidence import Served, load_evidence, load_served, save_evidence, save_served


@dataclass(frozen=True, slots=True)
class Serving:
    """What the shipped targets need of one model.

    Attributes:
        slots: what they make of each slot; None if the evidence for all of it is stored.
    """

    packs: str
    channel_axes: Mapping[str, tuple[int, ...]]
    slots: frozenset[SlotPlan] | None

    def plan(self, structure: Structure, asked: Iterable[SlotPlan] = (), *, lean: bool = False) -> CollectionPlan:
        """What a calibration collects.

        Args:
            asked: what the target that is asked for makes of each slot: a rule pack of the user's own may quantize more
                tensors per channel.
            lean: for that target alone.
        """
        if lean:
            return plan_recording(structure, asked, lean=True)
        axes = {tensor: set(found) for tensor, found in self.channel_axes.items()}
        for tensor, found in channel_axes(asked).items():
            axes.setdefault(tensor, set()).update(found)
        return plan_collection(structure, axes)


def serve(structure: Structure, known: Database | None) -> Serving:
    """Find what the shipped targets need of a model, from what a database noted of it if it still holds.

    Args:
        known: where the model may be stored; None if there is no database yet.
    """
    packs = hashlib.sha256(f"{version('qgraph')} {shipped_digest()}".encode()).hexdigest()
    if known is not None:
        with known.reading() as connection:
            served = load_served(connection, structure.fingerprint)
        if served is not None and served.packs == packs:
            return Serving(packs, served.channel_axes, None)
    slots = shipped_slots(structure)
    return Serving(packs, channel_axes(slots), slots)


def store_model(database: Database, imported: ImportedModel, serving: Serving, question: Question | None) -> None:
    """Store a model, and what all shipped targets and the asked one need to know of its own numbers.

    What is stored already is kept, so that a target which came later costs only what it adds.
    """
    own: Iterable[SlotPlan] = ()
    if question is not None and (question.target not in pack_names() or question.overrides):
        own = pose(imported.structure, question).constraints.slots.values()
    with database.transaction() as connection:
        model = models.save_model(connection, imported.structure, str(imported.path.resolve()))
    if serving.slots is None and not own:
        return
    with database.reading() as connection:
        stored = load_evidence(connection, model)
    constants = {tensor: decode(blob) for tensor, blob in stored.constants.items()}
    known = Evidence(stored.weights, stored.biases, constants)
    evidence = add_evidence(known, (serving.slots or frozenset()).union(own), imported.constant)
    with database.transaction() as connection:
        if evidence is not known:
            blobs = {tensor: encode(statistics) for tensor, statistics in evidence.constants.items()}
            save_evidence(connection, model, evidence.weights, evidence.biases, blobs)
        if serving.slots is not None:
            save_served(connection, model, Served(serving.packs, serving.channel_axes))
