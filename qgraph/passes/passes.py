"""The passes, to be used by hand or by `quantize_onnx_model`; each reads the stored statistics and writes live configs.

    QuantizeFusionPass().optimize(graph)
    ParameterQuantizePass().optimize(graph)
    RuntimeCalibrationPass(method="mse").optimize(graph, dataloader=data, calib_steps=32)
    QuantAlignmentPass(force_overlap=True).optimize(graph)
    PassiveParameterQuantizePass().optimize(graph)

That order always works; others do, too, and end in the same scales: what an alignment or a fusion changes is solved
again from the statistics at once. Only biases cannot come before what they are derived from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from qgraph import arguments
from qgraph.calib.evidence import METHODS
from qgraph.calib.observers.catalog import entry_of, resolve_parameters
from qgraph.constraints.merge_methods import Given as GivenMethod
from qgraph.constraints.merge_methods import merge_methods
from qgraph.errors import NotFoundError, UsageError
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.hands import Hand
from qgraph.passes.linking import write_groups
from qgraph.passes.platforms import choices_of
from qgraph.passes.solving import SOLVED, activate, known_parameters, part_of, records_of, settings_at
from qgraph.passes.stage import Stage, grouping_at
from qgraph.solve.run import AUTO_OVERLAP, ForceOverlap, Parameter
from qgraph.tqc import QuantizationState

DEFAULT_STEPS = 32
"""Batches that a pass calibrates with unless it is told otherwise, as the seed system."""

ORDER = (
    "QuantizeFusionPass, ParameterQuantizePass, RuntimeCalibrationPass, QuantAlignmentPass, "
    "PassiveParameterQuantizePass"
)
"""The order that always works."""

Collate = Callable[[Any], object]


def _check(graph: object, one: object) -> None:
    if not isinstance(graph, QuantizedGraph):
        name = type(one).__name__
        cure = "pass what quantize_onnx_model(…, do_quantize=False) returns"
        raise UsageError(f"{name} works on a graph", type(graph).__name__, cure)


class RuntimeCalibrationPass:
    """Give scales to the activations that wait for them (INITIAL), from the statistics of the data.

    Args:
        method: an observer, in any case: ``minmax``, ``percentile``, ``mse``, ``kl``, ``isotone``, ``auto`` or a
            registered one; None for the platform's.
        override: calibrate ACTIVATED ones again, too, and those in a degenerate state; whole groups.
        parameters: of the observer, by name.

    Raises:
        NotFoundError: no such observer or parameter.
    """

    def __init__(
        self,
        method: str | None = None,
        override: bool = False,  # noqa: FBT001, FBT002 - the seed has it in this place
        *,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        self.method = None if method is None else entry_of(arguments.text("method", method)).name
        self.override = override
        self.parameters = dict(arguments.mapping("parameters", parameters))
        if self.method is not None:
            resolve_parameters(entry_of(self.method), self.parameters)

    def optimize(
        self,
        graph: QuantizedGraph,
        dataloader: object = None,
        calib_steps: int | None = DEFAULT_STEPS,
        collate_fn: Collate | None = None,
    ) -> None:
        """Calibrate. Data whose statistics are stored already is read, but nothing is run.

        Args:
            dataloader: as for `qgraph.api.Database.calibrate`; None for the data that the graph was calibrated on.
            calib_steps: batches; None for all. Fewer are used where there are no more.

        Raises:
            UsageError: there is neither data nor an earlier calibration.
        """
        _check(graph, self)
        graph.collect(dataloader, calib_steps, collate_fn, needed_by=type(self).__name__)
        graph.notice()
        grouping, solving = graph.grouping(), graph.solving
        states = (QuantizationState.INITIAL, *(SOLVED if self.override else ()))
        masters = {
            group.master
            for group in grouping.groups
            if graph.configs[group.master].state in states and solving.role(group) == "activation"
        }
        method = self.method or choices_of(graph.platform).observer
        stage = replace(graph.stage, observer=method, parameters=self.parameters)
        records = records_of(solving.solve(part_of(grouping, masters), settings_at(stage, graph.workplace)))
        for master in sorted(masters):
            activate(graph.configs[master], records[master])
            if graph.hands.get(master) == Hand.PINNED:
                del graph.hands[master]
        graph.stage = stage if masters else graph.stage
        derive_biases(graph, QuantizationState.PASSIVE)
        graph.remember()


class ParameterQuantizePass:
    """Give scales to the weights that wait for them (INITIAL), from the model's own numbers; no data is needed.

    Args:
        method: ``minmax`` or ``mse``; None for the platform's.

    Raises:
        NotFoundError: no such method.
    """

    def __init__(self, method: str | None = None) -> None:
        if method is not None and arguments.text("method", method).lower() not in METHODS:
            raise NotFoundError.among("method for weights", method, METHODS, f"use {' or '.join(METHODS)}")
        self.method = None if method is None else method.lower()

    def optimize(
        self,
        graph: QuantizedGraph,
        dataloader: object = None,  # noqa: ARG002 - all passes are called alike
        calib_steps: int | None = DEFAULT_STEPS,  # noqa: ARG002
        collate_fn: Collate | None = None,  # noqa: ARG002
    ) -> None:
        """Quantize weights. Constants that are values (the second input of a Mul) are calibrated with activations."""
        _check(graph, self)
        graph.notice()
        grouping = graph.grouping()
        masters = {
            group.master
            for group in grouping.groups
            if graph.configs[group.master].state == QuantizationState.INITIAL and graph.solving.role(group) == "weight"
        }
        stage = replace(graph.stage, weights=self.method or choices_of(graph.platform).weights)
        alone = replace(settings_at(replace(stage, observer=None), graph.workplace), observer=None)
        records = records_of(graph.solving.solve(part_of(grouping, masters), alone))
        for master in sorted(masters):
            activate(graph.configs[master], records[master])
        graph.stage = stage if masters else graph.stage
        derive_biases(graph, QuantizationState.PASSIVE)
        graph.remember()


class QuantizeFusionPass:
    """Take the quantization out of pairs that run as one, and share where ops only move or select values."""

    def optimize(
        self,
        graph: QuantizedGraph,
        dataloader: object = None,  # noqa: ARG002 - all passes are called alike
        calib_steps: int | None = DEFAULT_STEPS,  # noqa: ARG002
        collate_fn: Collate | None = None,  # noqa: ARG002
    ) -> None:
        """Fuse. Groups that change, and had scales, are solved again from the statistics."""
        _check(graph, self)
        restage(graph, replace(graph.stage, fused=True))


class QuantAlignmentPass:
    """Share scale and offset where the platform requires it, and where the alignment options ask for it.

    Args:
        elementwise_merge_method, concat_merge_method, averagepool_method, resize_method: "Joint" (True), "Align to
            Input", "Align to Output", "Align to Large", "None" (False) or "Force None"; None for the platform's choice.
        force_overlap: whether all readers of a tensor take the scale of an aligned one: False, True or "auto", which
            joins where that lowers the predicted noise.

    Raises:
        NotFoundError: no such method.
        UsageError: a wrong `force_overlap`.
    """

    def __init__(
        self,
        *,
        elementwise_merge_method: GivenMethod = None,
        concat_merge_method: GivenMethod = None,
        averagepool_method: GivenMethod = None,
        resize_method: GivenMethod = None,
        force_overlap: ForceOverlap = False,
    ) -> None:
        self.methods = merge_methods(
            elementwise_merge_method=elementwise_merge_method,
            concat_merge_method=concat_merge_method,
            averagepool_method=averagepool_method,
            resize_method=resize_method,
        )
        if not isinstance(force_overlap, bool) and force_overlap != AUTO_OVERLAP:
            raise UsageError('force_overlap must be a bool or "auto"', repr(force_overlap), 'say True, False or "auto"')
        self.force_overlap = force_overlap

    def optimize(
        self,
        graph: QuantizedGraph,
        dataloader: object = None,  # noqa: ARG002 - all passes are called alike
        calib_steps: int | None = DEFAULT_STEPS,  # noqa: ARG002
        collate_fn: Collate | None = None,  # noqa: ARG002
    ) -> None:
        """Align. Groups that change, and had scales, are solved again from the statistics.

        Raises:
            UsageError: "auto" before there are scales; a method None where the platform requires the sharing.
            ConflictError: the platform's rules, or what was written by hand, contradict each other.
        """
        _check(graph, self)
        if self.force_overlap == AUTO_OVERLAP and graph.stage.observer is None:
            what = 'force_overlap="auto" weighs noise, and nothing has scales yet'
            raise UsageError(what, "QuantAlignmentPass", f"use this order: {ORDER}")
        restage(graph, replace(graph.stage, aligned=True, methods=self.methods, force_overlap=self.force_overlap))


class PassiveParameterQuantizePass:
    """Give biases the scale that follows from input and weight; a weight's is raised where its bias would not fit."""

    def optimize(
        self,
        graph: QuantizedGraph,
        dataloader: object = None,  # noqa: ARG002 - all passes are called alike
        calib_steps: int | None = DEFAULT_STEPS,  # noqa: ARG002
        collate_fn: Collate | None = None,  # noqa: ARG002
    ) -> None:
        """Derive.

        Raises:
            UsageError: an input or weight has no scale yet.
        """
        _check(graph, self)
        graph.notice()
        for one in graph.constraints().derived:
            if graph.configs[one.slot].state != QuantizationState.INITIAL:
                continue
            for source in (one.activation, one.weight):
                if graph.configs[source].root.state == QuantizationState.INITIAL:
                    what = "PassiveParameterQuantizePass needs the scales of inputs and weights"
                    raise UsageError(what, f"{source} is INITIAL", f"use this order: {ORDER}")
        derive_biases(graph, QuantizationState.INITIAL, QuantizationState.PASSIVE)
        graph.remember()


