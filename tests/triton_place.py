"""Where the tests run the kernels for GPUs: on a GPU, or in Triton's interpreter.

Triton decides for good when it is imported, which some parts of torch do, so `conftest` imports this first.
"""

import os

import torch

PLACE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if PLACE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
