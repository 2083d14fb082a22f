"""Torch modules become the IR, under the names of the user's code."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qgraph.errors import ModelError, UsageError
from qgraph.ir.torch_import import import_torch


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(Block(), Block())

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.features(image)
        return y.mean((2, 3))


class Several(nn.Module):
    def forward(self, x: Tensor, more: dict[str, Tensor], scale: Tensor) -> Tensor:
        return (x + more["a"] * more["b"]) * scale


def test_ops_are_named_after_the_modules_they_lie_in(tmp_path: Path) -> None:
    structure = import_torch(Network().eval(), tmp_path, input_shapes=[1, 3, 8, 8]).imported.structure
    assert [op.name for op in structure.ops] == [
        "features.0.conv.0",
        "features.0.conv.2",
        "features.0/Add",
        "features.1.conv.0",
        "features.1.conv.2",
        "features.1/Add",
        "ReduceMean",
    ]


def test_a_folded_batchnorm_leads_to_its_conv(tmp_path: Path) -> None:
    structure = import_torch(Network().eval(), tmp_path, input_shapes=[1, 3, 8, 8]).imported.structure
    assert structure.ops[0].name == "features.0.conv.0"
    assert structure.ops[0].origins == ("features.0.conv.1",)


def test_tensors_have_the_names_of_the_programs_nodes(tmp_path: Path) -> None:
    model = import_torch(Network().eval(), tmp_path, input_shapes=[1, 3, 8, 8])
    nodes = {node.name for node in model.program.graph.nodes}
    assert {name for op in model.imported.structure.ops for name in op.outputs} <= nodes


def test_the_same_module_has_the_same_fingerprint(tmp_path: Path) -> None:
    module = Network().eval()
    found = [import_torch(module, tmp_path, input_shapes=[1, 3, 8, 8]).imported.structure for _ in range(2)]
    assert found[0].fingerprint == found[1].fingerprint
    with torch.no_grad():
        next(module.parameters()).add_(1)
    changed = import_torch(module, tmp_path, input_shapes=[1, 3, 8, 8])
    assert changed.imported.structure.fingerprint != found[0].fingerprint


def test_the_file_holds_nothing_of_the_users_machine(tmp_path: Path) -> None:
    model = import_torch(Network().eval(), tmp_path, input_shapes=[1, 3, 8, 8])
    content = model.imported.path.read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"def forward" not in content


def test_a_dynamic_batch(tmp_path: Path) -> None:
    model = import_torch(Network().eval(), tmp_path, input_shapes=[1, 3, 8, 8], dynamic_shapes="batch")
    (image,) = (tensor for tensor in model.imported.structure.tensors if tensor.name == "image")
    assert image.shape is not None
    assert isinstance(image.shape[0], str)
    assert image.shape[1:] == (3, 8, 8)


def test_items_in_the_modules_own_form_come_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    a, b, x, scale = (torch.full((2, 3), float(i)) for i in range(4))
    model = import_torch(Several().eval(), tmp_path, example_inputs=(x, {"a": a, "b": b}, scale))
    by_name = {"x": x, "more_a": a, "more_b": b, "scale": scale}
    assert model.imported.structure.inputs == tuple(by_name)
    for item in ((x, {"b": b, "a": a}, scale), [x, {"a": a, "b": b}, scale], by_name):
        flat = model.flatten(item)
        assert isinstance(flat, dict)
        assert all(flat[name] is tensor for name, tensor in by_name.items())


def data_dependent(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def shapes_do_not_fit(x: Tensor) -> Tensor:
    return x @ torch.zeros(7, 7)


def no_onnx_op(x: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvals(x)
    return values.real


@pytest.mark.parametrize("function", [data_dependent, shapes_do_not_fit, no_onnx_op])
def test_a_module_that_cannot_be_exported_names_reason_and_place(
    function: Callable[[Tensor], Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with pytest.raises(ModelError) as caught:
        import_torch(Failing().eval(), tmp_path, example_inputs=torch.zeros(2, 2))
    # Of a program's node torch remembers the line in forward(), not what is called from there.
    forward = Failing.forward.__code__.co_firstlineno + 1
    lines = [*range(function.__code__.co_firstlineno, function.__code__.co_firstlineno + 4), forward]
    assert any(f"{__file__}, line {line}:" in caught.value.which for line in lines), caught.value.which
    assert "Error" in caught.value.which or "GuardOnDataDependent" in caught.value.which
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Network(), {"input_shapes": [1, 3, 8, 8]}, "training mode"),
        (Network().eval(), {}, "needs an example"),
        (Network().eval(), {"input_shapes": "1x3"}, "not the shapes"),
        (Network().eval(), {"example_inputs": (torch.zeros(1), 0, 0, 0)}, "does not take these inputs"),
        (Network().eval(), {"input_shapes": [1], "example_inputs": torch.zeros(1)}, "both are given"),
        (Network().eval(), {"input_shapes": [1, 3, 8, 8], "dynamic_shapes": "all"}, "unknown dynamic_shapes"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(
    module: nn.Module, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        import_torch(module, tmp_path, **options)


def test_threads_that_export_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    def imported(number: int) -> list[str]:
        folder = tmp_path / str(number)
        folder.mkdir()
        found = import_torch(Network().eval(), folder, input_shapes=[1, 3, 8, 8])
        return [op.name for op in found.imported.structure.ops]

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(imported, range(3))
    assert first
    assert others == [first, first]
