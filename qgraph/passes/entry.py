"""The seed's two entry points: a model goes in, a graph with live configs comes out.

graph = quantize_onnx_model(
    onnx_import_file="model.onnx", calib_dataloader=loader, calib_steps=8, input_shape=[1, 3, 224, 224],
    platform=TargetPlatform.PPL_CUDA_INT8,
)
graph.run.export("model.qdq.onnx")
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from qgraph import arguments
from qgraph.api import Database
from qgraph.constraints.pack import load_pack
from qgraph.errors import UsageError
from qgraph.ir.elements import Tensor
from qgraph.ir.onnx_import import load_model
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.passes import (
    ParameterQuantizePass,
    PassiveParameterQuantizePass,
    QuantAlignmentPass,
    QuantizeFusionPass,
    RuntimeCalibrationPass,
)
from qgraph.passes.platforms import TargetPlatform
from qgraph.passes.settings import QuantizationSetting, QuantizationSettingFactory
from qgraph.passes.torch_model import TorchModel, device_of, exported_module
from qgraph.passes.workplace import Workplace
from qgraph.store.database import sqlite_file

Collate = Callable[[Any], object]


def quantize_onnx_model(
    onnx_import_file: str | Path | onnx.ModelProto,
    calib_dataloader: object,
    calib_steps: int | None,
    input_shape: Sequence[int | str | None] | None = None,
    platform: TargetPlatform | str = TargetPlatform.PPL_CUDA_INT8,
    input_dtype: object = None,
    inputs: object = None,
    setting: QuantizationSetting | None = None,
    collate_fn: Collate | None = None,
    device: str = "cpu",
    verbose: int = 0,
    *,
    do_quantize: bool = True,
    db: Database | str | Path | None = None,
) -> QuantizedGraph:
    """Quantize an ONNX model for a platform.

    Args:
        onnx_import_file: its path, or the model itself.
        calib_dataloader: as for `qgraph.api.Database.calibrate`.
        calib_steps: batches; None for all. Fewer are used where there are no more.
        input_shape: of the model's one input; checked against the model. None takes the model's word.
        platform: a target, by name, or the path of a rule pack.
        input_dtype: of the model's inputs, as torch, numpy or ONNX name it; checked, too.
        inputs: example inputs, in place of `input_shape` where there are several: an array, a list, or a dict by name.
        setting: None for the platform's preset.
        collate_fn: turns what the loader yields into an array, tuple, list or dict.
        device: where observers compute, ``cpu`` or ``cuda``.
        verbose: 1 tells what is done, on standard error.
        do_quantize: False runs no pass: the graph is ready for passes by hand.
        db: where to remember, and to store the run at once; None for a temporary database, which lives as long as the
            graph and its run.

    Raises:
        QgraphError: a bad model, bad data, an unknown platform, a setting that cannot be.
    """
    target, place, chosen = _target(platform), _device(device), _chosen(setting, platform)
    database = _database(db)
    path = _path_of(onnx_import_file, database)
    return _quantize(
        Workplace(database, load_model(path), path, target, device=place, verbose=bool(verbose)),
        calib_dataloader,
        calib_steps,
        (input_shape, input_dtype, inputs),
        chosen,
        collate_fn,
        do_quantize=do_quantize,
    )


def quantize_torch_model(
    model: TorchModel,
    calib_dataloader: object,
    calib_steps: int | None,
    input_shape: Sequence[int] | None = None,
    platform: TargetPlatform | str = TargetPlatform.PPL_CUDA_INT8,
    input_dtype: object = None,
    setting: QuantizationSetting | None = None,
    collate_fn: Collate | None = None,
    inputs: object = None,
    device: str | None = None,
    verbose: int = 0,
    *,
    do_quantize: bool = True,
    onnx_export_file: str | Path | None = None,
    db: Database | str | Path | None = None,
) -> QuantizedGraph:
    """Quantize a torch module for a platform; see `quantize_onnx_model` for the arguments that are not here.

    torch runs the module, as in `qgraph.api.Database.calibrate`, and a calibration of either is the other's.

    Args:
        model: the module, in evaluation mode; or an exported program, which has its inputs already.
        input_shape: of its one input; its first axis counts samples and may have any size afterwards, unless the
            module's code fixes it.
        input_dtype: of that input; None for float32.
        inputs: example inputs, in place of `input_shape`: a tensor, a tuple of them, or a dict by argument.
        device: where the module runs and observers compute, ``cpu`` or ``cuda``; None for where the module is.
        onnx_export_file: where the exported model is kept; None for beside the database.

    Raises:
        QgraphError: as `quantize_onnx_model`; and a module that cannot be exported.
    """
    target, place, chosen = _target(platform), device_of(model, device), _chosen(setting, platform)
    file = None if onnx_export_file is None else arguments.path("onnx_export_file", onnx_export_file)
    database = _database(db)
    source = exported_module(model, database, file, input_shape, input_dtype, inputs)
    return _quantize(
        Workplace(
            database, source.model.imported, source, target, {"device": place}, device=place, verbose=bool(verbose)
        ),
        calib_dataloader,
        calib_steps,
        (None, None, None),
        chosen,
        collate_fn,
        do_quantize=do_quantize,
    )


def _quantize(
    workplace: Workplace,
    dataloader: object,
    steps: int | None,
    told: tuple[Sequence[int | str | None] | None, object, object],
    setting: QuantizationSetting,
    collate_fn: Collate | None,
    *,
    do_quantize: bool,
) -> QuantizedGraph:
    _check_inputs(workplace, *told)
    graph = QuantizedGraph(workplace)
    if do_quantize:
        for one in passes_of(setting):
            one.optimize(graph, dataloader=dataloader, calib_steps=steps, collate_fn=collate_fn)
            workplace.report(f"{type(one).__name__} done")
        if not isinstance(workplace.database, _TemporaryDatabase):
            workplace.report(f"run {graph.run.id}")  # asking for it stores it
    return graph


Pass = (
    QuantizeFusionPass
    | ParameterQuantizePass
    | RuntimeCalibrationPass
    | QuantAlignmentPass
    | PassiveParameterQuantizePass
)


def passes_of(setting: QuantizationSetting) -> list[Pass]:
    """The passes that settings ask for, in the order in which they are run."""
    activation, parameter, sharing = (
        setting.quantize_activation_setting,
        setting.quantize_parameter_setting,
        setting.fusion_setting,
    )
    passes: list[Pass] = []
    if setting.fusion:
        passes.append(QuantizeFusionPass())
    if setting.quantize_parameter:
        passes.append(ParameterQuantizePass(parameter.calib_algorithm))
    if setting.quantize_activation:
        passes.append(RuntimeCalibrationPass(activation.calib_algorithm, parameters=activation.parameters))
    if setting.fusion:
        methods = dict(sharing.methods.items())
        passes.append(QuantAlignmentPass(**methods, force_overlap=sharing.force_alignment_overlap))
    if setting.quantize_parameter and setting.quantize_activation and parameter.quantize_passive_parameter:
        passes.append(PassiveParameterQuantizePass())
    return passes


# --- Where things are -------------------------------------------------------------------------------------------


class _TemporaryDatabase(Database):
    """A database in a folder that goes when nothing refers to it any more."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="qgraph-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(str(Path(folder) / "qgraph.db"), create=True)


