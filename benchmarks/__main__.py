"""What a calibration costs, against plain inference and onnxruntime's own calibrators on the same samples.

    make bench

Every contender runs in a process of its own, in turn, round by round, so that a change of the machine's speed hits all
of them; the ratios are taken within a round, and their median is told. Storing the model, compiling kernels, and
reading and preparing the samples are not counted there: they are in memory. Peak memory is that of the process, samples
and model included. What is left out there is in the breakdown, which is of a whole `calibrate` and `solve`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from contenders import BASE, CONTENDERS, FROM_THE_FILE
from inputs import MODELS, NAMES, write_model, write_samples
from plot import plot
from process import FailedError, measure
from report import markdown, record
from results import ModelResult, Round, results

QUIET = 0.3
"""The load average up to which a machine counts as quiet."""

MEMORY_SAMPLES = (32, 512)
"""The numbers of samples at which memory is compared."""


def progress(line: str) -> None:
    """One line for who waits."""
    print(line, file=sys.stderr, flush=True)


def compare(
    model: Path, data: Path, rounds: int, chosen: list[str]
) -> tuple[dict[str, tuple[Round, ...]], dict[str, str]]:
    """All contenders, round by round; and why those that failed did."""
    found: dict[str, list[Round]] = {name: [] for name in CONTENDERS if name in chosen or name == BASE}
    failed: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for name in [name for name in found if name not in failed]:
            try:
                one = Round(**measure("contender", name, model, data))
            except FailedError as error:
                failed[name] = str(error)
                progress(f"  {number}/{rounds} {name}: {error}")
                continue
            found[name].append(one)
            progress(f"  {number}/{rounds} {name}: {one.seconds:.2f} s, {one.mib:.0f} MiB")
    return {name: tuple(runs) for name, runs in found.items() if name not in failed}, failed


def measure_model(name: str, folder: Path, arguments: argparse.Namespace) -> ModelResult:
    """Everything about one model."""
    progress(name)
    model, data = write_model(name, folder), write_samples(name, folder, arguments.samples)
    rounds, failed = compare(model, data, arguments.rounds, arguments.contenders)
    database = folder / f"{name}.db"
    stages = measure("stages", model, data, database)
    solving, share = measure("solving", database), measure("share", database)["seconds"]
    progress(f"  share: {share:.2f} s; solve: {', '.join(f'{k} {v:.2f} s' for k, v in solving.items())}")
    data.unlink()
    memory = {}
    for count in arguments.memory_samples:
        data = write_samples(name, folder, count)
        memory[count] = measure("contender", FROM_THE_FILE, model, data)["mib"]
        progress(f"  {count} samples: {memory[count]:.0f} MiB")
        data.unlink()
    return ModelResult(name, arguments.samples, rounds, failed, memory, stages, solving, share)


def main() -> None:
    """Measure what the arguments ask for, print it, and record it if they say so."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=NAMES, choices=sorted(MODELS))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-samples", type=int, nargs="+", default=MEMORY_SAMPLES)
    parser.add_argument("--record", action="store_true", help="write README.md and calibration.svg beside this program")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > QUIET:
        progress(f"the machine is not quiet: its load is {load:.1f}")
    with tempfile.TemporaryDirectory(prefix="qgraph-bench-") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder  # what the contenders write goes with it
        found = results(tuple(measure_model(name, Path(folder), arguments) for name in arguments.models), load)
    print(markdown(found))
    if arguments.record:
        record(found)
        plot(found)


if __name__ == "__main__":
    main()
