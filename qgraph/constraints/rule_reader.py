"""The rules of a rule pack, each from its table; `qgraph.constraints.pack_reader` says what the tables hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType

from qgraph.constraints.composites.finders import FINDERS
from qgraph.constraints.conditions import Condition, Scalar
from qgraph.constraints.fields import Fields
from qgraph.constraints.model import Direction, Strength
from qgraph.constraints.rule_pack import (
    ActivationWidth,
    CompositeRule,
    FixedRule,
    FusionRule,
    NoValueRule,
    Place,
    QuantizableRule,
    RatioRule,
    SameRule,
    Slots,
    WeightedRule,
)
from qgraph.tqc import Scheme, to_float32

MOST_AXES: Mapping[str, int] = MappingProxyType({"Conv": 5, "ConvTranspose": 5, "Gemm": 2})
"""Of what these ops read, and of their weights: at most three spatial axes."""


def quantizable(fields: Fields) -> QuantizableRule:
    """A ``[[quantizable]]`` table."""
    rule = QuantizableRule(
        ops=fields.texts("ops"),
        source=fields.text("source"),
        when=_conditions(fields, "when"),
        minimum_opset=fields.integer("minimum_opset", default=1),
        only_after_quantized=fields.boolean("only_after_quantized", default=False),
        bits=fields.integers("bits", default=()),
    )
    fields.refuse_unknown()
    return rule


def same(fields: Fields) -> SameRule:
    """A ``[[same]]`` table."""
    direction = fields.optional_choice("direction", tuple(Direction))
    rule = SameRule(
        name=fields.text("name"),
        ops=fields.texts("ops"),
        inputs=_slots(fields, "inputs"),
        outputs=_slots(fields, "outputs"),
        strength=Strength(fields.choice("strength", tuple(Strength))),
        source=source_of(fields),
        when=_conditions(fields, "when"),
        direction=None if direction is None else Direction(direction),
        across=fields.optional_text("across"),
        read_by=fields.optional_texts("read_by"),
    )
    alone = rule.inputs == () or (rule.outputs == () and rule.inputs is not None and len(rule.inputs) < 2)
    if alone and rule.across is None:
        fields.mistake("inputs", "ties no two slots", "name inputs and outputs, or at least two inputs")
    fields.refuse_unknown()
    return rule


def fixed(fields: Fields, activation: Scheme, widths: Iterable[ActivationWidth] = ()) -> FixedRule:
    """A ``[[fixed]]`` table; its offset must be one that activations can have in its bits."""
    bits = fields.optional_integer("bits")
    schemes = {width.scheme.bits: width.scheme for width in widths} | {activation.bits: activation}
    scheme = schemes.get(activation.bits if bits is None else bits)
    if scheme is None:
        fields.mistake("bits", f"there are no activations of {bits} bits", "add an [[activation_width]]")
        scheme = activation
    rule = FixedRule(
        name=fields.text("name"),
        ops=fields.texts("ops"),
        outputs=_slots(fields, "outputs"),
        scale=_scale(fields),
        offset=fields.integer("offset"),
        source=source_of(fields),
        when=_conditions(fields, "when"),
        bits=bits,
    )
    if not fields.broken and not scheme.quant_min <= rule.offset <= scheme.quant_max:
        span = f"[{scheme.quant_min}, {scheme.quant_max}]"
        fields.mistake("offset", f"{rule.offset} is outside the activations' range", f"choose one in {span}")
    fields.refuse_unknown()
    return rule


def _scale(fields: Fields) -> float:
    given = fields.scalar("scale")
    try:
        scale = to_float32(float(Fraction(given)))
    except (ValueError, ZeroDivisionError, OverflowError):
        scale = 0.0
    if not scale > 0 and not fields.broken:
        fields.mistake("scale", f"{given!r} is not a positive number", 'write a number or a fraction such as "1/256"')
    return scale


def weighted(fields: Fields) -> WeightedRule:
    """A ``[[weighted]]`` table."""
    rule = WeightedRule(
        name=fields.text("name"),
        ops=fields.texts("ops"),
        weight=fields.integer("weight"),
        bias=fields.optional_integer("bias"),
        axis=fields.optional_integer("axis"),
        source=source_of(fields),
        when=_conditions(fields, "when"),
        input_axis=fields.optional_integer("input_axis"),
        also_axis=fields.optional_integer("also_axis"),
    )
    if rule.weight < 1 or (rule.bias is not None and rule.bias < 1):
        fields.mistake("weight, bias", "input 0 is the activation", "name other inputs")
    _check_axes(fields, rule)
    fields.refuse_unknown()
    return rule


def _check_axes(fields: Fields, rule: WeightedRule) -> None:
    """Refuse channel axes that no tensor at such an op has; a weight would silently get one scale in all."""
    for key, axis in (("axis", rule.axis), ("input_axis", rule.input_axis), ("also_axis", rule.also_axis)):
        for op in rule.ops:
            axes = MOST_AXES.get(op)
            if axis is None or axes is None:
                continue
            if not -axes <= axis < axes:
                problem = f"{op} has no axis {axis}: at most {axes} axes"
                fields.mistake(key, problem, f"choose one from {-axes} to {axes - 1}")
            elif key == "input_axis" and axis in (0, -axes):
                fields.mistake(key, f"axis {axis} of what {op} reads counts samples", "name the axis of the channels")


def fusion(fields: Fields) -> FusionRule:
    """A ``[[fusion]]`` table."""
    rule = FusionRule(
        name=fields.text("name"),
        producers=fields.texts_or_all("producers"),
        consumers=fields.texts("consumers"),
        source=source_of(fields),
        producer_when=_conditions(fields, "producer_when"),
        when=_conditions(fields, "when"),
        beside=fields.optional_texts("beside"),
    )
    fields.refuse_unknown()
    return rule


def ratio(fields: Fields) -> RatioRule:
    """A ``[[ratio]]`` table."""
    bounds = {bound: fields.optional_number(bound) for bound in ("above", "below", "at_least", "at_most")}
    rule = RatioRule(
        name=fields.text("name"),
        ops=fields.texts("ops"),
        numerator=_places(fields, "numerator"),
        denominator=_places(fields, "denominator") if fields.has("denominator") else (),
        source=source_of(fields),
        when=_conditions(fields, "when"),
        **bounds,
    )
    if all(bound is None for bound in bounds.values()):
        fields.mistake("above, below, at_least, at_most", "none is given", "say what bounds the ratio")
    fields.refuse_unknown()
    return rule


def _places(fields: Fields, key: str) -> tuple[Place, ...]:
    """Sides and indices, written ``in:0`` or ``out:all``."""
    places: list[Place] = []
    for text in fields.texts(key):
        side, _, index = text.partition(":")
        if side not in ("in", "out") or not (index == "all" or index.isdecimal()):
            fields.mistake(key, f"{text!r} is no slot of an op", 'write "in:0", "out:0", "in:all"')
            continue
        places.append((side, None if index == "all" else int(index)))
    return tuple(places)


def no_value(fields: Fields) -> NoValueRule:
    """A ``[[no_value]]`` table."""
    rule = NoValueRule(
        ops=fields.texts("ops"),
        inputs=_slots(fields, "inputs"),
        reason=fields.text("reason"),
        constants_only=fields.boolean("constants_only", default=False),
    )
    fields.refuse_unknown()
    return rule


def composite(fields: Fields) -> CompositeRule:
    """A ``[[composite]]`` table."""
    rule = CompositeRule(name=fields.choice("name", tuple(FINDERS)), source=source_of(fields))
    fields.refuse_unknown()
    return rule


def source_of(fields: Fields) -> str:
    """Where a rule is from, and whether it is known from reports only."""
    source = fields.text("source")
    return f"reported: {source}" if fields.boolean("reported", default=fields.reported) else source


def _slots(fields: Fields, key: str) -> Slots:
    slots = fields.integers_or_all(key)
    if slots is not None and any(index < 0 for index in slots):
        fields.mistake(key, f"{list(slots)} has a negative index", "count from 0")
    return slots


def _conditions(fields: Fields, key: str) -> tuple[Condition, ...]:
    return tuple(_condition(entry) for entry in fields.tables(key))


def _condition(fields: Fields) -> Condition:
    default = fields.optional_scalar("default")
    one_of, none_of = fields.scalars("one_of"), fields.scalars("none_of")
    condition = Condition(
        input=fields.optional_integer("input"),
        attribute=fields.optional_text("attribute"),
        default=None if default is None else _comparable(default),
        one_of=None if one_of is None else tuple(_comparable(value) for value in one_of),
        none_of=tuple(_comparable(value) for value in none_of or ()),
        constant=fields.optional_boolean("constant"),
        dimension=fields.optional_integer("dimension"),
    )
    if condition.input is None and condition.attribute is None:
        fields.mistake("input, attribute", "neither is given", "name the parameter that the condition is about")
    if one_of is None and none_of is None and condition.constant is None:
        fields.mistake("one_of, none_of, constant", "none is given", "say what must hold")
    if one_of is not None and none_of is not None:
        fields.mistake("one_of, none_of", "both are given", "keep one")
    if condition.constant is not None and condition.input is None:
        fields.mistake("constant", "given without an input", "name the input")
    if condition.dimension is not None and (condition.input is None or condition.dimension < 0):
        fields.mistake("dimension", "needs an input, and counts from 0", "name the input and its dimension")
    fields.refuse_unknown()
    return condition


def _comparable(value: Scalar) -> Scalar:
    """Parameters of a model are float32, so what they are compared with is rounded to it."""
    if isinstance(value, str):
        return value
    try:
        return to_float32(float(value))
    except OverflowError:
        return math.inf if value > 0 else -math.inf