def _database(db: Database | str | Path | None) -> Database:
    if db is None:
        return _TemporaryDatabase()
    if isinstance(db, Database):
        return db
    return Database(arguments.name_or_path("db", db, "name a file or a URL"), create=True)


def _beside(database: Database) -> Path:
    """The folder of a database; that of temporary files where it is no file."""
    file = sqlite_file(database.store())
    return Path(tempfile.gettempdir()) if file is None else file.parent


def _path_of(model: str | Path | onnx.ModelProto, database: Database) -> Path:
    """The model as a file; one that came from memory is kept beside the database, so that its runs can be exported."""
    if not isinstance(model, onnx.ModelProto):
        return arguments.path("onnx_import_file", model)
    folder = _beside(database)
    descriptor, name = tempfile.mkstemp(".onnx", f"{_stem(model.graph.name)}.", folder)
    os.close(descriptor)
    onnx.save(model, name)
    kept = Path(name)
    final = folder / f"{_stem(model.graph.name)}.{load_model(kept).structure.fingerprint[:16]}.onnx"
    return kept.replace(final)


def _stem(name: str) -> str:
    """A name as part of a file's name.

    >>> _stem("main graph/1"), _stem("")
    ('main_graph_1', 'model')
    """
    return "".join(one if one.isalnum() or one in "-_" else "_" for one in name)[:64] or "model"


