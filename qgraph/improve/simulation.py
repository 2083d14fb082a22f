"""A quantized model in float, in which the parameters of every group of activations can be set at each run.

Each pair of QuantizeLinear and DequantizeLinear on an activation goes into a branch, and whether it is taken, with
which scale and zero point, become inputs of the model, whose own values quantize nothing::

    T ──▶ Q ──▶ DQ ──▶            T ──▶ If active:  Q ──▶ DQ    ──▶
                                        else:       Identity

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

from qgraph.calib.runners.op_libraries import register
from qgraph.calib.side_by_side import side_by_side
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


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a group's parameters are applied.

    Attributes:
        name: what the names of its inputs begin with.
        shape: in which scales and zero points are fed.
    """

    name: str
    encoding: Encoding
    shape: tuple[int, ...]

    def feed(self, parameters: GroupParameters) -> dict[str, NDArray[np.generic]]:
        """The inputs that quantize with these parameters."""
        scale = np.asarray(parameters.scale, np.float32).reshape(self.shape)
        return self._named(scale, np.asarray(parameters.offset), active=True)

    def idle(self) -> dict[str, NDArray[np.generic]]:
        """The inputs that quantize nothing."""
        return self._named(np.ones(self.shape, np.float32), np.zeros(self.shape), active=False)

    def _named(
        self, scale: NDArray[np.generic], zero: NDArray[np.generic], *, active: bool
    ) -> dict[str, NDArray[np.generic]]:
        whole = zero.astype(self.encoding.dtype).reshape(self.shape)
        values: dict[str, NDArray[np.generic]] = {"active": np.asarray(active), "scale": scale, "zero": whole}
        return {f"{self.name}.{key}": value for key, value in values.items()}


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
        options.intra_op_num_threads = 1
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
        made = side_by_side(lambda number: self._session.run(None, {**self._samples[number], **fed}), numbers)
        return noise_of([self._expected[number] for number in numbers], made)


def _simulated(model: ImportedModel, run: RunData) -> tuple[ModelProto, dict[str, list[_Site]]]:
    """The quantized model with its pairs on activations replaced, and where, by group."""
    marked, groups = _marked(run)
    proto = to_qdq(model.proto, marked, {}, model.folder)
    own = {node.name for node in model.proto.graph.node}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    chains: dict[str, list[NodeProto]] = {}  # what makes the integers of a tensor, by their name
    sites: dict[str, list[_Site]] = {}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if node.name in own or node.op_type not in ("QuantizeLinear", "Clip", "DequantizeLinear"):
            nodes.append(node)
        elif node.op_type != "DequantizeLinear":
            chains[node.output[0]] = [*chains.get(node.input[0], []), node]
        elif node.input[0] not in chains:
            nodes.append(node)  # a constant
        else:
            scale = constants[node.input[1]]
            group, code = groups[float(np.ravel(numpy_helper.to_array(scale))[0])]
            site = _Site(f"{PREFIX}.{len(nodes)}", code, tuple(scale.dims))
            sites.setdefault(group, []).append(site)
            nodes.append(_choice(site, [*chains[node.input[0]], node]))
            for name, value in site.idle().items():
                dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
                proto.graph.input.append(helper.make_tensor_value_info(name, dtype, value.shape))
                proto.graph.initializer.append(numpy_helper.from_array(value, name))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto, sites


def _marked(run: RunData) -> tuple[RunData, dict[float, tuple[str, Encoding]]]:
    """The run with the numbers of its groups of activations as their scales, and of each number what it stands for."""
    found: dict[float, tuple[str, Encoding]] = {}
    marks: dict[str, float] = {}
    records = []
    for one in run.tqcs:
        code = encoding_of(one)
        if one.role == "activation" and one.group is not None and code is not None:
            mark = marks.setdefault(one.group, float(len(marks) + 1))
            found.setdefault(mark, (one.group, code))
            count = len(code.scale)
            one = replace(one, scale=(mark,) * count, offset=(code.quant_min,) * count)
        records.append(one)
    return replace(run, tqcs=tuple(records)), found


def _choice(site: _Site, pair: Sequence[NodeProto]) -> NodeProto:
    """The nodes of a pair as an op that runs them with the site's parameters, or passes its input on."""
    source, output = pair[0].input[0], pair[-1].output[0]
    inside, outside = f"{site.name}/quantized", f"{site.name}/float"
    copies = []
    for node in pair:
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.op_type != "Clip":
            copy.input[1:] = [f"{site.name}.scale", f"{site.name}.zero"]
        copies.append(copy)
    copies[-1].output[0] = inside
    branches = {}
    for key, name, body in (
        ("then_branch", inside, copies),
        ("else_branch", outside, [helper.make_node("Identity", [source], [outside])]),
    ):
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        branches[key] = helper.make_graph(body, f"{site.name}.{key}", [], [made])
    return helper.make_node("If", [f"{site.name}.active"], [output], **branches)