def restage(graph: QuantizedGraph, stage: Stage) -> None:
    """Bring a graph to another stage: link anew, and solve the groups that changed, if they had parameters.

    A graph that this is refused for stays as it was.
    """
    graph.notice()
    before, graph.stage = graph.stage, stage
    try:
        constraints = graph.constraints()
        grouping = grouping_at(stage, constraints)
        if stage.force_overlap == AUTO_OVERLAP:
            settings = settings_at(stage, graph.workplace, overlap=AUTO_OVERLAP)
            grouping = graph.solving.solve(grouping, settings).grouping
    except Exception:
        graph.stage = before
        raise
    relinked = write_groups(graph.configs, grouping, graph.hands)
    if relinked.to_solve:
        solving, live = graph.solving, graph.grouping()
        records = records_of(solving.solve(part_of(live, relinked.to_solve), settings_at(stage, graph.workplace)))
        for master in relinked.to_solve:
            activate(graph.configs[master], records[master])
    derive_biases(graph, QuantizationState.PASSIVE)
    graph.remember()


def derive_biases(graph: QuantizedGraph, *states: QuantizationState) -> None:
    """Derive the scales of the biases in some states from the parameters that inputs and weights have now.

    One whose input or weight is float stays float, and one whose input or weight waits again waits with it.

    Raises:
        UsageError: a weight whose scale was written by hand is too fine for its bias.
    """
    wanted = _due(graph, states)
    if not wanted:
        return
    grouping = graph.grouping()
    groups = tuple(one for one in grouping.groups if one.derived is None or one.master in wanted)
    settings = settings_at(replace(graph.stage, observer=None), graph.workplace)
    settings = replace(settings, weights=graph.stage.weights or choices_of(graph.platform).weights)
    given = known_parameters(graph.configs, grouping)
    records = records_of(graph.solving.solve(replace(grouping, groups=groups), settings, given))
    raised = [
        group.master
        for group in groups
        if group.derived is None and records[group.master].scale != graph.configs[group.master].scale
    ]
    for master in raised:
        if graph.hands.get(master) == Hand.PINNED:
            cure = "write larger ones, or move it to INITIAL and run ParameterQuantizePass"
            raise UsageError("scales written by hand are too fine for the bias to fit", master, cure)
    for master in raised:
        graph.configs[master].scale = records[master].scale or ()
    for master in sorted(wanted):
        activate(graph.configs[master], records[master])


def _due(graph: QuantizedGraph, states: tuple[QuantizationState, ...]) -> set[str]:
    """The biases in some states whose input and weight have parameters; others become float, or wait."""
    wanted: set[str] = set()
    for one in graph.constraints().derived:
        bias = graph.configs[one.slot]
        if bias.state not in states or one.slot in graph.hands:
            continue
        sources = {graph.configs[source].root.state for source in (one.activation, one.weight)}
        if QuantizationState.FP32 in sources:
            bias.state = QuantizationState.FP32
        elif QuantizationState.INITIAL not in sources:
            wanted.add(one.slot)
        elif bias.state != QuantizationState.INITIAL:
            bias.state = QuantizationState.INITIAL
    return wanted
