"""Which sample holds what is special about a tensor: its minimum, its maximum, the first value that is not finite.

A sample is named by its content hash. Where several hold the same extreme the smallest hash is kept, so that the
answer does not depend on the order of the samples; "first" has the same meaning for NaN and Inf.

>>> one, other = Provenance(minimum="b7", maximum="b7"), Provenance(minimum="0c", maximum="0c", nonfinite="0c")
>>> joined(one, other, minima=(-1.0, -1.0), maxima=(5.0, 2.0))
Provenance(minimum='0c', maximum='b7', nonfinite='0c')
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provenance:
    """Hashes of samples; None where no sample is known to hold it.

    Attributes:
        minimum, maximum: a sample with that extreme of the finite values.
        nonfinite: a sample with NaN or Inf.
    """

    minimum: str | None = None
    maximum: str | None = None
    nonfinite: str | None = None


UNKNOWN = Provenance()
"""The identity of `joined`: constants, and tensors that were never run, come from no sample."""


def joined(
    a: Provenance,
    b: Provenance,
    *,
    minima: tuple[float | None, float | None],
    maxima: tuple[float | None, float | None],
) -> Provenance:
    """Provenance in all samples of both: exact, associative, commutative.

    Args:
        minima, maxima: of `a` and of `b`; None where there was no finite value.
    """
    return Provenance(
        minimum=_holder((a.minimum, b.minimum), minima, sign=1.0),
        maximum=_holder((a.maximum, b.maximum), maxima, sign=-1.0),
        nonfinite=smallest((a.nonfinite, b.nonfinite)),
    )


def smallest(hashes: Iterable[str | None]) -> str | None:
    """The smallest hash that is known, or None."""
    return min((one for one in hashes if one is not None), default=None)


def _holder(
    holders: tuple[str | None, str | None], extremes: tuple[float | None, float | None], *, sign: float
) -> str | None:
    """Who holds the smaller of two extremes after multiplication with `sign`."""
    known = [(sign * extreme, holder) for extreme, holder in zip(extremes, holders, strict=True) if extreme is not None]
    least = min((extreme for extreme, _ in known), default=None)
    return smallest(holder for extreme, holder in known if extreme == least)
