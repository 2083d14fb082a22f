"""Every development model on every target: imported, calibrated on real samples, solved, exported, run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import FATES, real_model
from development_models import MODELS

import qgraph
from qgraph.constraints.pack import pack_names
from qgraph.tqc import QuantizationState, TqcRecord

SAMPLES = 2

RUN_EVERYWHERE = ("tflite", "openvino")
"""Targets, per tensor and per channel, for which every model is exported and run; the others: the small models."""

SMALL = 3_000_000
"""Bytes of a model that is solved by search, exported and run for every target."""

SEARCHED = "tflite"
"""The target for which large models are solved by search, too. What becomes of a tensor does not depend on that."""

QUANTIZED = ("quantized", "shared", "fixed", "derived")
KINDS = (*QUANTIZED, "left float", "missing")


@pytest.fixture(scope="module", params=sorted(MODELS))
def calibrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, real: Path
) -> tuple[str, Path]:
    """A folder with a model, its samples, and a database in which it is calibrated."""
    model = MODELS[request.param]
    folder = tmp_path_factory.mktemp(model.name)
    shutil.copyfile(real_model(real, model.name), folder / "model.onnx")
    np.savez(folder / "data.npz", allow_pickle=False, **model.samples(SAMPLES, 0))
    with qgraph.open(folder / "qgraph.db") as database:
        done = database.calibrate(folder / "model.onnx", folder / "data.npz")
        assert (done.status, done.samples) == ("complete", SAMPLES)
    return model.name, folder


def fate(tqc: TqcRecord, sizes: Counter[str]) -> str:
    """What became of a tensor, judged by the config of its producer's slot."""
    unsolved = (QuantizationState.FP32, QuantizationState.INITIAL, QuantizationState.NEVER_RUN, QuantizationState.EMPTY)
    if tqc.state in unsolved:
        return "left float" if tqc.reason else "missing"
    if tqc.state == QuantizationState.FIXED:
        return "fixed"
    if tqc.state == QuantizationState.PASSIVE:
        return "derived"
    return "shared" if tqc.group is not None and sizes[tqc.group] > 1 else "quantized"


@pytest.mark.parametrize("target", pack_names())
def test_a_real_model_goes_all_the_way(
    calibrated: tuple[str, Path], target: str, record_property: Callable[[str, object], None]
) -> None:
    name, folder = calibrated
    with qgraph.open(folder / "qgraph.db", create=False) as database:
        small = (folder / "model.onnx").stat().st_size <= SMALL
        run = database.solve("c1", target=target, observer="mse" if small or target == SEARCHED else "minmax")
        data = run.data()
        sizes = Counter({group.id: len(group.tensors) for group in data.grouping.groups})
        tensors = run.scales()["tensors"]
        slots = {tqc.slot: tqc for tqc in data.tqcs}
        by_tensor = {tqc.tensor: tqc for slot, tqc in sorted(slots.items(), reverse=True) if ":in:" in slot}
        by_tensor |= {
            tqc.tensor: tqc for slot, tqc in slots.items() if ":out:" in slot and not slot.startswith("graph:")
        }
        by_tensor |= {tqc.tensor: tqc for slot, tqc in slots.items() if slot.startswith(("graph:in:", "graph:const:"))}
        counts = Counter(fate(by_tensor[tensor], sizes) for tensor in tensors)
        record_property(FATES, (name, target, {kind: counts[kind] for kind in KINDS}))
        assert counts["missing"] == 0
        assert sum(counts[kind] for kind in QUANTIZED) > 8
        if target not in RUN_EVERYWHERE and not small:
            return
        run.export(folder / f"{target}.onnx")
        verified = run.verify(folder / "data.npz", steps=1)
    session = onnxruntime.InferenceSession(folder / f"{target}.onnx", providers=["CPUExecutionProvider"])
    assert {output.name for output in session.get_outputs()} == set(verified.outputs)
    assert all(output.nonfinite == 0 for output in verified.outputs.values())
