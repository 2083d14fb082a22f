"""Whether a device that the user names is there; torch is loaded only if it is not the CPU."""

from __future__ import annotations


def check_device(device: str) -> None:
    """Refuse a device that is not there, before anything is computed.

    Raises:
        UsageError: with what can be used.
    """
    if device != "cpu":
        from qgraph.calib.runners.torch_runner import usable_device  # loads torch

        usable_device(device)
