"""A torch module, exported once for all that is asked of it: where `quantize_torch_model` begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from torch.export import ExportedProgram

from qgraph.api import Database
from qgraph.errors import ModelError, UsageError
from qgraph.ir.torch_inputs import BATCH
from qgraph.jobs.devices import check_device
from qgraph.jobs.sources import TorchSource, is_torch, kept, torch_source

TorchModel = torch.nn.Module | ExportedProgram


def exported_module(
    model: TorchModel,
    database: Database,
    onnx_file: Path | None,
    input_shape: Sequence[int] | None,
    input_dtype: object,
    inputs: object,
) -> TorchSource:
    """Export a module in evaluation mode; the first axis of every input may have any size, unless its code fixes it.

    Args:
        model: an exported program has its inputs already, and takes none here.
        database: beside which the ONNX file is kept, unless `onnx_file` names a place; opened after the export.

    Returns:
        The module with its ONNX file where it stays; it appears there when it is complete.

    Raises:
        UsageError: neither shape nor example inputs.
        ModelError: the module cannot be exported; with the exporter's reason and the place.
        StoreError: the file cannot be kept.
    """
    if isinstance(model, ExportedProgram):
        example = input_shape if inputs is None else inputs
        return _kept(model, database, onnx_file, example, None)
    example = _example(input_shape, input_dtype, inputs)
    with _evaluating(model):
        try:
            return _kept(model, database, onnx_file, example, BATCH)
        except ModelError:
            return _kept(model, database, onnx_file, example, None)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, as in PPQ; afterwards each part of the module is in the mode that it was in."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _kept(
    model: TorchModel, database: Database, onnx_file: Path | None, example: object, dynamic_shapes: str | None
) -> TorchSource:
    with torch_source(
        model, example_inputs=example, input_shapes=None, dynamic_shapes=dynamic_shapes, onnx_file=onnx_file
    ) as source:
        place = kept(source, source.model.imported, database.store()).path
    return TorchSource(source.model.moved(place), place)


def device_of(model: TorchModel, device: object) -> str:
    """Where a module is to be run: the device that the caller names, else that of its first parameter or buffer.

    Raises:
        UsageError: no module, or no such device.
    """
    if not is_torch(model):
        raise UsageError("not a torch module", type(model).__name__, "pass a torch.nn.Module or an exported program")
    if device is None:
        device = next((one.device for one in chain(model.parameters(), model.buffers())), "cpu")
    check_device(str(device))
    return str(device)


def _example(shape: Sequence[int] | None, dtype: object, inputs: object) -> object:
    if inputs is not None:
        return inputs
    if shape is None:
        raise UsageError("neither input_shape nor inputs", "the module's input", "pass one of them")
    kind = torch.float32 if dtype is None else dtype
    if not isinstance(kind, torch.dtype):
        raise UsageError("input_dtype must be torch's", repr(kind)[:60], "pass such as torch.float32")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise UsageError("input_shape is no shape", repr(shape)[:60], "pass such as [1, 3, 224, 224], or inputs=")
    return torch.zeros(tuple(shape), dtype=kind)
