"""Which implementation of an operation runs: `GHNFAST_BACKEND`, or the fastest that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _C
from ..errors import BackendError

VARIABLE = "GHNFAST_BACKEND"
BACKENDS = ("torch", "cpp")
CPP_DTYPES = (torch.float32, torch.float64)
PLAIN_TYPES = {Tensor, torch.nn.Parameter}
# Looked up once: right after other code has run, each step of a dotted name is a wait for memory.
dispatch_modes = torch._C._len_torch_dispatch_stack
functorch_level = torch._C._functorch.peek_interpreter_stack
is_compiling = torch.compiler.is_compiling


def backend_for(tensor: Tensor) -> str:
    """The implementation for operations on a tensor: "torch" (plain PyTorch) or "cpp" (C++, on the CPU).

    Raises:
        BackendError: `GHNFAST_BACKEND` asks for one that does not exist, or cannot work on the tensor.
    """
    fits = tensor.is_cpu and tensor.dtype in CPP_DTYPES
    chosen = _C.environment(VARIABLE)
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


def is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether an operation on these is numbers in and numbers out: nobody records, transforms or compiles it.

    Then the implementation is called as it is: torch's dispatcher takes longer than a small graph's sweep.
    """
    return (
        not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and {type(tensor) for tensor in tensors} <= PLAIN_TYPES
        and not dispatch_modes()
        and functorch_level() is None
        and not is_compiling()
    )


def as_arrays(*tensors: Tensor) -> Any:
    """Tensors as the contiguous numpy arrays that C++ takes; in their own memory where they are contiguous."""
    return [as_array(tensor if tensor.is_contiguous() else tensor.contiguous()) for tensor in tensors]


def as_array(tensor: Tensor) -> Any:
    return tensor.numpy(force=tensor.requires_grad or tensor.is_neg())
