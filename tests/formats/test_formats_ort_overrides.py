"""onnxruntime's own quantizer takes the overrides that qgraph writes, and what it makes of a model is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from test_formats_qdq_kernels import IMAGE, residual_block

import qgraph


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """A few samples."""

    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{"x": IMAGE}, {"x": IMAGE * np.float32(0.3)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def loaded(path: Path) -> dict[str, Any]:
    """The overrides as onnxruntime wants them, as docs/formats.md says."""
    overrides: dict[str, Any] = json.loads(path.read_text())
    for channels in overrides.values():
        for one in channels:
            for entry in (one, one.get("convert", {})):
                if entry:
                    entry["quant_type"] = QuantType.from_string(entry["quant_type"])
                    entry["scale"] = np.array(entry["scale"], np.float32)
                    entry["zero_point"] = np.array(entry["zero_point"])
    return overrides


def quantize(folder: Path, target: str, kind: QuantFormat, **extra_options: Any) -> None:
    """What onnxruntime makes of the float model in a folder."""
    quantize_static(
        folder / "float.onnx",
        folder / target,
        Reader(),
        quant_format=kind,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options=extra_options,
    )


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["qdq", "qoperator"])
def test_what_onnxruntime_quantizes_is_imported(tmp_path: Path, kind: QuantFormat) -> None:
    onnx.save(residual_block(), tmp_path / "float.onnx")
    quantize(tmp_path, "theirs.onnx", kind)
    with qgraph.open(tmp_path / "q.db") as db:
        samples = np.concatenate([IMAGE, IMAGE * np.float32(0.3)])
        ours = db.calibrate(tmp_path / "float.onnx", {"x": samples}).solve(target="onnxruntime", observer="minmax")
        done = db.import_scales(tmp_path / "theirs.onnx", tmp_path / "float.onnx", "onnxruntime", calibration="c1")
        theirs = db.run(done["run"])
        assert done["notes"] == []
        found = {name: one["scale"] for name, one in theirs.scales()["tensors"].items() if one["scale"] is not None}
        expected = {name: one["scale"] for name, one in ours.scales()["tensors"].items() if one["scale"] is not None}
        assert found.keys() == expected.keys()
        for name, scale in expected.items():
            assert found[name] == pytest.approx(scale, rel=1e-5), name


def test_onnxruntime_quantizes_with_the_scales_of_a_run(tmp_path: Path) -> None:
    onnx.save(residual_block(), tmp_path / "float.onnx")
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(tmp_path / "float.onnx", {"x": IMAGE})
        run = calibration.solve(target="onnxruntime", observer="percentile")
        run.export(tmp_path / "overrides.json", format="ort-overrides")
        overrides = loaded(tmp_path / "overrides.json")
        quantize(tmp_path, "theirs.onnx", QuantFormat.QDQ, TensorQuantOverrides=overrides)
        done = db.import_scales(tmp_path / "theirs.onnx", tmp_path / "float.onnx", "onnxruntime", calibration="c1")
        ours, theirs = run.scales()["tensors"], db.run(done["run"]).scales()["tensors"]
        compared = 0
        for name, one in ours.items():
            if one["scale"] is not None and theirs[name]["scale"] is not None:
                assert theirs[name]["scale"] == pytest.approx(one["scale"], rel=1e-6), name
                assert theirs[name]["offset"] == one["offset"], name
                compared += 1
        assert compared >= 8
        assert done["violations"] == []
