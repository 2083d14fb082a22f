"""Check the parsed TOML of a rule pack and build a `RulePack` from it. All mistakes are told at once.

The tables of a pack::

    [pack]           name, version, source, can_requantize, unlisted ("float" or "quantize"), unlisted_reason,
                     unread ("float" or "quantize", which is the default: what quantized ops make for float ones),
                     status ("documented" or "reported"), inherits (a shipped pack or a path), without (names of
                     inherited rules that do not hold), not_quantized (op types of the inherited pack that stay float)
    [activation]     bits, signed, symmetric, quant_min, quant_max, power_of_two
    [weight]         the same, and granularity ("per_tensor" or "per_channel"), reduced_range, reduce_range
    [[activation_width]]  as [activation], source, bias_bits (widths of a bias beside it): activations in other bits
    [bias]           as [activation]
    [[quantizable]]  ops, when, minimum_opset, only_after_quantized, bits, source
    [[same]]         name, ops, inputs, outputs, strength, direction ("input" or "output"), when, across, read_by,
                     source, reported
    [[fixed]]        name, ops, outputs, scale (a number or a fraction such as "1/256"), offset, bits, when,
                     source, reported
    [[weighted]]     name, ops, weight, bias, axis, input_axis, also_axis (that ``check`` takes besides), when, source,
                     reported
    [[fusion]]       name, producers (a list or "all"), consumers, beside, producer_when, when, source, reported
    [[ratio]]        name, ops, numerator, denominator (lists of "in:0", "out:all"), above, below, at_least, at_most,
                     when, source, reported
    [[no_value]]     ops, inputs, constants_only, reason
    [[composite]]    name ("gelu" or "normalization": one that is written as several ops, all of which stay in float),
                     source, reported
    [merge_methods]  elementwise_merge_method, concat_merge_method, averagepool_method, resize_method; all optional

``inputs`` and ``outputs`` are lists of indices or "all". ``when`` is a list of conditions: tables with ``input``,
``attribute``, ``default``, ``one_of`` or ``none_of``, ``constant`` and ``dimension``. ``one_of`` holds only for a
value that is known and listed, ``none_of`` also for one that is computed when the model runs, so that with the same
list exactly one of the two holds. ``reported = true`` marks a rule that is known only from reports of users; in a
pack of that status it is the default. Every table of a rule may say for which versions of the target it holds: from
``since`` on, before ``until``; the newest version is meant unless another one is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qgraph.constraints.fields import Fields
from qgraph.constraints.merge_methods import FAMILIES, UNCHANGED, MergeMethod, MergeMethods
from qgraph.constraints.rule_pack import (
    ActivationWidth,
    FixedRule,
    RatioRule,
    RulePack,
    SameRule,
    WeightedRule,
    WeightFormat,
)
from qgraph.constraints.rule_reader import (
    composite,
    fixed,
    fusion,
    no_value,
    quantizable,
    ratio,
    same,
    source_of,
    weighted,
)
from qgraph.errors import PackError, UsageError
from qgraph.tqc import Scheme

_FALLBACK = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
"""Stands in for a scheme with a mistake while the rest of the pack is checked; never leaves this module."""


STATUSES = ("documented", "reported")

Version = tuple[int, ...]


def read_pack(
    document: Mapping[str, object], file: str, target_version: str | None = None, mistakes: Iterable[str] = ()
) -> RulePack:
    """Build a rule pack from parsed TOML.

    Args:
        document: the top-level table.
        file: what the messages call the file.
        target_version: of the target, as ``2.38``; None for the newest.
        mistakes: that are known already.

    Raises:
        PackError: its `which` names the file and, for every mistake, the field and what to do.
    """
    top = Fields(document, "", list(mistakes))
    header = _header(top.table("pack"))
    version = None if target_version is None else _version(target_version)

    def entries(key: str) -> list[Fields]:
        tables = top.tables(key)
        for table in tables:
            table.reported = header.status == "reported" and not (table.source is not None and table.source.inherited)
        return [table for table in tables if _in_force(table, version)]

    activation = _scheme(top.table("activation"))
    widths = _widths(entries("activation_width"))
    pack = RulePack(
        name=header.name,
        version=header.version + ("" if target_version is None else f"@{target_version}"),
        source=header.source,
        activation=activation,
        weight=_weight_format(top.table("weight")),
        bias=_scheme(top.table("bias")),
        can_requantize=header.can_requantize,
        quantize_unlisted=header.quantize_unlisted,
        unlisted_reason=header.unlisted_reason,
        quantizable=tuple(quantizable(entry) for entry in entries("quantizable")),
        same=tuple(same(entry) for entry in entries("same")),
        fixed=tuple(fixed(entry, activation, widths) for entry in entries("fixed")),
        weighted=tuple(weighted(entry) for entry in entries("weighted")),
        fusions=tuple(fusion(entry) for entry in entries("fusion")),
        no_values=tuple(no_value(entry) for entry in entries("no_value")),
        composites=tuple(composite(entry) for entry in entries("composite")),
        merge_methods=_merge_methods(top.optional_table("merge_methods")),
        ratios=tuple(ratio(entry) for entry in entries("ratio")),
        widths=widths,
        status=header.status,
        inherits=header.inherits,
        unread_float=header.unread_float,
    )
    top.refuse_unknown()
    _check_names(pack, top)
    if top.mistakes:
        raise PackError(
            "a rule pack with mistakes" if len(top.mistakes) > 1 else "a rule pack with a mistake",
            f"{file}: {' | '.join(top.mistakes)}",
            "correct the file",
        )
    return pack


@dataclass(frozen=True, slots=True)
class _Header:
    """What the table ``[pack]`` says, as `RulePack` has it."""

    name: str
    version: str
    source: str
    status: str
    inherits: str | None
    can_requantize: bool
    quantize_unlisted: bool
    unlisted_reason: str
    unread_float: bool


def _header(fields: Fields) -> _Header:
    """Read first, so that ``inherits`` misspelt is told before all that is missing without it."""
    inherits = fields.optional_text("inherits")
    for exceptions in ("without", "not_quantized"):
        if fields.optional_texts(exceptions) and inherits is None:
            fields.mistake(exceptions, "given without inherits", "name the pack, or take this out")
    header = _Header(
        name=fields.text("name"),
        version=fields.text("version"),
        source=fields.text("source"),
        status=fields.optional_choice("status", STATUSES) or STATUSES[0],
        inherits=inherits,
        can_requantize=fields.boolean("can_requantize"),
        quantize_unlisted=fields.choice("unlisted", ("float", "quantize")) == "quantize",
        unlisted_reason=fields.text("unlisted_reason"),
        unread_float=fields.optional_choice("unread", ("float", "quantize")) == "float",
    )
    fields.refuse_unknown()
    return header


def _check_names(pack: RulePack, top: Fields) -> None:
    """Rule names must be unique, and rules must speak of ops that the pack quantizes."""
    rules: tuple[SameRule | FixedRule | WeightedRule | RatioRule, ...] = (
        *pack.same,
        *pack.fixed,
        *pack.weighted,
        *pack.ratios,
    )
    names = Counter([rule.name for rule in rules] + [rule.name for rule in pack.fusions])
    for name in sorted(name for name, count in names.items() if count > 1):
        top.mistake(f"rule name {name!r}", "used twice", "give each rule its own name")
    if pack.quantize_unlisted:
        return
    listed = {op for rule in pack.quantizable for op in rule.ops}
    for rule in rules:
        for op in (*rule.ops, *(rule.read_by if isinstance(rule, SameRule) else ())):
            if op not in listed:
                top.mistake(f"rule {rule.name!r}", f"{op} is in no [[quantizable]] table", "add it there")


def _scheme(fields: Fields) -> Scheme:
    bits = fields.integer("bits")
    signed, symmetric = fields.boolean("signed"), fields.boolean("symmetric")
    low, high = fields.integer("quant_min"), fields.integer("quant_max")
    power_of_two = fields.boolean("power_of_two", default=False)
    fields.refuse_unknown()
    return _checked_scheme(fields, bits, low, high, signed=signed, symmetric=symmetric, power_of_two=power_of_two)


def _widths(tables: Iterable[Fields]) -> tuple[ActivationWidth, ...]:
    """One for each number of bits: what a pack says of them replaces what the one says that it inherits from."""
    found: dict[int, ActivationWidth] = {}
    for table in tables:
        source, bias_bits = source_of(table), table.integers("bias_bits", default=())
        scheme = _scheme(table)
        found[scheme.bits] = ActivationWidth(scheme, source, bias_bits)
    return tuple(found.values())


def _checked_scheme(
    fields: Fields, bits: int, low: int, high: int, *, signed: bool, symmetric: bool, power_of_two: bool
) -> Scheme:
    if fields.broken:
        return _FALLBACK
    if not 2 <= bits <= 32:
        fields.mistake("bits", f"{bits} is not from 2 to 32", "choose a width in that range")
        return _FALLBACK
    if high - low < 1 << (bits - 1):
        fields.mistake("bits", f"{bits} are more than [{low}, {high}] needs", "give bits and range that go together")
        return _FALLBACK
    try:
        return Scheme(bits, signed, symmetric, low, high, None, power_of_two)
    except UsageError as error:
        fields.mistake("quant_min, quant_max", f"{error.which} does not fit", error.cure)
        return _FALLBACK


def _weight_format(fields: Fields) -> WeightFormat:
    per_channel = fields.choice("granularity", ("per_tensor", "per_channel")) == "per_channel"
    reduced = fields.integers("reduced_range", default=())
    reduce_range = fields.boolean("reduce_range", default=False)
    scheme = _scheme(fields)
    if reduce_range and not reduced:
        fields.mistake("reduced_range", "missing, though reduce_range is true", "add [quant_min, quant_max]")
    if not reduced:
        return WeightFormat(scheme, per_channel, None, reduce_range)
    if len(reduced) != 2 or not scheme.quant_min <= reduced[0] < reduced[1] <= scheme.quant_max:
        cure = f"give two integers, the smaller first, inside [{scheme.quant_min}, {scheme.quant_max}]"
        fields.mistake("reduced_range", f"{list(reduced)} is no part of the full range", cure)
        return WeightFormat(scheme, per_channel, None, reduce_range)
    return WeightFormat(scheme, per_channel, (reduced[0], reduced[1]), reduce_range)


def _in_force(fields: Fields, wanted: Version | None) -> bool:
    """Whether a rule holds for a version of the target; the newest is after every ``until``."""
    since, until = (fields.optional_text(key) for key in ("since", "until"))
    first, end = (_version_field(fields, key, text) for key, text in (("since", since), ("until", until)))
    if first is not None and end is not None and first >= end:
        fields.mistake("until", f"{until} is not after {since}", "give the first version without the rule")
    if fields.broken:
        return True  # so that its other mistakes are found, too
    if wanted is None:
        return end is None
    return (first is None or wanted >= first) and (end is None or wanted < end)


def _version_field(fields: Fields, key: str, text: str | None) -> Version | None:
    if text is None or fields.broken:
        return None
    if not all(part.isdecimal() for part in text.split(".")):
        fields.mistake(key, f"{text!r} is no version", 'write one such as "2.38"')
        return None
    return _version(text)


def _version(text: str) -> Version:
    """A dotted version, without the zeros at its end: 2.0 is 2."""
    numbers = [int(part) for part in text.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _merge_methods(fields: Fields | None) -> MergeMethods:
    if fields is None:
        return UNCHANGED
    given = {option: fields.optional_choice(option, tuple(MergeMethod)) for option in FAMILIES}
    fields.refuse_unknown()
    return MergeMethods(**{option: None if name is None else MergeMethod(name) for option, name in given.items()})
