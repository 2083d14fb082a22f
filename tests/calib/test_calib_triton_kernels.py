"""The kernels compile for GPUs, and to code whose counts and sums are exact; no GPU is needed for that."""

import os
import re
import subprocess
import sys

import pytest

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qgraph.calib.gpu import triton_kernels as kernels

CONSTANTS = {"kind": "KIND", "binned": True, "atom_columns": 2, "block": 16, "width": 128}
POINTERS = {"log": "*i32", "atoms": "*i32", "bins": "*i32", "keys": "*i32", "places": "i32"}

function = kernels.NAME
constants = {name: CONSTANTS[name] for name in function.arg_names if name in CONSTANTS}
signature = {name: "constexpr" if name in constants else POINTERS.get(name, "*i64") for name in function.arg_names}
source = ASTSource(fn=function, signature=signature, constexprs=constants)
print(triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False}).asm["ptx"])
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("count_bins", kind) for kind in ("float32", "bfloat16", "float16")),
        *(("take_channels", "float32"), ("merge_channels", "float32"), ("pair_rows", "bfloat16")),
    ],
)
def test_a_kernel_compiles_to_exact_arithmetic(name: str, kind: str) -> None:
    code = COMPILE.replace("NAME", name).replace("KIND", kind)
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ".visible .entry" in done.stdout
    assert not re.findall(r"\w+[.\w]*\.ftz[.\w]*", done.stdout), "denormals are flushed"
    assert not re.findall(r"fma[.\w]*\.f(?:32|64)", done.stdout), "a product is not rounded"
    assert not re.findall(r"(?:atom|red)\.\w[.\w]*\.f(?:32|64)", done.stdout), "a sum depends on the order of programs"
