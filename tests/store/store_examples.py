"""Small and random models and runs for the tests of the store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from qgraph.constraints.model import (
    Derived,
    Edge,
    Fixed,
    Group,
    Grouping,
    Kind,
    Origin,
    Requantize,
    Strength,
)
from qgraph.ir.elements import AttributeValue, Op, Structure, Tensor
from qgraph.ir.slots import graph_constant, graph_input, graph_output, input_slot, output_slot
from qgraph.solve.run import RunData, RunSettings
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

INT8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8) | st.sampled_from(
    ["it's", 'say "a"', "100%", "%s", "a:b", ":in:0", "graph:in", "ü/é", "名前", "x'; DROP TABLE runs; --", "[a]", "_"]
)
floats = st.floats(allow_nan=True, allow_infinity=True)
_positive = st.floats(0, exclude_min=True) | st.just(math.nan)
integers = st.integers(-(2**63), 2**64 - 1)
optional_text = st.none() | names


def small_structure(fingerprint: str = "f1") -> Structure:
    """``image → Conv → mid → Concat(mid, side) → joined``, and a shape that is no float."""
    tensors = (
        Tensor("bias", "float32", (4,), constant=True, values=(0.0, 1.0, -1.0, 2.0)),
        Tensor("image", "float32", ("n", 3, None)),
        Tensor("joined", "float32", None),
        Tensor("mid", "float32", ("n", 4)),
        Tensor("shape", "int64", (2,), constant=True, values=(1, -1)),
        Tensor("side", "float32", ("n", 4)),
        Tensor("weight", "float32", (4, 3), constant=True),
    )
    ops = (
        Op("conv", "Conv", "", ("image", "weight", "bias"), ("mid", None), {"pads": (0, 0), "auto_pad": "VALID"}),
        Op("join", "Concat", "", ("mid", None, "side"), ("joined",), {"axis": 1, "alpha": 0.5}, None, ("old",)),
    )
    return Structure("small", fingerprint, 17, ops, tensors, ("image", "side"), ("joined", "mid"))


def small_run(observer: str | None = "mse", target: str = "tflite") -> RunData:
    """The small model solved: ``mid``, ``side`` and ``joined`` share, but one reader of ``mid`` is requantized."""
    members = ("conv:out:0", "graph:in:side", "graph:out:joined", "join:in:0", "join:in:2", "join:out:0")
    image = Group("g-image", ("conv:in:0", "graph:in:image"), ("image",), "graph:in:image", INT8)
    shared = Group("g-shared", members, ("joined", "mid", "side"), "conv:out:0", INT8)
    reader = Group("g-reader", ("graph:out:mid",), (), "graph:out:mid", INT8)
    tensor_of = {
        "conv:in:0": "image", "graph:in:image": "image", "conv:out:0": "mid", "graph:in:side": "side",
        "graph:out:joined": "joined", "join:in:0": "mid", "join:in:2": "side", "join:out:0": "joined",
        "graph:out:mid": "mid",
    }  # fmt: skip
    scale = {"g-image": 0.5, "g-shared": 0.25, "g-reader": 0.125}

    def tqc(slot: str, group: Group) -> TqcRecord:
        owner = slot == group.master
        return TqcRecord(
            slot=slot,
            tensor=tensor_of[slot],
            role="activation",
            state=QuantizationState.ACTIVATED if owner else QuantizationState.SLAVE,
            scheme=INT8,
            scale=(scale[group.id],) if observer else None,
            offset=(3,) if observer else None,
            master=None if owner else group.master,
            group=group.id,
            noise_db=-30.0,
            own_noise_db=-32.5 if group is shared else -30.0,
        )

    per_channel = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
    weight = Group("g-weight", ("conv:in:1",), ("weight",), "conv:in:1", per_channel)
    configs = [tqc(slot, group) for group in (image, shared, reader) for slot in group.slots]
    configs.append(
        TqcRecord(
            "conv:in:1",
            "weight",
            "weight",
            QuantizationState.ACTIVATED,
            per_channel,
            (0.5, 1.5),
            (0, 0),
            None,
            "g-weight",
        )
    )
    configs.append(TqcRecord("conv:in:2", "bias", "bias", QuantizationState.FP32, reason="excluded by the user"))
    joined = (
        Edge(Kind.SAME, "join:in:0", "join:out:0", "concat", "join", "Concat", Strength.REQUIRED, "TFLite spec"),
        Edge(Kind.SAME, "join:in:2", "join:out:0", "concat", "join", "Concat", Strength.REQUIRED, "TFLite spec"),
        Edge(Kind.TENSOR, "conv:out:0", "join:in:0"),
    )
    return RunData(
        settings=RunSettings(target, "1", False, observer, {"percentile": 99.9, "bins": 4} if observer else {}),
        tqcs=tuple(sorted(configs, key=lambda t: t.slot)),
        grouping=Grouping(
            groups=tuple(sorted((image, shared, reader, weight), key=lambda group: group.id)),
            requantizes=(Requantize("mid", "graph:out:mid", "conv:out:0"),),
            joined=joined,
        ),
        requantize_price_db={"graph:out:mid": 0.75},
        events=("a word", "another word"),
    )


_attributes = st.dictionaries(
    names,
    integers
    | floats
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.lists(integers, max_size=3).map(tuple)
    | st.lists(floats, max_size=3).map(tuple)
    | st.lists(names, max_size=3).map(tuple),
    max_size=3,
)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Any structure that an importer could make, however odd its names."""
    tensor_names = sorted(draw(st.sets(names, min_size=1, max_size=6)))
    shapes = st.none() | st.lists(st.none() | st.integers(0, 2**40) | names, max_size=3).map(tuple)
    values = st.none() | st.lists(floats, max_size=3).map(tuple) | st.lists(integers, max_size=3).map(tuple)
    tensors = tuple(
        Tensor(name, draw(st.sampled_from(["float32", "int64", ""])), draw(shapes), draw(st.booleans()), draw(values))
        for name in tensor_names
    )
    op_names = draw(st.lists(names.filter(lambda name: not name.startswith("graph:")), unique=True, max_size=4))
    uses = st.lists(st.none() | st.sampled_from(tensor_names), max_size=4).map(tuple)
    ops = tuple(_op(draw, name, uses) for name in op_names)
    some = st.lists(st.sampled_from(tensor_names), max_size=3).map(tuple)
    return Structure(draw(names), draw(names), draw(st.integers(1, 30)), ops, tensors, draw(some), draw(some))


