"""A structure whose connections are not sound is refused, with all breaches at once."""

from __future__ import annotations

import pytest

from qgraph.errors import ModelError
from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.validate import breaches, validate


def op(name: str, inputs: str, outputs: str) -> Op:
    return Op(name, "Any", "", tuple(inputs.split()), tuple(outputs.split()))


def structure(*ops: Op, inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",)) -> Structure:
    return Structure("m", "", 17, ops, (), inputs, outputs)


def test_a_sound_structure_has_no_breaches() -> None:
    sound = structure(op("b", "a", "y"), op("a", "x x", "a"))
    assert breaches(sound) == []
    validate(sound, "m.onnx")


def test_a_constant_that_an_op_makes_too_has_two_producers() -> None:
    tensors = (Tensor("a", "float32", (), constant=True),)
    twice = Structure("m", "", 17, (op("o", "x", "a"), op("p", "a", "y")), tensors, ("x",), ("y",))
    assert breaches(twice) == ["tensor a has two producers (o and its constants)"]


def test_repeated_names_are_breaches() -> None:
    repeated = structure(op("o", "x", "a"), op("o", "a", "y"), inputs=("x", "x"), outputs=("y", "y"))
    assert "several ops are named o" in breaches(repeated)
    assert "input x is listed twice" in breaches(repeated)
    assert "output y is listed twice" in breaches(repeated)


def test_a_cycle_is_named_along_its_ops() -> None:
    loop = structure(op("a", "x c", "b"), op("b", "b", "c"), op("tail", "c", "y"))
    assert breaches(loop) == ["3 ops lie on or behind a cycle (a -> b -> a)"]


def test_a_long_cycle_with_a_long_tail_is_found_without_recursion() -> None:
    count = 20_000
    ring = [op(f"r{i}", f"t{i}", f"t{(i + 1) % count}") for i in range(count)]
    tail = [op(f"s{i}", f"u{i}" if i else "t0", f"u{i + 1}") for i in range(count)]
    (breach,) = breaches(structure(*ring, *tail, outputs=("u1",)))
    assert breach.startswith("40000 ops lie on or behind a cycle (")


def test_the_error_counts_all_and_lists_the_first() -> None:
    broken = structure(*(op(f"o{i}", f"ghost{i}", f"t{i}") for i in range(9)), outputs=("t0",))
    with pytest.raises(ModelError, match=r"9 breaches: m\.onnx: op o0 reads tensor ghost0.* and 4 more"):
        validate(broken, "m.onnx")
