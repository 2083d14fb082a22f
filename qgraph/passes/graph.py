"""The graph that passes work on: operations with live configs, and the run that they amount to.

    graph.operations["conv1"].config.output_quantization_config[0].scale
    graph.run.export("model.qdq.onnx")

A config belongs to a slot. What is written to one by hand stays, unless a pass is told to override it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType

from qgraph.constraints.model import Constraints, Grouping
from qgraph.errors import UsageError
from qgraph.ir.slots import input_slot, output_slot
from qgraph.passes.hands import Hand, Signature, noticed, signatures
from qgraph.passes.linking import read_groups
from qgraph.passes.operation import Operation, OperationQuantizationConfig, Variable
from qgraph.passes.solving import Solving, run_data
from qgraph.passes.stage import Stage, constraints_at, with_hands
from qgraph.passes.workplace import Workplace
from qgraph.run import Run
from qgraph.solve.run import RunData
from qgraph.store import runs
from qgraph.tqc import QuantizationState, TensorQuantizationConfig, copy_configs, to_float32


class QuantizedGraph:
    """A model on a platform with one live config per slot.

    Attributes:
        configs: by slot, of every float tensor's places, those of graph inputs and outputs included.
        stage: which passes were run.
        calibration: id of the statistics in use, ``c1``; None before any data.
        hands: what was done to configs by hand, as far as a pass has noticed it.
    """

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self.stage = Stage()
        self.calibration: str | None = None
        self.hands: dict[str, Hand] = {}
        constraints = constraints_at(self.stage, workplace.connections, workplace.pack)
        scheme = workplace.pack.activation
        self.configs = {
            slot: TensorQuantizationConfig(
                slot,
                plan.scheme or scheme,
                QuantizationState.FP32 if plan.scheme is None else QuantizationState.INITIAL,
            )
            for slot, plan in constraints.slots.items()
        }
        for one in constraints.fixed:
            parameters = (to_float32(one.scale),), (one.offset,)
            self.configs[one.slot].activate(*parameters, QuantizationState.FIXED)
        self._quantized = frozenset(slot for slot, plan in constraints.slots.items() if plan.scheme is not None)
        self._constraints: tuple[Stage, Constraints] = self.stage, constraints
        self._left: dict[str, Signature] = signatures(self.configs)
        self._saved: tuple[object, Run] | None = None

    def __repr__(self) -> str:
        states = Counter(config.state.name for config in self.configs.values())
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return f"<QuantizedGraph on {self.workplace.pack.name}: {told}>"

    @cached_property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by name, in topological order."""
        return MappingProxyType(
            {
                op.name: Operation(
                    op.name,
                    op.type,
                    self._config_of(op.name, op.inputs, op.outputs),
                    op.inputs,
                    op.outputs,
                    op.attributes,
                )
                for op in self.workplace.structure.ops
            }
        )

    def _config_of(
        self, op: str, inputs: tuple[str | None, ...], outputs: tuple[str | None, ...]
    ) -> OperationQuantizationConfig:
        reads = [input_slot(op, index) for index in range(len(inputs))]
        makes = [output_slot(op, index) for index in range(len(outputs))]
        if self._quantized.isdisjoint((*reads, *makes)):
            return OperationQuantizationConfig()
        return OperationQuantizationConfig(*([self._config_at(slot) for slot in slots] for slots in (reads, makes)))

    def _config_at(self, slot: str) -> TensorQuantizationConfig:
        """The config of a slot; of one that is no float tensor, a config that stays FP32."""
        if slot not in self.configs:
            return TensorQuantizationConfig(slot, self.workplace.pack.activation, QuantizationState.FP32)
        return self.configs[slot]

    @cached_property
    def variables(self) -> Mapping[str, Variable]:
        """The tensors of the model by name."""
        makers = {name: op.name for op in self.workplace.structure.ops for name in op.outputs if name is not None}
        readers: dict[str, set[str]] = {}
        for op in self.workplace.structure.ops:
            for name in op.inputs:
                if name is not None:
                    readers.setdefault(name, set()).add(op.name)
        return MappingProxyType(
            {
                one.name: Variable(
                    one.name,
                    one.dtype,
                    one.shape,
                    one.constant,
                    makers.get(one.name),
                    tuple(sorted(readers.get(one.name, ()))),
                )
                for one in self.workplace.structure.tensors
            }
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the variables that the data provides."""
        return self.workplace.structure.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the variables that the model returns."""
        return self.workplace.structure.outputs

    @property
    def platform(self) -> str:
        """Name of the platform's rule pack."""
        return self.workplace.pack.name

    def copy(self) -> QuantizedGraph:
        """A graph with configs of its own; links between them stay inside the copy. Statistics are shared."""
        copy = object.__new__(QuantizedGraph)
        copy.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in _CACHED}
        self.notice()
        copy.configs, copy.hands = copy_configs(self.configs), dict(self.hands)
        copy.remember()
        return copy

    def constraints(self) -> Constraints:
        """What the platform says at this stage, and what the user did by hand."""
        if self._constraints[0] != self.stage:
            self._constraints = self.stage, constraints_at(self.stage, self.workplace.connections, self.workplace.pack)
        return with_hands(self._constraints[1], self.configs, self.hands)

    def grouping(self) -> Grouping:
        """The groups that the links make now."""
        return read_groups(self.configs, self.constraints(), linked=self.stage.fused or self.stage.aligned)

    def notice(self) -> None:
        """Look for what the user has changed since the last pass."""
        self.hands = noticed(self.configs, self._left, self.hands)
        self.remember()

    def remember(self) -> None:
        """Take the configs as they are now for what the last pass left."""
        self._left = signatures(self.configs)

    def collect(
        self, dataloader: object, steps: int | None, collate_fn: Callable[..., object] | None, *, needed_by: str
    ) -> None:
        """Have statistics of the data; without data, those that there are.

        Raises:
            UsageError: there are none.
        """
        if dataloader is not None:
            self.calibration = self.workplace.calibrate(dataloader, steps, collate_fn)
        elif self.calibration is None:
            raise UsageError("no calibration data", needed_by, "pass dataloader=")

    @property
    def solving(self) -> Solving:
        """What solving starts from now."""
        return Solving(self.workplace, self.constraints(), self.calibration)

    def data(self) -> RunData:
        """The run that the configs amount to, as frozen plain data."""
        self.notice()
        return run_data(self.solving, self.stage, self.configs, self.grouping(), self.hands)

    @property
    def run(self) -> Run:
        """The run in the database that the configs amount to; stored when it is asked for, once for equal configs."""
        self.notice()
        state = (self.stage, self.calibration, signatures(self.configs))
        if self._saved is None or self._saved[0] != state:
            data, model = self.data(), self.workplace.model()
            with self.workplace.database.store().transaction() as connection:
                reference = runs.save_run(connection, model, self.calibration, data)
            self._saved = state, Run(self.workplace.database, reference)
        return self._saved[1]


_CACHED = ("operations", "variables", "configs", "hands", "_left")
"""What a copy has of its own."""
