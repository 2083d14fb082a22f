"""A quantized model in float, in which the parameters of every group of activations can be set at each run.

Each pair of QuantizeLinear and DequantizeLinear on an activation becomes the arithmetic that it stands for, and its
scale and bounds become inputs of the model, whose own values quantize nothing::

    T ──▶ Q ──▶ DQ ──▶            T ──▶ Div ──▶ Round ──▶ Clip ──▶ Mul ──▶
                                        step           low, high   step

So one session measures what any of the groups costs at the outputs, with any parameters. Weights and biases stay as
they are quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qgraph.calib.op_libraries import register
from qgraph.formats.encoding import Encoding, encoding_of
from qgraph.formats.qdq import to_qdq
from qgraph.improve.nearness import Outputs, noise_of
from qgraph.improve.pieces import FATAL_ONLY, Values
from qgraph.ir.onnx_import import ImportedModel
from qgraph.ir.onnx_tensors import external_folder_entry
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import RunData

PREFIX = "qgraph.simulated"
"""What the names of everything that is added begin with."""

EXACT_STEP = 2.0**-60
"""So fine that a float32 is a whole number of steps, or so small that it does not count."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a group's parameters are applied.

    Attributes:
        name: what the names of its inputs begin with.
        shape: in which scales are fed, so that each meets its channel.
    """

    name: str
    encoding: Encoding
    shape: tuple[int, ...]

    def feed(self, parameters: GroupParameters) -> dict[str, NDArray[np.float32]]:
        """The inputs that quantize with these parameters."""
        offset = np.asarray(parameters.offset, np.float64)
        whole, code = np.iinfo(self.encoding.dtype), self.encoding
        low, high = (code.quant_min, code.quant_max) if code.is_narrow else (whole.min, whole.max)
        values = {"step": np.asarray(parameters.scale, np.float64), "low": low - offset, "high": high - offset}
        return {f"{self.name}.{key}": value.astype(np.float32).reshape(self.shape) for key, value in values.items()}


class Simulation:
    """Measures on a few samples. State: an open session, the samples and what the float model makes of them.

    Args:
        model: a float model; not changed.
        run: one of it. The parameters of its activations do not count.
        expected: the outputs that are wanted, for each sample.
        libraries: with the model's custom ops.
    """

    def __init__(
        self,
        model: ImportedModel,
        run: RunData,
        samples: Sequence[Values],
        expected: Sequence[Outputs],
        libraries: Sequence[Path] = (),
    ) -> None:
        proto, self._sites = _simulated(model, run)
        options = onnxruntime.SessionOptions()
        register(options, libraries)
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry(*external_folder_entry(model.folder))
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._samples, self._expected = samples, expected

    @property
    def groups(self) -> tuple[str, ...]:
        """The ids of the groups that can be quantized, in the order of the model."""
        return tuple(self._sites)

    def noise(self, parameters: Mapping[str, GroupParameters], samples: Iterable[int] | None = None) -> float:
        """Error power over signal power at the outputs with these groups quantized, see `noise_of`.

        Args:
            samples: numbers of those to measure on; None for all.
        """
        fed = {
            name: value
            for group, chosen in parameters.items()
            for site in self._sites[group]
            for name, value in site.feed(chosen).items()
        }
        numbers = range(len(self._samples)) if samples is None else list(samples)
        made = (self._session.run(None, {**self._samples[number], **fed}) for number in numbers)
        return noise_of([self._expected[number] for number in numbers], made)


def _simulated(model: ImportedModel, run: RunData) -> tuple[ModelProto, dict[str, list[_Site]]]:
    """The quantized model with its pairs on activations replaced, and where, by group."""
    marked, groups = _marked(run)
    proto = to_qdq(model.proto, marked, {}, model.folder)
    own = {node.name for node in model.proto.graph.node}
    ranks = {one.name: len(one.shape) for one in model.structure.tensors if one.shape is not None}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    sources: dict[str, str] = {}
    sites: dict[str, list[_Site]] = {}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if node.name in own or node.op_type not in ("QuantizeLinear", "Clip", "DequantizeLinear"):
            nodes.append(node)
        elif node.op_type != "DequantizeLinear":
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
        elif node.input[0] not in sources:
            nodes.append(node)  # a constant
        else:
            mark = float(np.ravel(numpy_helper.to_array(constants[node.input[1]]))[0])
            group, record, code = groups[mark]
            shape = () if code.axis is None else (-1, *[1] * (ranks[record] - 1 - code.axis % ranks[record]))
            site = _Site(f"{PREFIX}.{len(nodes)}", code, shape)
            sites.setdefault(group, []).append(site)
            nodes += _arithmetic(site, sources[node.input[0]], node.output[0])
            for name, value in (("step", EXACT_STEP), ("low", -np.inf), ("high", np.inf)):
                name = f"{site.name}.{name}"
                proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
                proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto, sites


def _marked(run: RunData) -> tuple[RunData, dict[float, tuple[str, str, Encoding]]]:
    """The run with the numbers of its groups of activations as their scales, and of each number what it stands for."""
    found: dict[float, tuple[str, str, Encoding]] = {}
    marks: dict[str, float] = {}
    records = []
    for one in run.tqcs:
        code = encoding_of(one)
        if one.role == "activation" and one.group is not None and code is not None:
            mark = marks.setdefault(one.group, float(len(marks) + 1))
            found.setdefault(mark, (one.group, one.tensor, code))
            count = len(code.scale)
            one = replace(one, scale=(mark,) * count, offset=(code.quant_min,) * count)
        records.append(one)
    return replace(run, tqcs=tuple(records)), found


def _arithmetic(site: _Site, source: str, output: str) -> list[NodeProto]:
    """What the pair of a site computes."""
    steps, whole, raised, cut = (f"{site.name}/{part}" for part in ("steps", "whole", "raised", "cut"))
    step, low, high = (f"{site.name}.{part}" for part in ("step", "low", "high"))
    clip = [helper.make_node("Clip", [whole, low, high], [cut])]  # the faster one, which knows no channels
    if site.shape:
        clip = [helper.make_node("Max", [whole, low], [raised]), helper.make_node("Min", [raised, high], [cut])]
    return [
        helper.make_node("Div", [source, step], [steps]),
        helper.make_node("Round", [steps], [whole]),
        *clip,
        helper.make_node("Mul", [cut, step], [output]),
    ]
