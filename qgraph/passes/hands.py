"""What the user did to configs between two passes: found by comparing them with how the last pass left them.

::

    was             is now                     means
    anything        FP32                       FLOAT: stays float
    anything        SLAVE of another master    LINKED: shares with it
    SLAVE, FP32     a state of its own         RELEASED: shares with nobody
    INITIAL         ACTIVATED                  PINNED: these parameters stand, and what must share with it takes them
    any scale       another scale              PINNED
    ACTIVATED, …    INITIAL                    nothing special: it waits for calibration again
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from qgraph.tqc import QuantizationState, TensorQuantizationConfig

BY_HAND = "a config that was changed by hand"


class Hand(StrEnum):
    """What was done to a config."""

    FLOAT = "float"
    LINKED = "linked"
    RELEASED = "released"
    PINNED = "pinned"


Signature = tuple[QuantizationState, tuple[float, ...] | None, tuple[int, ...] | None, int | None]
"""State, own scale and offset, and which object the master is."""


def signatures(configs: Mapping[str, TensorQuantizationConfig]) -> dict[str, Signature]:
    """How configs are now, by slot."""
    return {slot: _signature(config) for slot, config in configs.items()}


def _signature(config: TensorQuantizationConfig) -> Signature:
    if config.master is not None:
        return config.state, None, None, id(config.master)
    if config.state == QuantizationState.INITIAL:  # what is written to it is replaced by calibration
        return config.state, None, None, None
    return config.state, config.scale, config.offset, None


def noticed(
    configs: Mapping[str, TensorQuantizationConfig], left: Mapping[str, Signature], hands: Mapping[str, Hand]
) -> dict[str, Hand]:
    """What the user did to each config, now and earlier.

    Args:
        left: how the last pass left them.
        hands: what had been done before that.
    """
    found = dict(hands)
    for slot, config in configs.items():
        before = left[slot]
        if _signature(config) == before:
            continue
        if config.state == QuantizationState.FP32:
            found[slot] = Hand.FLOAT
        elif config.state == QuantizationState.SLAVE:
            found[slot] = Hand.LINKED
        elif before[0] in (QuantizationState.SLAVE, QuantizationState.FP32) or hands.get(slot) == Hand.RELEASED:
            found[slot] = Hand.RELEASED
        elif config.state == QuantizationState.INITIAL:
            found.pop(slot, None)
        else:
            found[slot] = Hand.PINNED
    return found
