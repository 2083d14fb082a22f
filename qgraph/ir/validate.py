"""Whether a structure's connections are sound. All breaches are found and told together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from qgraph.errors import ModelError
from qgraph.ir.elements import Op, Structure
from qgraph.ir.order import topological

SHOWN = 5
"""Breaches that the error's text lists; it counts the others."""


def breaches(structure: Structure) -> list[str]:
    """Every breach as one phrase, in a fixed order. O(ops + tensors)."""
    return [*_names(structure), *_producers(structure), *_readers(structure), *_cycles(structure)]


def validate(structure: Structure, which: str) -> None:
    """Raise one `ModelError` that counts all breaches and lists the first.

    Args:
        which: the model, as its user knows it.
    """
    found = breaches(structure)
    if not found:
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = f"the model's graph has {len(found)} {'breach' if len(found) == 1 else 'breaches'}"
    raise ModelError(what, f"{which}: {'; '.join(found[:SHOWN])}{more}", "repair or export the model again")


def _repeated(names: Iterator[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _names(structure: Structure) -> Iterator[str]:
    for name in _repeated(op.name for op in structure.ops):
        yield f"several ops are named {name}"
    for name in _repeated(tensor.name for tensor in structure.tensors):
        yield f"tensor {name} is listed twice"
    for name in _repeated(iter(structure.inputs)):
        yield f"input {name} is listed twice"
    for name in _repeated(iter(structure.outputs)):
        yield f"output {name} is listed twice"


def _producers(structure: Structure) -> Iterator[str]:
    made = [(name, op.name) for op in structure.ops for name in op.outputs if name is not None]
    given = [(name, "the model's inputs") for name in structure.inputs]
    constants = [(tensor.name, "its constants") for tensor in structure.tensors if tensor.constant]
    if len({name for name, _ in made + given + constants}) == len(made) + len(given) + len(constants):
        return
    first: dict[str, str] = {}
    for name, producer in sorted(made) + given + constants:
        if name in first:
            yield f"tensor {name} has two producers ({first[name]} and {producer})"
        else:
            first[name] = producer


def _readers(structure: Structure) -> Iterator[str]:
    known = {name for op in structure.ops for name in op.outputs if name is not None}
    known |= set(structure.inputs) | {tensor.name for tensor in structure.tensors if tensor.constant}
    for op in structure.ops:
        for name in op.inputs:
            if name is not None and name not in known:
                yield f"op {op.name} reads tensor {name}, which nothing produces"
    for name in structure.outputs:
        if name not in known:
            yield f"output {name} is a tensor that nothing produces"


def _cycles(structure: Structure) -> Iterator[str]:
    if _is_in_order(structure):
        return
    _, stuck = topological(structure.ops)
    if stuck:
        yield f"{len(stuck)} ops lie on or behind a cycle ({' -> '.join(_one_cycle(stuck))})"


def _is_in_order(structure: Structure) -> bool:
    """Whether no op reads what itself or a later one makes, so that there is no cycle. Most files are so."""
    made = {name: index for index, op in enumerate(structure.ops) for name in op.outputs if name is not None}
    return all(
        made.get(name, -1) < index for index, op in enumerate(structure.ops) for name in op.inputs if name is not None
    )


def _one_cycle(stuck: list[Op]) -> list[str]:
    """Names along one cycle: every stuck op reads from a stuck op, so walking back must meet itself."""
    producer = {name: op for op in stuck for name in op.outputs if name is not None}
    op, visited = stuck[0], dict[str, None]()
    while op.name not in visited:
        visited[op.name] = None
        op = next(producer[name] for name in op.inputs if name is not None and name in producer)
    names = list(visited)
    cycle = [*names[names.index(op.name) :], op.name][::-1]
    return cycle if len(cycle) <= SHOWN + 1 else [*cycle[:SHOWN], "..."]
