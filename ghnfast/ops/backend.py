"""Which implementation of an operation runs: `GHNFAST_BACKEND`, or the fastest that fits."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError

VARIABLE = "GHNFAST_BACKEND"
BACKENDS = ("torch", "cpp")
CPP_DTYPES = (torch.float32, torch.float64)


def backend_for(tensor: Tensor) -> str:
    """The implementation for operations on a tensor: "torch" (plain PyTorch) or "cpp" (C++, on the CPU).

    Raises:
        BackendError: `GHNFAST_BACKEND` asks for one that does not exist, or cannot work on the tensor.
    """
    fits = tensor.device.type == "cpu" and tensor.dtype in CPP_DTYPES
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return "cpp" if fits else "torch"
    if chosen not in BACKENDS:
        raise BackendError(f"{VARIABLE} is {chosen!r}; {' and '.join(map(repr, BACKENDS))} are accepted")
    if chosen == "cpp" and not fits:
        raise BackendError(
            f"{VARIABLE} is 'cpp', and the GHN is {tensor.dtype} on {tensor.device}; float32 and float64 on the CPU "
            "are accepted"
        )
    return chosen


def as_arrays(*tensors: Tensor) -> Any:
    """Tensors as the contiguous numpy arrays that C++ takes."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
