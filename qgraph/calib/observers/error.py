"""The expected squared error of quantization, in closed form: what the mse observer minimises and noise is made of.

In units of the scale s, a value u is rounded to the nearest integer n of [low, high] (0 is the zero point), which
costs (u − n)². Its antiderivative, continuous over rounding and clipping alike, is n/12 + (u − n)³/3: each whole
step contributes ∫(u − round u)² du = 1/12, and beyond the ends n stays while the cube grows::

    (u − n)²     ╲_╱╲_╱╲_╱          n = low … high
                ╱
    integral  __╱─╱─╱─╱

Every sum is the last entry of a running sum along the row. It is sequential on CPU, and zeros at the end do not
change it, so that it depends neither on the number of threads nor on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density

CACHED_ELEMENTS = 1 << 17
"""Size of the intermediate tensors on CPU: 1 MiB each, so that they stay in the cache and few operations are needed."""

ACCELERATOR_ELEMENTS = 1 << 24
"""Size of the intermediate tensors elsewhere: 128 MiB each."""


def working_elements(device: torch.device) -> int:
    """How many elements an intermediate tensor may have on a device."""
    return CACHED_ELEMENTS if device.type == "cpu" else ACCELERATOR_ELEMENTS


def row_sums(rows: Tensor) -> Tensor:
    """Sums along the last axis, in order from first to last."""
    return rows.cumsum(-1)[..., -1]


def error_energy(density: Density, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Σ count · E[(x − Q(x))²] for k quantizers of each of n densities.

    Args:
        scale: float64 [n, k].
        low, high: float64 [n, k], the ends of the integer range minus the offset.

    Returns:
        float64 [n, k], in squared units of x.
    """
    result = torch.empty_like(scale)
    edges, points = density.edges.shape[1], density.points.shape[1]
    for rows, columns in tiles(scale.shape[0], scale.shape[1], edges + points, working_elements(scale.device)):
        s, smallest, largest = (t[rows, columns, None] for t in (scale, low, high))
        # The integral is continuous, so a product instead of a quotient changes nothing but its last bits.
        integral = _step_integral(density.edges[rows, None, :] * s.reciprocal(), smallest, largest)
        smooth = row_sums(integral.mul_(density.steps[rows, None, :])) * s[..., 0] / 12
        error = density.points[rows, None, :] / s
        error -= _within(error.round(), smallest, largest)
        exact = row_sums(error.square_().mul_(density.masses[rows, None, :]))
        result[rows, columns] = (smooth + exact) * s[..., 0].square()
    return result.clamp_(min=0)


def signal_energy(density: Density) -> Tensor:
    """Σ count · E[x²]: float64 [n]."""
    cubes = density.edges.square() * density.edges
    return row_sums(cubes * density.steps) / 3 + row_sums(density.points.square() * density.masses)


def _step_integral(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Twelve times the antiderivative of (u − n)², in the memory of `u` and two more tensors of its size."""
    n = _within(u.round(), low, high)
    u -= n
    return torch.addcmul(n, u.square(), u, value=4, out=n)


def _within(n: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`n`, changed in place to lie between bounds of its rows. As fast as vectors allow, which `clamp_` is not."""
    return torch.minimum(torch.maximum(n, low, out=n), high, out=n)


def tiles(rows: int, columns: int, width: int, elements: int) -> Iterator[tuple[slice, slice]]:
    """Cut a [rows, columns] problem of `width` elements each into tiles of at most `elements`."""
    tile_columns = max(1, min(columns, elements // width))
    tile_rows = max(1, elements // (width * tile_columns))
    for row in range(0, rows, tile_rows):
        for column in range(0, columns, tile_columns):
            yield slice(row, row + tile_rows), slice(column, column + tile_columns)
