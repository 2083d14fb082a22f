"""What solving costs: every observer on the stored statistics of real activations, no inference.

    python benchmarks/observers.py
    python benchmarks/observers.py --groups 100 1000 --model mobilenet_v2 ppocr4_det

The statistics of the models' tensors are collected once; groups are these tensors, taken in turn until there are
enough of them. CPU time is that of this process, which computes on two threads; the least of the rounds is printed.
Each observer is asked alone, and in the last column all of them at once, sharing what they have in common.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from development_models import MODELS  # noqa: E402

import qgraph  # noqa: E402
from qgraph.calib.observers.observe import SHIPPED, has_signal, observe, observe_all  # noqa: E402
from qgraph.calib.statistics import TensorStatistics  # noqa: E402
from qgraph.tqc import Scheme  # noqa: E402

SCHEMES = {
    "int8 symmetric": Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127),
    "uint8 asymmetric": Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255),
}


def collected(names: Sequence[str], samples: int) -> list[TensorStatistics]:
    """The statistics of all tensors of some models that have a value other than zero."""
    found: list[TensorStatistics] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = Path(folder) / f"{name}.onnx"
            MODELS[name].write(model)
            with qgraph.open(Path(folder) / f"{name}.db") as database:
                calibration = database.calibrate(model, MODELS[name].samples(samples, 0))
                found += [one for _, one in sorted(calibration.statistics().items()) if has_signal(one)]
    return found


def measured(
    statistics: Sequence[TensorStatistics], groups: Sequence[int], rounds: int
) -> Iterator[tuple[str, str, int, float]]:
    """Observer, scheme, number of groups and the least CPU seconds of a call."""
    for count in groups:
        taken = list(islice(cycle(statistics), count))
        for scheme in SCHEMES:
            schemes = [SCHEMES[scheme]] * count
            calls: dict[str, Callable[[], object]] = {
                name: partial(observe, name, taken, schemes) for name in sorted(SHIPPED)
            }
            calls["together"] = partial(observe_all, [(name, None) for name in sorted(SHIPPED)], taken, schemes)
            for name, call in calls.items():
                seconds = []
                for _ in range(rounds):
                    start = time.process_time()
                    call()
                    seconds.append(time.process_time() - start)
                yield name, scheme, count, min(seconds)


def main() -> None:
    """Collect, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=sorted(MODELS), default=["mobilenet_v2", "ppocr4_det"])
    parser.add_argument("--groups", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    statistics = collected(given.model, given.samples)
    bins = sum(one.bins.size for one in statistics) / len(statistics)
    print(f"{len(statistics)} tensors of {', '.join(given.model)}, {bins:.0f} bins on average\n")
    rows = list(measured(statistics, given.groups, given.rounds))
    print("| groups | scheme | " + " | ".join(sorted(SHIPPED)) + " | together |")
    print("|---|---|" + "---|" * (len(SHIPPED) + 1))
    for count in given.groups:
        for scheme in SCHEMES:
            seconds = [row[3] for row in rows if row[1:3] == (scheme, count)]
            cells = " | ".join(f"{one:.2f} s" for one in seconds)
            print(f"| {count} | {scheme} | {cells} |")


if __name__ == "__main__":
    main()
