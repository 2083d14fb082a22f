"""What the statistics of a calibration cost on a GPU: on top of plain torch inference, and against other counters.

    python benchmarks/gpu.py --record

For a torch user's networks (mobilenet_v2, with its weights, and a transformer encoder), samples one by one: the
exported program alone, and the same with all that a calibration collects. Then the kernel alone on one activation,
against `torch.histc` and `torch.quantile` on the CPU and the GPU, which give less, and the CPU's kernel, whose counts
must be the same. Both sides of every ratio are timed in turn; the least of the rounds counts. Where there is no GPU
the CPU's side is measured, and said to be all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import mobilenet_v2  # noqa: E402

from qgraph.calib.collect import collect, unchanged  # noqa: E402
from qgraph.calib.cpu.accumulator import Accumulator, empty_scratch  # noqa: E402
from qgraph.calib.data.source import open_data  # noqa: E402
from qgraph.calib.plan import CollectionPlan, plan_collection  # noqa: E402
from qgraph.calib.runners.torch_runner import THREADS, TorchRunner  # noqa: E402
from qgraph.calib.statistics import TensorStatistics, empty_statistics, same_statistics  # noqa: E402
from qgraph.ir.torch_import import TorchModel, import_torch  # noqa: E402

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
NO_GPU = "There was no GPU: only the CPU's side was measured."
LARGEST_QUANTILE = 1 << 24
"""Elements that torch.quantile takes."""

HISTC_BINS = 2048


def encoder() -> torch.nn.Module:
    """A transformer encoder of BERT's base size with seeded random weights; speed does not depend on them."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    return torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).eval()


NETWORKS: Mapping[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "mobilenet_v2": (mobilenet_v2.load, (1, 3, 224, 224)),
    "transformer encoder": (encoder, (1, 128, 768)),
}
"""A module, and the shape of its input."""


def least(jobs: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Seconds of each job, one after the other in every round, after one round that compiles and fills caches."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            settle(device)
            begun = time.perf_counter()
            job()
            settle(device)
            if number:
                found[name].append(time.perf_counter() - begun)
    return {name: min(seconds) for name, seconds in found.items()}


def settle(device: str) -> None:
    """Wait until a device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def networks(names: Iterable[str], samples: int, rounds: int, device: str) -> list[tuple[str, ...]]:
    """Rows: a network, seconds of plain inference, seconds of a calibration, their ratio."""
    rows: list[tuple[str, ...]] = []
    for name in names:
        make, shape = NETWORKS[name]
        data = np.random.default_rng(0).standard_normal((samples, *shape[1:])).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            model = import_torch(make(), Path(folder), input_shapes=shape)
            taken = least(network_jobs(model, data, device), rounds, device)
        plain, full = taken["plain"], taken["calibration"]
        rows.append((name, f"{1e3 * plain / samples:.2f} ms", f"{1e3 * full / samples:.2f} ms", f"{full / plain:.2f}"))
        print(*rows[-1], sep="  ", file=sys.stderr)
    return rows


def network_jobs(model: TorchModel, data: NDArray[np.float32], device: str) -> dict[str, Callable[[], object]]:
    """Plain inference of all samples, and a calibration of them: a pass with everything that it counts."""
    plan = plan_collection(model.imported.structure)
    runner = TorchRunner(model, plan.exposed, device=device)
    program = model.program.module().to(device)
    tensors = {tensor.name: tensor for tensor in model.imported.structure.tensors}
    source = open_data(data, [tensors[name] for name in model.imported.structure.inputs])

    def plain() -> None:
        with torch.inference_mode():
            for sample in data:
                program(torch.from_numpy(sample[None]).to(device))

    return {"plain": plain, "calibration": lambda: calibrate(runner, source, plan, device)}


def calibrate(runner: TorchRunner, source: Any, plan: CollectionPlan, device: str) -> object:
    """One pass, as `qgraph calibrate --device` makes it."""
    if device == "cpu":
        return collect(runner, source, plan, keep=unchanged)
    from qgraph.calib.gpu.recorder import recording_on

    return collect(runner, source, plan, keep=unchanged, recording=recording_on(device))


def counters(elements: int, rounds: int, device: str) -> tuple[list[tuple[str, ...]], bool | None]:
    """Rows: who counts one activation, its seconds; and whether the GPU's counts are the CPU's."""
    values = torch.relu(torch.randn(elements, generator=torch.Generator().manual_seed(0)))
    part, scratch, on_cpu = values[:LARGEST_QUANTILE], empty_scratch(), Accumulator((0.0, 6.0))
    jobs: dict[str, Callable[[], object]] = {
        "qgraph on the CPU": lambda: on_cpu.add(values.numpy(), 1, scratch),
        "torch.histc on the CPU": lambda: torch.histc(values, HISTC_BINS),
        "torch.quantile on the CPU": lambda: torch.quantile(part, 0.9999),
    }
    same = None
    if device == "cuda":
        from qgraph.calib.gpu.histograms import DeviceHistograms

        there = values.to(device)
        near, on_gpu = (
            there[:LARGEST_QUANTILE],
            DeviceHistograms({"x": empty_statistics((0.0, 6.0))}, torch.device(device)),
        )
        jobs |= {
            "qgraph on the GPU": lambda: on_gpu.add({"x": there}, (None,)),
            "torch.histc on the GPU": lambda: torch.histc(there, HISTC_BINS),
            "torch.quantile on the GPU": lambda: torch.quantile(near, 0.9999),
        }
    taken = least(jobs, rounds, device)
    if device == "cuda":
        same = same_statistics(on_gpu.snapshot()["x"], _counted(values, rounds))
    base = taken.get("qgraph on the GPU", taken["qgraph on the CPU"])
    return [(name, f"{1e3 * seconds:.3f} ms", f"{seconds / base:.1f}") for name, seconds in taken.items()], same


def _counted(values: torch.Tensor, rounds: int) -> TensorStatistics:
    """What the CPU's kernel counts of an activation that came once per round, and once before."""
    accumulator = Accumulator((0.0, 6.0))
    for _ in range(rounds + 1):
        accumulator.add(values.numpy())
    return accumulator.snapshot()


def markdown(machine: str, parts: Iterable[str]) -> str:
    """All that was measured."""
    return "\n\n".join((machine, *parts))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def record(text: str, readme: Path = README) -> None:
    """Put the results into the README, in place of the last ones."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Measure, print, and record it if the arguments say so."""
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--elements", type=int, default=LARGEST_QUANTILE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write the tables into benchmarks/README.md")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = f"{torch.cuda.get_device_name()}." if device == "cuda" else NO_GPU
    torch.backends.cudnn.allow_tf32 = False  # as calibration runs it: full float32 arithmetic
    if device == "cpu":
        print(NO_GPU, file=sys.stderr)
        torch.set_num_threads(THREADS)
    parts = []
    if arguments.networks:
        rows = networks(arguments.networks, arguments.samples, arguments.rounds, device)
        head = ("network", "plain inference, per sample", "calibration, per sample", "ratio")
        parts.append(table(head, rows))
    rows, same = counters(arguments.elements, arguments.rounds, device)
    told = "" if same is None else f" The GPU's counts are {'' if same else 'NOT '}the CPU's, bit for bit."
    parts.append(f"One activation of {arguments.elements:,} elements, rectified.{told}")
    parts.append(table(("counter", "time", f"/ qgraph on the {'GPU' if device == 'cuda' else 'CPU'}"), rows))
    text = markdown(f"{place} torch {torch.__version__}, {arguments.samples} samples.", parts)
    print(text)
    if arguments.record:
        record(text)


if __name__ == "__main__":
    main()
