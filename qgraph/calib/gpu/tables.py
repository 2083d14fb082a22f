"""Activations on a device as the kernels of `qgraph.calib.gpu.triton_kernels` want them, and tables for these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike

from qgraph.calib.cpu.kernels import HIGHEST_FINITE, LOWEST_FINITE
from qgraph.calib.grid import ordered
from qgraph.errors import StatisticsError

KINDS: Final = MappingProxyType({torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"})
"""Types that the kernels read as they are; every other one is converted to float32 before."""

LARGEST_SAMPLE: Final = 2**31 - 1
"""Elements of one sample of a tensor that the kernels can address."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor as samples of [outer, size, inner] along an axis; what the layout of a launch depends on.

    Attributes:
        kind: of its elements, one of `KINDS`.
        samples: how many there are along axis 0; 1 where the tensor cannot be cut into samples.
    """

    kind: str
    samples: int
    outer: int
    size: int
    inner: int

    @property
    def elements(self) -> int:
        """Of one sample."""
        return self.outer * self.size * self.inner


def placed(value: Any, device: torch.device) -> torch.Tensor:
    """An activation as a contiguous tensor of one of `KINDS` on a device, without a copy where it is one."""
    tensor = torch.as_tensor(value).detach().to(device, non_blocking=True)
    return (tensor if tensor.dtype in KINDS else tensor.to(torch.float32)).contiguous()


def is_cut(tensor: torch.Tensor, samples: int) -> bool:
    """Whether axis 0 of a tensor is that of several samples."""
    return samples > 1 and tensor.ndim > 0 and tensor.shape[0] == samples


def extent_of(tensor: torch.Tensor, axis: int, samples: int) -> Extent | None:
    """How a tensor lies along an axis of each of its samples, a scalar having one axis; None if it has no such axis.

    Raises:
        StatisticsError: a sample has more than `LARGEST_SAMPLE` elements.
    """
    shape = list(tensor.shape) or [1]
    if not -len(shape) <= axis < len(shape):
        return None
    cut = is_cut(tensor, samples)
    if cut:
        shape[0] = 1
    at = axis % len(shape)
    outer, inner = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    extent = Extent(KINDS[tensor.dtype], samples if cut else 1, outer, shape[at], inner)
    if extent.elements > LARGEST_SAMPLE:
        cure = "calibrate with --device cpu"
        raise StatisticsError("an activation too large for the GPU's kernels", f"{extent.elements} elements", cure)
    return extent


def uploaded(rows: ArrayLike, device: torch.device, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A table on a device; the host does not wait until it is there."""
    table = torch.from_numpy(np.ascontiguousarray(rows)).to(dtype)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def addresses(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Where tensors begin: int64. They have to live until the launch that reads them; a stream keeps what it reads."""
    return uploaded(np.array([tensor.data_ptr() for tensor in tensors], np.int64), device)


def columns_for(atoms: int) -> int:
    """Columns of a table of so many atoms: a power of two, at least 1."""
    return 1 << max(0, atoms - 1).bit_length()


def ordered_bounds(bounds: tuple[float, float]) -> tuple[int, int]:
    """Bounds as ordering integers; infinite ones let infinite values pass."""
    low, high = (np.float32(bound) for bound in bounds)
    return (
        ordered(float(low)) if np.isfinite(low) else LOWEST_FINITE - 1,
        ordered(float(high)) if np.isfinite(high) else HIGHEST_FINITE + 1,
    )
