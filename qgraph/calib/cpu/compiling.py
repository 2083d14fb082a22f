"""What the kernels need of numba: they are compiled on first use, and may tell the processor where they will write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

WIDE_ARITHMETIC: Final = ("amx", "avx", "fma", "f16c", "neon", "sse", "sve", "dotprod", "i8mm", "bf16", "fullfp16")
"""Beginnings of the names of instruction sets that change how a runtime rounds its sums."""

_PREFETCH: Final = "llvm.prefetch.p0i8"
_TO_WRITE, _TO_KEEP, _DATA = (cgutils.int32_t(number) for number in (1, 3, 1))
"""Its arguments behind the address, as LLVM's language reference numbers them."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba on first use, without the interpreter's lock; cached on disk where a folder is writable."""
    try:
        kernel: Callable[P, R] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        kernel = numba.njit(nogil=True)(function)
    return kernel


def _prefetching(_typing: Any, array: Any, index: Any) -> Any:
    """The signature of `prefetch` for these types, and what makes its code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *(one.type for one in (_TO_WRITE, _TO_KEEP, _DATA))])
        declared = cgutils.get_or_insert_function(builder.module, kind, _PREFETCH)  # type: ignore[no-untyped-call]
        builder.call(declared, [address, _TO_WRITE, _TO_KEEP, _DATA])
        return context.get_dummy_value()

    return types.void(array, index), generate


# To mypy it is what makes its code.
prefetch: Callable[[NDArray[Any], int], None] = intrinsic(_prefetching)  # type: ignore[assignment]
"""In a kernel: have the cache line of an element brought in while the kernel goes on.

Rows of counters that lie scattered are waited for otherwise, each a hundred cycles or more. The array is contiguous;
the element is told by its place among all, and one that is not there does no harm.
"""


def cpu_features() -> str:
    """The processor's instruction sets that change how a runtime rounds sums, sorted, separated by spaces."""
    listed: str = get_host_cpu_features()  # type: ignore[no-untyped-call]
    present = (name[1:] for name in listed.split(",") if name.startswith("+"))
    return " ".join(sorted(name for name in present if name.startswith(WIDE_ARITHMETIC)))
