"""A torch module as an ONNX file: what `qgraph.passes.entry.quantize_torch_model` starts from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from qgraph.errors import UsageError
from qgraph.ir.torch_import import import_torch
from qgraph.ir.torch_inputs import BATCH

TorchModel = torch.nn.Module


def export_module(
    model: TorchModel, place: Path, input_shape: Sequence[int] | None, input_dtype: object, inputs: object
) -> Path:
    """Export a module in evaluation mode; the first axis of every input may have any size, if it can.

    Args:
        place: a folder, in which the file is named after the model's fingerprint; or the file itself.

    Returns:
        Where the file is; it appears there when it is complete.

    Raises:
        UsageError: no module, or neither shape nor example inputs.
        ModelError: the module cannot be exported; with the exporter's reason and the place.
    """
    if not isinstance(model, torch.nn.Module):
        raise UsageError("not a torch module", type(model).__name__, "pass a torch.nn.Module")
    example = _example(input_shape, input_dtype, inputs)
    folder = place if place.is_dir() else place.parent
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            exported = import_torch(model, Path(work), example_inputs=example, dynamic_shapes=BATCH)
            return _keep(exported.imported.path, place, exported.imported.structure.fingerprint)
    finally:
        for module, training in modes:
            module.training = training


def _example(shape: Sequence[int] | None, dtype: object, inputs: object) -> object:
    if inputs is not None:
        return inputs
    if shape is None:
        raise UsageError("neither input_shape nor inputs", "the module's input", "pass one of them")
    kind = torch.float32 if dtype is None else dtype
    if not isinstance(kind, torch.dtype):
        raise UsageError("input_dtype must be torch's", repr(kind)[:60], "pass such as torch.float32")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise UsageError("input_shape is no shape", repr(shape)[:60], "pass such as [1, 3, 224, 224]")
    return torch.zeros(tuple(shape), dtype=kind)


def _keep(written: Path, place: Path, fingerprint: str) -> Path:
    """Move what was written to its place: a file, or a folder where weights of 2 GB and more lie beside it."""
    name = f"{written.stem}.{fingerprint[:16]}"
    if len(list(written.parent.iterdir())) == 1:
        return written.replace(place / f"{name}.onnx" if place.is_dir() else place)
    kept = place / name if place.is_dir() else place.with_suffix("")
    shutil.copytree(written.parent, kept, dirs_exist_ok=True)
    return kept / written.name
