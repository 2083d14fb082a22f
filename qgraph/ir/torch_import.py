"""From a torch module to the same IR as from an ONNX file, through `torch.export` and torch's ONNX exporter.

::

    nn.Module ─torch.export─▶ ExportedProgram ─torch.onnx─▶ ONNX ─load_model─▶ Structure
                                    │                                              │
                                    └── interpreted on any device ◀─ tensors by name ┘

Tensors keep the exporter's names, which are those of the program's nodes; ops are named after the module that they
lie in (see `qgraph.ir.torch_names`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from qgraph.errors import UsageError
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.ir.torch_errors import reported
from qgraph.ir.torch_inputs import Call, example_call, shapes_for
from qgraph.ir.torch_names import name_ops

LARGEST_FILE = (1 << 31) - (1 << 20)
"""Bytes of weights that go into the ONNX file itself; more lie beside it."""


@dataclass(frozen=True)
class TorchModel:
    """A torch module as it is analysed, calibrated and exported.

    Attributes:
        imported: its ONNX model in a folder of the caller's.
        program: what was exported, on the module's own device; its float nodes have the names of the ONNX tensors.
        name: the module's class.
    """

    imported: ImportedModel
    program: ExportedProgram
    name: str

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """Names of the inputs in the order in which a call is flattened; None for what is no tensor."""
        specs = (spec for spec in self.program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT)
        return tuple(spec.arg.name if isinstance(spec.arg, TensorArgument) else None for spec in specs)

    def flatten(self, item: object) -> object:
        """Arrays by input name from whatever the module itself would be called with; anything else stays as it is.

        An item is the only argument, a tuple of the arguments, or a dict by their names; each of them may be nested.
        """
        names = {name for name in self.inputs if name is not None}
        if isinstance(item, Mapping) and names == set(map(str, item)):
            return item
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((item,), {})]
        if isinstance(item, Mapping):
            calls.append(((), dict(item)))
        if isinstance(item, tuple | list):
            calls.insert(0, (tuple(item), {}))
        for call in calls:
            found = self._leaves(call)
            if found is not None:
                return found
        return item

    def _leaves(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any] | None:
        spec = self.program.call_spec.in_spec
        if spec is None:
            return None
        try:
            leaves = spec.flatten_up_to(call)
        except (ValueError, TypeError, KeyError):
            return None
        named = {name: leaf for name, leaf in zip(self.inputs, leaves, strict=True) if name is not None}
        return named if all(hasattr(leaf, "shape") for leaf in named.values()) else None

    def moved(self, path: Path) -> TorchModel:
        """The same model, its ONNX file being elsewhere now."""
        return replace(self, imported=replace(self.imported, path=path))


def import_torch(
    model: torch.nn.Module | ExportedProgram,
    folder: Path,
    *,
    example_inputs: object = None,
    input_shapes: object = None,
    dynamic_shapes: Any = None,
) -> TorchModel:
    """Export a module, write its ONNX file into a folder, and import that.

    Args:
        model: in evaluation mode, or what `torch.export.export` made of it.
        folder: an existing folder of the caller's; one file, with weights of 2 GB or more a second one.
        example_inputs: what the module is called with: a tensor, a tuple of arguments, or a dict of arguments by name.
            Only shapes and types count, unless the module looks at values. Not for an exported program.
        input_shapes: instead, a shape, or shapes by argument or as a list, of float inputs.
        dynamic_shapes: as for `torch.export.export`; ``"batch"`` makes the first axis of every input dynamic; None
            keeps the shapes of the example.

    Raises:
        UsageError: the module is in training mode, or there is no example.
        ModelError: the module cannot be exported; the place is in the user's code where torch tells it.
    """
    program = model if isinstance(model, ExportedProgram) else None
    if isinstance(model, ExportedProgram):
        if example_inputs is not None or input_shapes is not None or dynamic_shapes is not None:
            raise UsageError("an exported program has its inputs already", "example_inputs", "leave them out")
        name = "ExportedProgram"
    else:
        name = type(model).__name__
        _check_mode(model, name)
        call = example_call(model, example_inputs, input_shapes)
        program = _export(model, name, call, dynamic_shapes)
    assert program is not None
    exported = _to_onnx(program, name)
    path = folder / f"{name}.onnx"
    large = sum(tensor.nbytes for tensor in _weights(program)) > LARGEST_FILE
    with reported(name, "torch cannot write the module as ONNX", program):
        folded = name_ops(exported.model)
        exported.save(path, external_data=large)
    assert exported.exported_program is not None
    return TorchModel(_traced(load_model(path), folded), exported.exported_program, name)


def _traced(imported: ImportedModel, folded: Mapping[str, str]) -> ImportedModel:
    """The model with what torch's exporter folded among the origins of its ops."""
    ops = (
        replace(op, origins=tuple(sorted({*op.origins, folded[op.name]}))) if op.name in folded else op
        for op in imported.structure.ops
    )
    return replace(imported, structure=replace(imported.structure, ops=tuple(ops)))


def _check_mode(model: torch.nn.Module, name: str) -> None:
    """Refuse a module that would drop out or learn: its statistics would say nothing of the deployed one."""
    training = next((path for path, module in model.named_modules() if module.training), None)
    if training is not None:
        raise UsageError("the module is in training mode", training or name, "call its eval() first")


def _export(model: torch.nn.Module, name: str, call: Call, dynamic_shapes: Any) -> ExportedProgram:
    call, shapes = shapes_for(model, call, dynamic_shapes)
    with reported(name, "torch cannot export the module"), torch.no_grad():
        return torch.export.export(model, call.args, call.kwargs, dynamic_shapes=shapes)


def _to_onnx(program: ExportedProgram, name: str) -> torch.onnx.ONNXProgram:
    with reported(name, "torch cannot write the module as ONNX", program):
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    return exported


def _weights(program: ExportedProgram) -> Iterator[torch.Tensor]:
    values = [*program.state_dict.values(), *program.constants.values()]
    seen: set[int] = set()
    for value in values:
        if isinstance(value, torch.Tensor) and id(value) not in seen:
            seen.add(id(value))
            yield value
