"""What each alignment method costs: noise of groups under Joint, Large, Input and Output on real models.

    python benchmarks/alignment.py --output docs/alignment.md

Each model is calibrated once; every method is solved from the same statistics.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from development_models import MODELS  # noqa: E402

import qgraph  # noqa: E402
from qgraph.ir.slots import parts  # noqa: E402
from qgraph.solve.run import RunData  # noqa: E402

METHODS = ("Joint", "Align to Large", "Align to Input", "Align to Output")
NAMES = ("mobilenet_v2", "ppocr4_det", "ppocr4_rec", "ppocr_cls_v2")
ALIGNED = ("Add", "Concat", "Sub", "Sum")
"""The ops that the two options are about: elementwise_merge_method and concat_merge_method."""

HEADER = """# What alignment costs

Where ops must agree on one scale, which values shall it be made for? The four methods on real models, from one
calibration of each ({samples} samples): target `{target}`, observer `{observer}`, `force_overlap=False`, the method
given for `elementwise_merge_method` and `concat_merge_method`.

    python benchmarks/alignment.py --output docs/alignment.md

- **Joint** solves on the values of all members together.
- **Large** solves each value alone and takes the range that holds all of theirs.
- **Input** solves on the inputs only, **Output** on the output only.

Noise is that of quantization over signal, in dB: lower is better. A tensor's price is its noise in the group minus
its noise alone. Figures of an op are those of the tensors that it reads and makes, each with the parameters of its
group. The groups differ: Output ties the output of an Add to its inputs, the others do not; so Input is Joint where
only inputs are tied. Ops with one activation and a constant are left out.
"""


@dataclass(frozen=True)
class Row:
    """One op under one method: the mean and the worst noise, and the mean and the worst price of its tensors."""

    noise: float
    worst: float
    price: float
    dearest: float


def aligned_ops(runs: Mapping[str, RunData]) -> tuple[str, ...]:
    """The ops of `ALIGNED` that join several activations under every method, in the natural order of their names."""
    joined = ({edge.op for edge in run.grouping.joined if edge.op and edge.op_type in ALIGNED} for run in runs.values())
    inputs = Counter(
        place.op
        for tqc in next(iter(runs.values())).tqcs
        if (place := parts(tqc.slot)).side == "in" and tqc.role == "activation" and tqc.noise_db is not None
    )
    several = {op for op in set.intersection(*joined) if inputs[op] > 1}
    return tuple(sorted(several, key=lambda op: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", op)]))


def row(run: RunData, op: str) -> Row | None:
    """What one op pays; None where the noise of none of its tensors is known."""
    known = [
        (tqc.noise_db, tqc.price_db)
        for tqc in run.tqcs
        if parts(tqc.slot).op == op and tqc.noise_db is not None and tqc.price_db is not None
    ]
    if not known:
        return None
    noise, price = zip(*known, strict=True)
    return Row(sum(noise) / len(noise), max(noise), sum(price) / len(price), max(price))


def solved(name: str, samples: int, target: str, observer: str) -> dict[str, RunData]:
    """The run of each method on one model."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{name}.onnx"
        MODELS[name].write(model)
        with qgraph.open(Path(folder) / "qgraph.db") as database:
            calibration = database.calibrate(model, MODELS[name].samples(samples, 0))
            return {
                method: calibration.solve(
                    target=target, observer=observer, elementwise_merge_method=method, concat_merge_method=method
                ).data()
                for method in METHODS
            }


def summary(found: Mapping[str, Mapping[str, RunData]]) -> list[str]:
    """One line per model and method, over all ops."""
    titles = ("model", "method", "ops", "mean noise", "worst noise", "mean price", "worst price", "requantizes")
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---|" * (len(titles) - 2)]
    for name, runs in found.items():
        ops = aligned_ops(runs)
        for method, run in runs.items():
            rows = [one for op in ops if (one := row(run, op)) is not None]
            if rows:
                figures = [sum(one.noise for one in rows) / len(rows), max(one.worst for one in rows)]
                figures += [sum(one.price for one in rows) / len(rows), max(one.dearest for one in rows)]
                cells = " | ".join(f"{value:.2f}" for value in figures)
                lines.append(f"| {name} | {method} | {len(rows)} | {cells} | {len(run.grouping.requantizes)} |")
    return lines


def per_op(runs: Mapping[str, RunData]) -> list[str]:
    """One line per op: the mean noise of its tensors under each method, the least of them in bold."""
    lines = ["| op | " + " | ".join(METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    for op in aligned_ops(runs):
        rows = [row(runs[method], op) for method in METHODS]
        values = [round(one.noise, 2) for one in rows if one is not None]
        if len(values) == len(METHODS):
            cells = [f"**{value:.2f}**" if value == min(values) else f"{value:.2f}" for value in values]
            lines.append(f"| `{op}` | " + " | ".join(cells) + " |")
    return lines


def document(names: Sequence[str], samples: int, target: str, observer: str) -> str:
    """The whole page."""
    found = {name: solved(name, samples, target, observer) for name in names}
    lines = [HEADER.format(samples=samples, target=target, observer=observer), *summary(found)]
    for name, runs in found.items():
        if not aligned_ops(runs):
            continue
        lines += ["", f"## {name}", "", "Mean noise of the tensors of each op, in dB:", "", *per_op(runs)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Calibrate, solve, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=sorted(MODELS), default=list(NAMES))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--target", default="ppl_cuda")
    parser.add_argument("--observer", default="mse")
    parser.add_argument("--output", type=Path, help="write here instead of to standard output")
    given = parser.parse_args()
    page = document(given.model, given.samples, given.target, given.observer)
    if given.output is None:
        print(page, end="")
    else:
        given.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
