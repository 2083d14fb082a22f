"""What a job works on: an ONNX file, or a torch module that was exported to one in a temporary folder.

A module's ONNX file is kept once a job is sure to go on, so that export and verify find it later: beside the database,
with the model's fingerprint in its name, or wherever the user says. It appears at once or not at all.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from qgraph import arguments
from qgraph.calib.collect import Runner
from qgraph.calib.plan import CollectionPlan
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.errors import ExportError, StoreError, UsageError
from qgraph.formats.whole_file import whole_file
from qgraph.ir.onnx_import import ImportedModel, load_model
from qgraph.store.database import Database, sqlite_file

if TYPE_CHECKING:
    from qgraph.ir.torch_import import TorchModel

FINGERPRINT_DIGITS = 16
"""Of the fingerprint in a file's name."""


@dataclass(frozen=True)
class TorchSource:
    """An exported module.

    Attributes:
        model: in a folder that lives as long as the job.
        onnx_file: where its ONNX file is to be kept; None for beside the database.
    """

    model: TorchModel
    onnx_file: Path | None = None


Source = Path | TorchSource


class KnownRunner(Runner, Protocol):
    """A runner that tells what its results depend on."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the bits of an activation depend on besides model and data."""
        ...


def is_torch(model: object) -> bool:
    """Whether a caller's model is torch's; torch is not loaded for the answer."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(model, torch.nn.Module | torch.export.ExportedProgram)


@contextmanager
def torch_source(
    module: Any, *, example_inputs: object, input_shapes: object, dynamic_shapes: object, onnx_file: Path | None
) -> Iterator[TorchSource]:
    """Export a module into a temporary folder, for one job.

    Raises:
        QgraphError: as `qgraph.ir.torch_import.import_torch`.
    """
    # The runner is made in a thread, while a DataLoader may fork its workers: a module that is half imported at that
    # moment would stay locked in them. So it is imported here.
    import qgraph.calib.runners.torch_runner  # noqa: F401
    from qgraph.ir.torch_import import import_torch  # loads torch

    with TemporaryDirectory(prefix="qgraph-") as folder:
        model = import_torch(
            module,
            Path(folder),
            example_inputs=example_inputs,
            input_shapes=input_shapes,
            dynamic_shapes=dynamic_shapes,
        )
        yield TorchSource(model, onnx_file)


@contextmanager
def source_of(
    model: Any, example_inputs: object, input_shapes: object, dynamic_shapes: object, onnx_file: object
) -> Iterator[Source]:
    """What a job works on for a caller's model: a file, or a module that is exported for as long as the job runs.

    A module that a caller exported once for several jobs is taken as it is.

    Raises:
        UsageError: the model is neither, or a file comes with what only a module takes.
        QgraphError: as `torch_source`.
    """
    place = None if onnx_file is None else arguments.path("onnx_file", onnx_file)
    if is_torch(model):
        with torch_source(
            model,
            example_inputs=example_inputs,
            input_shapes=input_shapes,
            dynamic_shapes=dynamic_shapes,
            onnx_file=place,
        ) as source:
            yield source
        return
    if isinstance(model, TorchSource):
        yield model
        return
    names = ("example_inputs", "input_shapes", "dynamic_shapes", "onnx_file")
    given = (example_inputs, input_shapes, dynamic_shapes, onnx_file)
    for argument, value in zip(names, given, strict=True):
        if value is not None:
            raise UsageError("only a torch module takes it", argument, "leave it out for a file")
    yield arguments.path("model", model)


def example_for(model: Any, data: object, collate: Callable[[Any], object] | None, input_shapes: object) -> object:
    """What a module is exported with where no shapes are given: the first item of data that can be read again.

    Returns:
        The item as the module is called with it, one row of arrays that hold all samples; None for other models, for
        files and one-shot iterators, and for data without an item.
    """
    torch = sys.modules.get("torch")
    if input_shapes is not None or torch is None or not isinstance(model, torch.nn.Module):
        return None
    if hasattr(data, "__array__"):
        return _first_row(data)
    if isinstance(data, Mapping):
        return {name: _first_row(rows) for name, rows in data.items()}
    if isinstance(data, str | os.PathLike) or not isinstance(data, Iterable):
        return None
    items = iter(data)  # of a DataLoader it starts processes, so only once
    if items is data:
        return None
    item = next(items, None)
    return item if item is None or collate is None else collate(item)


def _first_row(rows: Any) -> object:
    return rows[:1] if getattr(rows, "ndim", 0) else rows


def imported(source: Source) -> ImportedModel:
    """The model of a source."""
    return load_model(source) if isinstance(source, Path) else source.model.imported


def fed(
    source: Source, data: object, collate: Callable[[Any], object] | None
) -> tuple[object, Callable[[Any], object] | None]:
    """Data and its `collate`, so that items come by the names of the inputs; a module takes them in its own form."""
    if isinstance(source, Path) or isinstance(data, str | os.PathLike) or hasattr(data, "__array__"):
        return data, collate
    flatten = source.model.flatten
    if isinstance(data, Mapping):
        return flatten(data), collate
    return data, flatten if collate is None else lambda item: flatten(collate(item))


def runner_for(
    source: Source, model: ImportedModel, plan: CollectionPlan, device: str, libraries: Sequence[Path] = ()
) -> KnownRunner:
    """What runs a source: onnxruntime, with these libraries of ops, for a file; torch for a module.

    Raises:
        UsageError: a library comes with a module.
        QgraphError: as the runners.
    """
    if isinstance(source, Path):
        return OnnxRunner(model.proto, plan.exposed, folder=model.folder, device=device, libraries=libraries)
    if libraries:
        raise UsageError("torch runs a module, with ops of its own", "op_library", "leave it out, or give an ONNX file")
    from qgraph.calib.runners.torch_runner import TorchRunner  # loads torch

    return TorchRunner(source.model, plan.exposed, device=device)


def kept(source: Source, model: ImportedModel, database: Database) -> ImportedModel:
    """The model under the path that the database remembers: a module's ONNX file is put there now.

    Raises:
        UsageError: the database is on a server, and no place was named.
        StoreError: the place cannot be written.
    """
    if isinstance(source, Path):
        return model
    place = source.onnx_file or _beside(database, source.model)
    if place == model.path:
        return model
    what, cure = "the exported model cannot be kept", "name another place with onnx_file= (onnx_export_file=)"
    try:
        place.parent.mkdir(exist_ok=True)
        for file, copy in (*((one, place.parent / one.name) for one in model.external_files), (model.path, place)):
            with whole_file(copy, "the exported model") as whole:
                shutil.copyfile(file, whole)
    except ExportError as error:
        raise StoreError(what, error.which, cure) from error
    except OSError as error:
        raise StoreError(what, f"{place} ({error.strerror})", cure) from error
    return source.model.moved(place).imported


def _beside(database: Database, model: TorchModel) -> Path:
    file = sqlite_file(database)
    if file is None:
        what, cure = (
            "a database server has no folder for the exported model",
            "name a place with onnx_file= (onnx_export_file=)",
        )
        raise UsageError(what, model.name, cure)
    imported = model.imported
    name = f"{file.stem}.{model.name}-{imported.structure.fingerprint[:FINGERPRINT_DIGITS]}"
    folder = file.resolve().parent
    # A file with weights beside it has a folder of its own: their name is written in it.
    return folder / name / imported.path.name if imported.external_files else folder / f"{name}.onnx"
