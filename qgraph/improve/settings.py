"""Which parts of `improve` are on, and what each of them did. Plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from qgraph.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts are on.

    Attributes:
        fold: constant factors and addends behind weighted ops go into their weights and biases.
        equalize: the channels of activations between weighted ops get ranges of one size.
        observer: the observer is the one whose model's outputs are nearest to the float model's, as measured.
        weights: scales of weights are those of least error or of the whole range, whichever is nearer there.
        ranges: the groups that cost the outputs most get other ranges, if those measure better there.
        bias: what quantization shifts on average is added to the biases.
    """

    fold: bool = True
    equalize: bool = True
    observer: bool = True
    weights: bool = True
    ranges: bool = True
    bias: bool = True

    @property
    def on(self) -> tuple[str, ...]:
        """The names of the parts that are on, in the order in which they work."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


def parts_with(on: Iterable[str] = (), off: Iterable[str] = ()) -> Parts:
    """The default parts with some switched on or off.

    Raises:
        NotFoundError: no such part.

    >>> parts_with(off=["equalize"]).on
    ('fold', 'observer', 'weights', 'ranges', 'bias')
    """
    parts, names = Parts(), [field.name for field in fields(Parts)]
    for given, value in ((on, True), (off, False)):
        for name in given:
            if name not in names:
                raise NotFoundError.among("part of improve", name, names, f"use {', '.join(names)}")
            parts = replace(parts, **{name: value})
    return parts
