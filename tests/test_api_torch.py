"""A torch module is calibrated, questioned, exported and verified as an ONNX file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mobilenet_v2 import load
from torch import Tensor, nn

import qgraph
from qgraph.errors import DataError, NotFoundError, UsageError

BATCH: dict[str, Any] = {"input_shapes": [1, 3, 224, 224], "dynamic_shapes": "batch"}


class Gate(nn.Module):
    def forward(self, x: Tensor, more: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(x) * more["gate"]


def test_mobilenet_v2_as_a_module_gives_the_groups_and_scales_of_its_file(
    mobilenet_v2: Path, imagenet_photos: Path, tmp_path: Path
) -> None:
    with np.load(imagenet_photos) as photos:
        samples = photos["input"][:3]
    with qgraph.open(tmp_path / "q.db") as db:
        module = db.calibrate(load(), [torch.from_numpy(samples)], **BATCH)
        file = db.calibrate(mobilenet_v2, {"input": samples})
        assert (module.samples, module.inferences) == (3, 3)
        for observer in ("minmax", "mse"):
            of_module = module.solve(target="tflite", observer=observer)
            of_file = file.solve(target="tflite", observer=observer)
            ours, theirs = of_module.scales()["tensors"], of_file.scales()["tensors"]
            theirs["x"], theirs["linear"] = theirs.pop("input"), theirs.pop("logits")
            single = {name for name, one in ours.items() if isinstance(one["scale"], float)}
            assert len(single) > 60
            for name in single & theirs.keys():
                assert ours[name]["scale"] == pytest.approx(theirs[name]["scale"], rel=2**-8), name
            named = {"input": "x", "logits": "linear"}
            groups, others = (run.groups()["groups"] for run in (of_module, of_file))
            assert sorted(sorted(one["tensors"]) for one in groups) == sorted(
                sorted(named.get(name, name) for name in one["tensors"]) for one in others
            )


def test_a_module_is_exported_and_verified_from_the_file_that_is_kept_beside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    data = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(module, data, input_shapes=[1, 3, 8, 8], dynamic_shapes="batch")
        again = db.calibrate(module, data, input_shapes=[1, 3, 8, 8], dynamic_shapes="batch")
        run = calibration.solve(target="onnxruntime")
        run.export(tmp_path / "out.onnx")
        verified = run.verify(data)
    assert (again.id, again.status) == (calibration.id, "reused")
    assert all(output.snr_db > 20 for output in verified.outputs.values())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (kept,) = tmp_path.glob("q.Sequential-*.onnx")
    assert kept.stat().st_size > 0


def test_items_may_have_the_form_in_which_the_module_is_called(tmp_path: Path) -> None:
    items = [(torch.full((1, 4), float(i)), {"gate": torch.ones(1, 4)}) for i in range(3)]
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(Gate().eval(), items, example_inputs=items[0])
        assert calibration.samples == 3
        assert calibration.statistics()["x"].maximum == 2.0


def test_what_a_calibration_of_a_module_takes_is_foretold(tmp_path: Path) -> None:
    items = [(torch.full((1, 4), float(i)), {"gate": torch.ones(1, 4)}) for i in range(3)]
    with qgraph.open(tmp_path / "q.db") as db:
        told = db.forecast(Gate().eval(), items, example_inputs=items[0], steps=2)
        assert list(tmp_path.iterdir()) == []
        assert (told["samples"], told["inferences"], told["passes"]) == (2, 1, 1)
        calibration = db.calibrate(Gate().eval(), items, example_inputs=items[0], steps=2)
        assert told["tensors"]["collected"] == len(calibration.statistics())
        with pytest.raises(UsageError, match="training mode"):
            db.forecast(Gate(), items, example_inputs=items[0])
        with pytest.raises(UsageError, match="unknown device"):
            db.forecast(Gate().eval(), items, example_inputs=items[0], device="tpu")


def test_a_module_is_analyzed_without_data(tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as db:
        run = db.analyze(Gate().eval(), "tflite", example_inputs=(torch.zeros(1, 4), {"gate": torch.zeros(1, 4)}))
        assert {"x", "more_gate"} <= set(run.scales()["tensors"])


def test_a_modules_path_means_what_the_module_hands_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with qgraph.open(tmp_path / "q.db") as db:
        module = nn.Sequential(inner, nn.Sigmoid(), nn.Conv2d(3, 3, 1)).eval()
        run = db.analyze(module, "tflite", input_shapes=[1, 3, 4, 4])
        assert run.share("0")["tensor"] == run.share("0.2")["tensor"] == "conv2d_1"
        assert run.why("0.0", "0.1")["a"] == "0.0"
        kept = db.analyze(module, "tflite", input_shapes=[1, 3, 4, 4], overrides={"float": ["0"]})
        assert kept.share("conv2d_1")["group"] is not None or kept.share("conv2d_1")["reason"]
        assert run.scales() != kept.scales()
        with pytest.raises(NotFoundError):
            run.share("0.9")


def test_the_place_of_the_kept_file_can_be_chosen(tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as db:
        db.analyze(nn.Sequential(nn.ReLU()).eval(), "tflite", input_shapes=[1, 4], onnx_file=tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").is_file()


def test_what_only_a_module_takes_is_refused_for_a_file(tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as db, pytest.raises(UsageError, match="input_shapes"):
        db.analyze("model.onnx", "tflite", input_shapes=[1, 4])
    assert not (tmp_path / "q.db").exists()


def test_a_refused_module_leaves_nothing_behind(tmp_path: Path) -> None:
    with qgraph.open(tmp_path / "q.db") as db, pytest.raises(UsageError, match="eval"):
        db.calibrate(nn.Sequential(nn.ReLU()), [torch.zeros(1, 4)], input_shapes=[1, 4])
    assert list(tmp_path.iterdir()) == []


class Attention(nn.Module):
    """Attention of each position to those before it, as decoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(3 * x).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return hidden