def _op(draw: st.DrawFn, name: str, uses: st.SearchStrategy[tuple[str | None, ...]]) -> Op:
    attributes: dict[str, AttributeValue] = draw(_attributes)
    origins = tuple(draw(st.lists(names, max_size=2)))
    return Op(name, draw(names), draw(names), draw(uses), draw(uses), attributes, draw(optional_text), origins)


def slots_of(structure: Structure) -> dict[str, str]:
    """Every slot of a model with its tensor."""
    found = {input_slot(o.name, i): t for o in structure.ops for i, t in enumerate(o.inputs) if t is not None}
    found |= {output_slot(o.name, i): t for o in structure.ops for i, t in enumerate(o.outputs) if t is not None}
    found |= {graph_input(t): t for t in structure.inputs} | {graph_output(t): t for t in structure.outputs}
    return found | {graph_constant(t.name): t.name for t in structure.tensors if t.constant}


_schemes = st.builds(
    lambda bits, signed, axis, power: Scheme(bits, signed, True, 0, 1, axis, power),
    st.integers(2, 32), st.booleans(), st.none() | st.integers(-3, 3), st.booleans(),
)  # fmt: skip


@st.composite
def runs(draw: st.DrawFn, structure: Structure) -> RunData:
    """Any run of a model that does not contradict itself."""
    tensor_of = slots_of(structure)
    slots = sorted(tensor_of)
    membership = {slot: draw(st.none() | st.integers(0, 2)) for slot in slots}
    groups = tuple(_group(draw, number, membership, tensor_of) for number in range(3) if number in membership.values())
    edges = tuple(_edge(draw, slots) for _ in range(draw(st.integers(0, 3)) if slots else 0))
    grouping = Grouping(
        groups, tuple(Requantize(tensor_of[s], s, draw(st.sampled_from(slots))) for s in slots[:2]), edges
    )
    parameters = st.dictionaries(names, floats | integers | st.booleans() | names, max_size=3)
    settings = RunSettings(draw(names), draw(names), draw(st.booleans()), draw(optional_text), draw(parameters))
    return RunData(
        settings,
        tuple(_tqc(draw, slot, tensor_of, membership) for slot in slots),
        grouping,
        {slot: draw(floats) for slot in slots[:1]},
        tuple(draw(st.lists(names, max_size=2))),
    )


def _group(draw: st.DrawFn, number: int, membership: dict[str, int | None], tensor_of: dict[str, str]) -> Group:
    members = tuple(sorted(slot for slot, group in membership.items() if group == number))
    origin = Origin(draw(names), draw(names), draw(names), draw(names))
    fixed = Fixed(draw(names), draw(floats), draw(integers), origin)
    derived = Derived(draw(names), draw(names), draw(names), origin)
    return Group(
        f"g{number}",
        members,
        tuple(sorted({tensor_of[slot] for slot in members if _home(tensor_of[slot], membership, tensor_of) == number})),
        members[0],
        draw(_schemes),
        draw(st.none() | st.just(fixed)),
        draw(st.none() | st.just(derived)),
    )


def _home(tensor: str, membership: dict[str, int | None], tensor_of: dict[str, str]) -> int | None:
    on = sorted(slot for slot, name in tensor_of.items() if name == tensor and membership[slot] is not None)
    return membership[on[0]] if on else None


def _tqc(draw: st.DrawFn, slot: str, tensor_of: dict[str, str], membership: dict[str, int | None]) -> TqcRecord:
    scale = draw(st.none() | st.lists(_positive, max_size=3).map(tuple))
    number = membership[slot]
    return TqcRecord(
        slot,
        tensor_of[slot],
        draw(names),
        draw(st.sampled_from(list(QuantizationState))),
        draw(st.none() | _schemes),
        scale,
        None if scale is None else tuple(range(len(scale))),
        draw(st.sampled_from([None, *sorted(other for other in tensor_of if other > slot)])),
        None if number is None else f"g{number}",
        draw(optional_text),
        draw(st.none() | floats),
        draw(st.none() | floats),
    )


def _edge(draw: st.DrawFn, slots: Sequence[str]) -> Edge:
    ends = st.sampled_from(slots)
    text = [draw(optional_text) for _ in range(4)]
    strength = draw(st.none() | st.sampled_from(list(Strength)))
    return Edge(draw(st.sampled_from(list(Kind))), draw(ends), draw(ends), text[0], text[1], text[2], strength, text[3])


def exact(value: Any) -> Any:
    """A form in which equal means equal to the bit: NaN equals itself, 1 differs from 1.0.

    Negative zero is zero, as a database column has it.
    """
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else repr(value + 0.0))
    if isinstance(value, tuple | list):
        return tuple(exact(element) for element in value)
    if hasattr(value, "__dataclass_fields__"):
        return (type(value).__name__, tuple(exact(getattr(value, name)) for name in value.__dataclass_fields__))
    if hasattr(value, "items"):
        return tuple(sorted((key, exact(element)) for key, element in value.items()))
    return (type(value).__name__, value)