# --- What the caller says of the model --------------------------------------------------------------------------


def _target(platform: TargetPlatform | str) -> str:
    """A target that there is."""
    target = str(arguments.text("platform", platform, "use one of TargetPlatform, or the path of a rule pack"))
    load_pack(target)
    return target


def _chosen(setting: object, platform: TargetPlatform | str) -> QuantizationSetting:
    """The settings, or the platform's; what cannot be is refused before anything is computed."""
    chosen = QuantizationSettingFactory.platform_setting(platform) if setting is None else setting
    if not isinstance(chosen, QuantizationSetting):
        cure = "make one with QuantizationSettingFactory.default_setting()"
        raise UsageError("setting must be a QuantizationSetting", type(chosen).__name__, cure)
    chosen.check()
    return chosen


def _device(device: object) -> str:
    if device not in ("cpu", "cuda"):
        raise UsageError("unknown device", repr(device)[:60], 'say "cpu" or "cuda"')
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("no CUDA device here", "cuda", 'say device="cpu"')
    return str(device)


def _check_inputs(
    workplace: Workplace, shape: Sequence[int | str | None] | None, dtype: object, inputs: object
) -> None:
    """Refuse a shape, a type or example inputs that the model does not have.

    Raises:
        UsageError: names the input.
    """
    tensors = {one.name: one for one in workplace.structure.tensors}
    specs = [tensors[name] for name in workplace.structure.inputs]
    if shape is not None and inputs is None:
        if len(specs) != 1:
            names = ", ".join(one.name for one in specs)
            raise UsageError("input_shape for a model of several inputs", names, "pass inputs= with one array each")
        _check_shape(specs[0], tuple(shape))
    if dtype is not None:
        for one in specs:
            if one.is_float and _dtype_name(dtype) != one.dtype:
                raise UsageError("input_dtype is not the model's", f"{one.name}: {one.dtype}", "leave it out")
    for one, array in _examples(specs, inputs):
        _check_shape(one, tuple(array.shape))


def _examples(specs: Sequence[Tensor], inputs: object) -> list[tuple[Tensor, Any]]:
    if inputs is None:
        return []
    if isinstance(inputs, Mapping):
        unknown = sorted(set(inputs) - {one.name for one in specs})
        if unknown:
            known = ", ".join(one.name for one in specs)
            raise UsageError("inputs for which the model has no input", ", ".join(map(str, unknown)), f"it has {known}")
        return [(one, inputs[one.name]) for one in specs if one.name in inputs]
    arrays = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if len(arrays) != len(specs):
        raise UsageError(f"{len(arrays)} inputs for a model of {len(specs)}", "inputs", "pass one array for each")
    return list(zip(specs, arrays, strict=True))


def _check_shape(spec: Tensor, shape: tuple[int | str | None, ...]) -> None:
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(has, int) or not isinstance(wanted, int) or has == wanted
        for has, wanted in zip(shape, spec.shape, strict=False)
    )
    if not fits:
        raise UsageError(
            "a shape that the model's input does not have", f"{spec.name}: {shape}", f"it has {spec.shape}"
        )


def _dtype_name(dtype: object) -> str:
    """``float32`` for torch's, numpy's or ONNX's name of it.

    >>> import numpy as np
    >>> _dtype_name(np.float32), _dtype_name("torch.float16"), _dtype_name("float")
    ('float32', 'float16', 'float32')
    """
    name = getattr(dtype, "__name__", None) or str(getattr(dtype, "name", dtype))
    name = name.rpartition(".")[2]
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)
