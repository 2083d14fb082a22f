"""The alignment options: how the sides of ops that combine, pool or resize values come to one scale.

::

    a ─┐                    option                    ops                              ties
       Add ── s             elementwise_merge_method  Add, Sub, Sum                    a with b; Output: a and b with s
    b ─┘                    concat_merge_method       Concat                           inputs with output
                            averagepool_method        AveragePool, GlobalAveragePool   input with output
                            resize_method             Resize                           input with output

A method ties the slots where the target's rule pack does not, and it says whose statistics count: all (Joint), those
of one side (Align to Input, Align to Output), or those of each input alone, the ranges united (Align to Large).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TypedDict

from qgraph.errors import NotFoundError


class MergeMethod(StrEnum):
    """What an alignment option can be."""

    NONE = "None"  # no tie, unless the target requires it: then it is refused
    FORCE_NONE = "Force None"  # no tie, even where the target requires it
    INPUT = "Align to Input"  # what leaves the op does not count
    LARGE = "Align to Large"  # each input is solved alone, and the ranges are united
    OUTPUT = "Align to Output"  # what enters the op does not count
    JOINT = "Joint"  # solved from the merged statistics of both sides


Given = MergeMethod | str | bool | None
"""A method as a user gives it: by name in any case, with or without "Align to"; True is Joint, False is None.

Python's None leaves the choice to the target.
"""


class MergeOptions(TypedDict, total=False):
    """The alignment options as keywords."""

    elementwise_merge_method: Given
    concat_merge_method: Given
    averagepool_method: Given
    resize_method: Given


@dataclass(frozen=True, slots=True)
class MergeMethods:
    """One method per option; None where the target's own rules stand as they are."""

    elementwise_merge_method: MergeMethod | None = None
    concat_merge_method: MergeMethod | None = None
    averagepool_method: MergeMethod | None = None
    resize_method: MergeMethod | None = None

    def items(self) -> tuple[tuple[str, MergeMethod | None], ...]:
        """Options and methods."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))

    def over(self, defaults: MergeMethods) -> MergeMethods:
        """These methods, and the defaults where there is none."""
        return MergeMethods(**{name: method or getattr(defaults, name) for name, method in self.items()})


UNCHANGED = MergeMethods()


@dataclass(frozen=True, slots=True)
class Family:
    """The ops that an option is about.

    Attributes:
        inputs: indices of those that are values; None stands for all.
        output_follows: every method ties the output; if not, Align to Output alone does.
    """

    ops: tuple[str, ...]
    inputs: tuple[int, ...] | None
    output_follows: bool


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "elementwise_merge_method": Family(("Add", "Sub", "Sum"), None, output_follows=False),
        "concat_merge_method": Family(("Concat",), None, output_follows=True),
        "averagepool_method": Family(("AveragePool", "GlobalAveragePool"), (0,), output_follows=True),
        "resize_method": Family(("Resize",), (0,), output_follows=True),
    }
)
"""What each option is about, by its name. No op is in two of them."""


def merge_methods(**options: Given) -> MergeMethods:
    """Read alignment options.

    Args:
        **options: see `MergeOptions`.

    Raises:
        NotFoundError: no such option or method.

    >>> merge_methods(elementwise_merge_method="align to large", concat_merge_method=False).elementwise_merge_method
    <MergeMethod.LARGE: 'Align to Large'>
    """
    unknown = sorted(set(options) - set(FAMILIES))
    if unknown:
        raise NotFoundError.among("option", unknown[0], FAMILIES, f"use {', '.join(FAMILIES)}")
    return MergeMethods(**{option: parse_method(option, given) for option, given in options.items()})


def parse_method(option: str, given: Given) -> MergeMethod | None:
    """Read one method; `option` is what the message calls it.

    Raises:
        NotFoundError: no such method.

    >>> [str(parse_method("resize_method", given)) for given in ("OUTPUT", "Align to Large", True, False)]
    ['Align to Output', 'Align to Large', 'Joint', 'None']
    """
    if given is None:
        return None
    if isinstance(given, bool):
        return MergeMethod.JOINT if given else MergeMethod.NONE
    known = {short(method): method for method in MergeMethod}
    if isinstance(given, str) and short(given) in known:
        return known[short(given)]
    raise NotFoundError.among(f"method for {in_words(option)}", str(given), known, f"use {', '.join(known)}")


def in_words(option: str) -> str:
    """An option as both the command line and Python callers know it.

    >>> [in_words(option) for option in FAMILIES]
    ['the elementwise merge', 'the concat merge', 'the averagepool merge', 'the resize merge']
    """
    return f"the {option.removesuffix('_method').removesuffix('_merge')} merge"


def short(name: str) -> str:
    """A method in the spelling of the command line: ``large`` for "Align to Large"."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return "-".join(words[2:] if words[:2] == ["align", "to"] else words)
