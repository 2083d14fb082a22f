"""Small graphs and packs for the tests of the constraints."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from qgraph.constraints.model import Constraints, Grouping
from qgraph.constraints.pack import RulePack, load_pack
from qgraph.constraints.rules import constrain
from qgraph.ir.elements import AttributeValue, Op, Structure, Tensor
from qgraph.ir.graph import Graph

ELEMENTWISE = """
[[same]]
name = "elementwise"
ops = ["Add", "Sub", "Mul"]
inputs = "all"
outputs = []
strength = "preferred"
source = "the test"
"""


class Sketch:
    """A model drawn op by op. Ops must be added in topological order; every unknown input is a graph input."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[str] = []

    def constant(
        self, name: str, shape: tuple[int, ...] = (4,), values: tuple[float, ...] | None = None, dtype: str = "float32"
    ) -> None:
        self.tensors[name] = Tensor(name, dtype, shape, constant=True, values=values)

    def op(
        self,
        kind: str,
        inputs: str,
        outputs: str,
        *,
        name: str | None = None,
        domain: str = "",
        excluded: str | None = None,
        **attributes: AttributeValue,
    ) -> None:
        """Names are separated by blanks: ``-`` is one left out, ``#x`` one of int64. The first output names the op."""
        reads, makes = self._tensors(inputs), self._tensors(outputs)
        for tensor in reads:
            if tensor is not None and tensor not in self.tensors:
                self.tensors[tensor] = Tensor(tensor, "float32", (1, 4, 8, 8))
                self.inputs.append(tensor)
        for text, tensor in zip(outputs.split(), makes, strict=True):
            if tensor is not None:
                self.tensors[tensor] = Tensor(tensor, "int64" if text.startswith("#") else "float32", (1, 4, 8, 8))
        op = Op(name or next(t for t in makes if t), kind, domain, reads, makes, attributes, excluded)
        self.ops.append(op)

    def _tensors(self, text: str) -> tuple[str | None, ...]:
        return tuple(None if item == "-" else item.removeprefix("#") for item in text.split())

    def graph(self, outputs: str = "") -> Graph:
        tensors = tuple(self.tensors[name] for name in sorted(self.tensors))
        return Graph(
            Structure(
                "test", "0", self.opset, tuple(self.ops), tensors, tuple(sorted(self.inputs)), tuple(outputs.split())
            )
        )


def shipped_text(name: str) -> str:
    return (resources.files("qgraph.constraints") / "packs" / f"{name}.toml").read_text(encoding="utf-8")


def pack_with(extra: str, folder: Path, base: str = "tflite") -> RulePack:
    """A shipped pack with more rules."""
    path = folder / "pack.toml"
    path.write_text(shipped_text(base) + extra, encoding="utf-8")
    return load_pack(str(path))


def tied(constraints: Constraints) -> set[tuple[str, str]]:
    return {(tie.a, tie.b) for tie in constraints.same}


def shared(grouping: Grouping) -> list[str]:
    """The groups of at least two slots, each as one line of sorted slots."""
    return sorted(" ".join(group.slots) for group in grouping.groups if len(group.slots) > 1)


def requantized(grouping: Grouping) -> list[str]:
    return [requantize.slot for requantize in grouping.requantizes]


def tflite(sketch: Sketch, outputs: str = "") -> Constraints:
    return constrain(sketch.graph(outputs), load_pack("tflite"))
