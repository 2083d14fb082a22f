"""True accuracy of a small network in int8: trained here, on labelled pictures, with residual and concat blocks.

    python benchmarks/small_network.py --data FOLDER    # Fashion-MNIST's files (Debian: dataset-fashion-mnist)
    python benchmarks/small_network.py                  # the 1,797 digits inside scikit-learn
    python benchmarks/small_network.py --record         # put the table into benchmarks/README.md

The network is trained in float, calibrated once on training pictures, solved with every observer with and without
forced sharing, and each int8 model is asked for the class of every test picture.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from accuracy import put  # puts the examples on the path, too
from numpy.typing import NDArray
from package_file import package_file
from torch import Tensor, nn

import qgraph

SEED = 0
OBSERVERS = ("minmax", "percentile", "mse", "kl", "isotone")
CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Labelled:
    """Pictures, float32 [n, 1, height, width] in 0 to 1, and their classes, int64 [n]."""

    pictures: NDArray[np.float32]
    classes: NDArray[np.int64]


def digits() -> tuple[Labelled, Labelled]:
    """The digits inside scikit-learn, 8×8, the last third for testing."""
    with gzip.open(package_file("sklearn", "datasets/data/digits.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    pictures = np.asarray(rows[:, :64].reshape(-1, 1, 8, 8) / 16, np.float32)
    found = Labelled(pictures, rows[:, 64].astype(np.int64))
    border = len(rows) * 2 // 3
    return Labelled(found.pictures[:border], found.classes[:border]), Labelled(
        found.pictures[border:], found.classes[border:]
    )


def fashion_mnist(folder: Path) -> tuple[Labelled, Labelled]:
    """Fashion-MNIST from its IDX files: 60,000 pictures for training and 10,000 for testing, 28×28."""

    def read(name: str, header: int) -> NDArray[np.uint8]:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=header)

    def labelled(part: str) -> Labelled:
        pictures = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        classes = read(f"{part}-labels-idx1-ubyte.gz", 8)
        return Labelled(pictures.astype(np.float32) / np.float32(255), classes.astype(np.int64))

    return labelled("train"), labelled("t10k")


class Unit(nn.Module):
    """Convolution, normalisation, Relu6."""

    def __init__(self, before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.work = nn.Sequential(
            nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU6(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, before, h, w] to [n, after, h / stride, w / stride]."""
        made: Tensor = self.work(x)
        return made


class Network(nn.Module):
    """A stem, two residual blocks with depthwise convolutions, two that concatenate branches, and a classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = Unit(1, 16)
        self.residual = nn.ModuleList(
            nn.Sequential(Unit(16, 48, 1), Unit(48, 48, groups=48), nn.Conv2d(48, 16, 1)) for _ in range(2)
        )
        self.narrow = nn.ModuleList(Unit(width, 16, 1) for width in (16, 32))
        self.wide = nn.ModuleList(Unit(width, 16, 3) for width in (16, 32))
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures to logits."""
        x = self.stem(x)
        for block in self.residual:
            x = x + block(x)
        for narrow, wide in zip(self.narrow, self.wide, strict=True):
            x = self.pool(torch.cat([narrow(x), wide(x)], dim=1))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def trained(data: Labelled, epochs: int) -> Network:
    """Train the network from a fixed seed."""
    torch.manual_seed(SEED)
    network = Network()
    pictures, classes = torch.from_numpy(data.pictures), torch.from_numpy(data.classes)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * -(-len(classes) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(classes)).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pictures[batch]), classes[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def write_onnx(network: Network, data: Labelled, path: Path) -> None:
    """Export the network with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network,
            (torch.from_numpy(data.pictures[:2]),),
            dynamo=True,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=4096)}},
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


def accuracy(path: Path, data: Labelled) -> float:
    """The share of pictures whose class an ONNX model tells."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    hits = 0
    for start in range(0, len(data.classes), 256):
        part = slice(start, start + 256)
        (logits,) = session.run(None, {"x": data.pictures[part]})
        hits += int((logits.argmax(axis=1) == data.classes[part]).sum())
    return hits / len(data.classes)


def table(train: Labelled, test: Labelled, epochs: int) -> list[str]:
    """The table's lines."""
    lines = ["| model | without forced sharing | with forced sharing |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as place, qgraph.open(Path(place) / "qgraph.db") as database:
        model, int8 = Path(place) / "model.onnx", Path(place) / "int8.onnx"
        write_onnx(trained(train, epochs), test, model)
        lines.append(f"| float | {accuracy(model, test):.2%} | |")
        data = {"x": train.pictures[:CALIBRATION_SAMPLES]}
        calibration = database.calibrate(model, data)
        for observer in OBSERVERS:
            cells = []
            for method, forced in ((None, False), ("Joint", True)):
                run = calibration.solve(
                    target="onnxruntime",
                    observer=observer,
                    elementwise_merge_method=method,
                    concat_merge_method=method,
                    force_overlap=forced,
                )
                run.export(int8)
                cells.append(f"{accuracy(int8, test):.2%}")
            lines.append(f"| int8, {observer} | {' | '.join(cells)} |")
        plain = calibration.solve(target="onnxruntime", observer="mse")
        database.run(plain.improve(data)["run"]).export(int8)
        lines.append(f"| int8, mse, improve | {accuracy(int8, test):.2%} | |")
    return lines


def main() -> None:
    """Train, quantize, measure and print the table."""
    parser = argparse.ArgumentParser(description="True accuracy of a small int8 network.")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's files; without it scikit-learn's digits")
    parser.add_argument("--epochs", type=int, help="default: 6 for Fashion-MNIST, 30 for the digits")
    parser.add_argument("--record", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    train, test = fashion_mnist(arguments.data) if arguments.data else digits()
    name = "Fashion-MNIST" if arguments.data else "scikit-learn's digits"
    epochs = arguments.epochs or (6 if arguments.data else 30)
    lines = [
        f"{name}: trained {epochs} times over {len(train.classes)} pictures; of {len(test.classes)} others the share",
        "whose class is told:",
        "",
        *table(train, test, epochs),
    ]
    print("\n".join(lines))
    if arguments.record:
        put("small network", lines)


if __name__ == "__main__":
    main()
