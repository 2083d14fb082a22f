"""On a device the same is recorded as on the CPU, bit for bit; without a GPU the kernels run in an interpreter."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activations import AWKWARD, from_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from triton_place import PLACE

from qgraph.calib.collect import collect, no_progress, unchanged
from qgraph.calib.cpu.recorder import SourceRecorder
from qgraph.calib.data.source import open_data
from qgraph.calib.gpu.channels import DeviceChannels
from qgraph.calib.gpu.recorder import DeviceRecorder, recording_on
from qgraph.calib.parts import ChannelPlan, Parts
from qgraph.calib.plan import CollectionPlan, plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.calib.statistics import TensorStatistics, same_statistics
from qgraph.ir.onnx_import import load_model

EVERYWHERE = (-np.inf, np.inf)

PLAN = CollectionPlan(
    {"x": (0.0, 6.0), "y": ()},
    (),
    {
        "relu6": Parts("x", (0.0, 6.0), (ChannelPlan(1, binned=True),), (-1,), (0.0, 6.0)),
        "x": Parts("x", EVERYWHERE, (ChannelPlan(1, binned=False), ChannelPlan(-1, binned=True)), (1, 2), (0.0, 6.0)),
        "y": Parts("y", EVERYWHERE, (ChannelPlan(0, binned=True),), (-1, 0), ()),
    },
)


def on_cpu(plan: CollectionPlan) -> dict[str, SourceRecorder]:
    return {name: SourceRecorder(plan, name, no_progress(plan).statistics) for name in plan.exposed}


def on_device(plan: CollectionPlan) -> DeviceRecorder:
    return DeviceRecorder(plan, no_progress(plan).statistics, PLACE)


def assert_same(device: DeviceRecorder, cpu: Mapping[str, SourceRecorder]) -> None:
    found = device.snapshot()
    expected = {name: one for recorder in cpu.values() for name, one in recorder.snapshot().items()}
    assert found.keys() == expected.keys()
    assert [name for name in sorted(found) if not same_statistics(found[name], expected[name])] == []


def tensors(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    pattern = st.one_of(st.sampled_from(AWKWARD), st.integers(0, 2**32 - 1))
    size = int(np.prod(shape))
    return st.lists(pattern, min_size=size, max_size=size).map(lambda bits: from_bits(bits).reshape(shape))


@st.composite
def inferences(draw: st.DrawFn) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """One sample, or several that are cut apart."""
    samples = draw(st.sampled_from([1, 1, 2]))
    shape = (samples, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    hashes = draw(st.lists(st.sampled_from("abcd"), min_size=samples, max_size=samples))
    return {"x": draw(tensors(shape)), "y": draw(tensors((draw(st.integers(0, 3)),)))}, hashes


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(inferences(), min_size=1, max_size=2))
def test_a_device_records_what_the_cpu_records(runs: list[tuple[dict[str, NDArray[Any]], list[str]]]) -> None:
    device, cpu = on_device(PLAN), on_cpu(PLAN)
    for values, hashes in runs:
        device.add(values, hashes)
        for name, recorder in cpu.items():
            recorder.add(values[name], hashes)
    assert_same(device, cpu)


@pytest.mark.parametrize("odd", [[], [0x7FC00000, 0xFF800000, 0x00000001]], ids=["finite", "not finite"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_keep_the_order_of_the_cpu(odd: list[int], *, channels_last: bool) -> None:
    """Long channels, so that a sum in any other order would be rounded differently."""
    plan = CollectionPlan({"x": ()}, (), {"x": Parts("x", EVERYWHERE, (ChannelPlan(1, binned=False),), ())})
    values = torch.from_numpy(np.random.default_rng(7).standard_cauchy((1, 5, 10, 20)).astype(np.float32))
    values.view(-1)[3 : 3 + 70 * len(odd) : 70] = torch.from_numpy(from_bits(odd))
    device, cpu = on_device(plan), on_cpu(plan)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    device.add({"x": values.to(PLACE).contiguous(memory_format=memory)}, ["a"])
    cpu["x"].add(values.numpy(), ["a"])
    assert_same(device, cpu)


def test_channels_go_on_when_their_counters_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph.calib.gpu.channels.LARGEST_COUNT", 5)
    device, cpu = on_device(PLAN), on_cpu(PLAN)
    resets = []
    reset = DeviceChannels._reset

    def counted_reset(channels: DeviceChannels, sizes: list[int]) -> None:
        resets.append(sizes)
        reset(channels, sizes)

    monkeypatch.setattr(DeviceChannels, "_reset", counted_reset)
    for number in range(3):
        values = {"x": np.full((1, 2, 3), number, np.float32), "y": np.arange(2, dtype=np.float32)}
        device.add(values, ["a"])
        for name, recorder in cpu.items():
            recorder.add(values[name], ["a"])
    assert len(resets) == 3
    assert_same(device, cpu)


def test_rows_are_counted_when_the_buffer_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph.calib.gpu.rows.BUFFERED_ROWS", 3)
    device, cpu = on_device(PLAN), on_cpu(PLAN)
    values = {"x": np.eye(3, dtype=np.float32)[None], "y": np.ones(2, np.float32)}
    for _ in range(2):
        device.add(values, ["a"])
        for name, recorder in cpu.items():
            recorder.add(values[name], ["a"])
    assert device._rows._buffered == 0
    assert_same(device, cpu)


def test_real_activations_are_collected_alike(ppocr4_det: Path) -> None:
    model = load_model(ppocr4_det)
    plan = plan_collection(model.structure)
    plan = plan.only([*plan.exposed[5:15], *plan.exposed[-2:]])
    pixels = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    by_name = {tensor.name: tensor for tensor in model.structure.tensors}
    runner = OnnxRunner(model.proto, plan.exposed, folder=model.folder)

    def collected(**given: Any) -> Mapping[str, TensorStatistics]:
        with closing(open_data(pixels, [by_name[name] for name in model.structure.inputs])) as source:
            return collect(runner, source, plan, keep=unchanged, **given).statistics

    found, expected = collected(recording=recording_on(str(PLACE))), collected()
    assert found.keys() == expected.keys()
    assert [name for name in found if not same_statistics(found[name], expected[name])] == []
    assert sum(one.elements for one in found.values()) > 5000
    assert any(one.channels for one in found.values())
    assert any(one.rows for one in found.values())
