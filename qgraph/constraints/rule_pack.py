"""What a rule pack says: everything that a target demands of a quantized model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph.constraints.conditions import Condition
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import Direction, Strength
from qgraph.tqc import Scheme

Slots = tuple[int, ...] | None
"""Indices of inputs or outputs; None stands for all of them."""

Place = tuple[str, int | None]
"""``"in"`` or ``"out"``, and an index; None stands for every one."""


@dataclass(frozen=True, slots=True)
class QuantizableRule:
    """Ops that the target runs quantized.

    Attributes:
        ops: ONNX op types.
        when: all must hold; an op that fails one stays float.
        minimum_opset: models of an older opset keep the op in float.
        only_after_quantized: the op stays float where what it reads comes from a float op or a graph input.
        bits: the widths of activations in which the target computes it on integers; in others it runs in float between
            a dequantize and a quantize. Empty where nothing is known of that.
    """

    ops: tuple[str, ...]
    source: str
    when: tuple[Condition, ...] = ()
    minimum_opset: int = 1
    only_after_quantized: bool = False
    bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SameRule:
    """Slots of one op that must have equal scale and offset.

    With outputs, each input is tied to each output; without, every input to the first one.

    Attributes:
        optional: an option of the user's made the rule; it ties only what no other rule ties at the same op.
        across: an attribute: the rule ties the slots of all ops in which it has one value, whichever op they are of.
        direction: the side whose parameters the target's converter gives to the other; None where nothing says.
        read_by: op types; the rule holds only where such an op reads what the op makes with one scale for all of it,
            directly or behind ops that have `same` rules themselves. Empty where it holds anywhere.
    """

    name: str
    ops: tuple[str, ...]
    inputs: Slots
    outputs: Slots
    strength: Strength
    source: str
    when: tuple[Condition, ...] = ()
    optional: bool = False
    across: str | None = None
    direction: Direction | None = None
    read_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FixedRule:
    """Ops whose outputs have prescribed parameters.

    Attributes:
        bits: of the outputs that it holds for; None where it holds for all, scaled to their width.
    """

    name: str
    ops: tuple[str, ...]
    outputs: Slots
    scale: float
    offset: int
    source: str
    when: tuple[Condition, ...] = ()
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class WeightedRule:
    """Ops with a weight, and a bias whose scale is that of input 0 times that of the weight.

    Attributes:
        weight: index of the weight input; it is a weight only where it is a constant.
        bias: index of the bias input, or None where the op has none.
        axis: channel axis of the weight (negative from the end), or None where one scale serves the whole weight.
        input_axis: channel axis of input 0, where that has one scale per channel; None where it has one in all.
        also_axis: a channel axis of the weight that the target takes, too, though it is not quantized so here.
    """

    name: str
    ops: tuple[str, ...]
    weight: int
    bias: int | None
    axis: int | None
    source: str
    when: tuple[Condition, ...] = ()
    input_axis: int | None = None
    also_axis: int | None = None


@dataclass(frozen=True, slots=True)
class FusionRule:
    """Pairs of ops that run as one, so that nothing is quantized between them.

    Attributes:
        producers: None where every quantized op can be the first of the pair.
        consumers: they read the tensor as input 0, or as their only input that is a value.
        producer_when: conditions on the producer; `when` are those on the consumer.
        beside: not empty for activations of the form x · f(x): the types of ops that f may consist of. The producer
            makes x; the consumer reads it, and what a chain of such ops makes of it.
    """

    name: str
    producers: tuple[str, ...] | None
    consumers: tuple[str, ...]
    source: str
    producer_when: tuple[Condition, ...] = ()
    when: tuple[Condition, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RatioRule:
    """Bounds on the product of some scales of an op over the product of others.

    Attributes:
        numerator, denominator: sides and indices, as ``("in", 0)``; None as index stands for all of that side, each
            bounded on its own.
        above, below: bounds that the ratio may not reach.
        at_least, at_most: bounds that it may reach.
    """

    name: str
    ops: tuple[str, ...]
    numerator: tuple[Place, ...]
    denominator: tuple[Place, ...]
    source: str
    above: float | None = None
    below: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class NoValueRule:
    """Inputs that are parameters of their op (scales, bounds, fills), not values that get a scale of their own.

    Attributes:
        constants_only: the rule applies to an input only where it is a constant.
    """

    ops: tuple[str, ...]
    inputs: Slots
    reason: str
    constants_only: bool = False


@dataclass(frozen=True, slots=True)
class CompositeRule:
    """What the target runs as one float op, or should, although the model has written it as several.

    Attributes:
        name: of one of `finders.FINDERS`.
    """

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How weights are quantized, apart from the channel axis, which the rule of the op has.

    Attributes:
        scheme: the full range, per tensor.
        per_channel: whether weights whose rule names an axis get one scale per channel.
        reduced_range: the range that leaves one bit of head room in the accumulator, or None.
        reduce_range: whether `reduced_range` is in force.
    """

    scheme: Scheme
    per_channel: bool
    reduced_range: tuple[int, int] | None
    reduce_range: bool

    def with_axis(self, axis: int | None) -> Scheme:
        """The scheme of a weight with its channels along `axis`, or of one without channels."""
        full = self.scheme
        low, high = full.quant_min, full.quant_max
        if self.reduce_range and self.reduced_range is not None:
            low, high = self.reduced_range
        channel = axis if self.per_channel else None
        return Scheme(full.bits, full.signed, full.symmetric, low, high, channel, full.power_of_two)


@dataclass(frozen=True, slots=True)
class ActivationWidth:
    """How activations are quantized where a user asks for other bits than the target's usual ones.

    Attributes:
        bias_bits: the widths that a file may have a bias in beside such activations; empty where it is as usual.
    """

    scheme: Scheme
    source: str
    bias_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RulePack:
    """A target.

    Attributes:
        version: of the pack; it changes whenever a rule does.
        source: what the rules were taken from, with its version.
        status: ``documented``, or ``reported`` where the vendor documents nothing that could be read.
        inherits: the pack that it was laid over, or None.
        bias: per tensor; a bias takes the granularity of its weight.
        can_requantize: whether a tensor can be read with other parameters than it was written with.
        quantize_unlisted: whether ops that the pack does not name are quantized (without rules) or stay float.
        unlisted_reason: why they stay float.
        unread_float: whether what a quantized op makes stays float where no quantized op reads it.
        merge_methods: the target's choice for each alignment option that the user leaves open.
        widths: of activations in other bits, where the target has them otherwise than in its usual ones; in bits that
            are not among them everything but the range stays.
    """

    name: str
    version: str
    source: str
    activation: Scheme
    weight: WeightFormat
    bias: Scheme
    can_requantize: bool
    quantize_unlisted: bool
    unlisted_reason: str
    quantizable: tuple[QuantizableRule, ...]
    same: tuple[SameRule, ...] = ()
    fixed: tuple[FixedRule, ...] = ()
    weighted: tuple[WeightedRule, ...] = ()
    fusions: tuple[FusionRule, ...] = ()
    no_values: tuple[NoValueRule, ...] = ()
    composites: tuple[CompositeRule, ...] = ()
    merge_methods: MergeMethods = UNCHANGED
    ratios: tuple[RatioRule, ...] = ()
    widths: tuple[ActivationWidth, ...] = ()
    status: str = "documented"
    inherits: str | None = None
    unread_float: bool = False

    def width(self, dtype: str) -> ActivationWidth | None:
        """What the target says of activations in an integer type that is not its usual one, if it says anything."""
        return next((width for width in self.widths if width.scheme.dtype == dtype), None)