def test_attention_with_a_causal_mask_keeps_its_accuracy_on_every_kind_of_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = [torch.randn(1, 10, 32) for _ in range(6)]
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(Attention().eval(), samples)
        for target in ("tflite", "onnxruntime", "tensorrt", "openvino", "qnn"):
            (output,) = calibration.solve(target=target).verify(samples).outputs.values()
            assert output.snr_db > 20, target


def test_a_module_needs_no_example_where_the_data_can_be_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    images = torch.randn(6, 3, 8, 8)
    labelled = torch.utils.data.TensorDataset(images, torch.zeros(6))
    loader = torch.utils.data.DataLoader(labelled, batch_size=4)
    with qgraph.open(tmp_path / "q.db") as db:
        first = db.calibrate(module, loader, collate_fn=lambda item: item[0], dynamic_shapes="batch")
        given = db.calibrate(module, images, example_inputs=images[:1], dynamic_shapes="batch")
        assert (first.samples, given.id) == (6, first.id)
        assert db.calibrate(module, images.numpy()).samples == 6
        assert db.calibrate(module, {"input": images}).samples == 6
        assert db.forecast(module, [images[:1]])["samples"] == 1
        with pytest.raises(UsageError, match=r"does not take these inputs.*collate_fn= turns an item"):
            db.calibrate(module, loader)
        with pytest.raises(UsageError, match=r"needs an example.*or data that can be read again"):
            db.calibrate(module, iter(loader))


def test_nested_items_are_verified_as_they_are_calibrated(tmp_path: Path) -> None:
    items = [{"x": torch.randn(1, 4), "more": {"gate": torch.randn(1, 4)}} for _ in range(3)]
    with qgraph.open(tmp_path / "q.db") as db:
        run = db.calibrate(Gate().eval(), items).solve(target="onnxruntime")
        assert run.verify(items).samples == 3


class Nested(nn.Module):
    """Takes a tensor, a tuple with a list in it, and a dict with a dict in it; each leaf counts differently."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, pair: Any, options: Any) -> Any:
        return self.linear(x - 2 * pair[0] + 4 * pair[1][0] - 8 * options["a"] + 16 * options["in"]["b"])


def test_tuples_and_dicts_in_an_item_are_verified_whatever_the_order_of_their_keys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    leaves = [[torch.randn(1, 4) for _ in range(5)] for _ in range(3)]
    tuples = [(x, (p, [q]), {"a": a, "in": {"b": b}}) for x, p, q, a, b in leaves]
    swapped = [(x, [p, (q,)], {"in": {"b": b}, "a": a}) for x, p, q, a, b in leaves]
    dicts = [dict(zip(("options", "pair", "x"), reversed(item), strict=True)) for item in tuples]
    with qgraph.open(tmp_path / "q.db") as db:
        run = db.calibrate(Nested().eval(), tuples).solve(target="onnxruntime")
        found = [run.verify(items).outputs for items in (tuples, swapped, dicts)]
        assert found[0] == found[1] == found[2]
        with pytest.raises(DataError, match="an item of 2 arrays for 5 inputs"):
            run.verify([item[:2] for item in tuples])


def test_data_of_another_type_than_the_modules_is_told_with_the_types(tmp_path: Path) -> None:
    module = nn.Linear(4, 2).eval().half()
    with (
        qgraph.open(tmp_path / "q.db") as db,
        pytest.raises(DataError, match=r"input float32\[1, 4\].*; check its shapes and types") as refused,
    ):
        db.calibrate(module, [torch.rand(3, 4)], dynamic_shapes="batch")
    assert "\n" not in str(refused.value)
