"""Which implementation of an operation runs: `GHNFAST_BACKEND`, or the fastest that fits."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef  # type: ignore[attr-defined]

from .. import _C
from ..errors import BackendError
from ..optional import command

VARIABLE = "GHNFAST_BACKEND"
BACKENDS = ("torch", "cpp", "triton")
CPP_DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
# The oldest GPUs that the kernels are compiled for in the tests: NVIDIA's Ampere.
LEAST_CAPABILITY = (8, 0)
PLAIN_TYPES = {Tensor, torch.nn.Parameter}
# Looked up once: right after other code has run, each step of a dotted name is a wait for memory.
dispatch_modes = torch._C._len_torch_dispatch_stack
functorch_level = torch._C._functorch.peek_interpreter_stack
is_compiling = torch.compiler.is_compiling


def backend_for(tensor: Tensor) -> str:
    """The implementation for operations on a tensor.

    "cpp" (C++) for float32 and float64 on the CPU, "triton" for float32 on a GPU where Triton is installed, else
    "torch" (plain PyTorch).

    Raises:
        BackendError: `GHNFAST_BACKEND` asks for one that does not exist, or cannot work on the tensor.
    """
    fits = tensor.is_cpu and tensor.dtype in CPP_DTYPES
    chosen = backend_asked_for()
    if not chosen:
        return "cpp" if fits else "torch" if tensor.is_cpu or triton_refusal(tensor) else "triton"
    if chosen not in BACKENDS:
        raise BackendError(f"{VARIABLE} is {chosen!r}; {', '.join(map(repr, BACKENDS))} are accepted")
    if chosen == "cpp" and not fits:
        raise BackendError(
            f"{VARIABLE} is 'cpp', and the GHN is {tensor.dtype} on {tensor.device}; float32 and float64 on the CPU "
            "are accepted"
        )
    refusal = triton_refusal(tensor) if chosen == "triton" else ""
    if refusal:
        raise BackendError(f"{VARIABLE} is 'triton', and {refusal}")
    return chosen


def backend_asked_for() -> str:
    """The implementation that `GHNFAST_BACKEND` asks for; empty where it asks for none."""
    return _C.environment(VARIABLE) or ""


def triton_refusal(tensor: Tensor) -> str:
    """Why the Triton kernels cannot work on a tensor; empty where they can."""
    if not has_triton():
        return f"Triton is not installed; {command('triton')}"
    if tensor.dtype != torch.float32:
        return f"the GHN is {tensor.dtype}; float32 is accepted"
    if tensor.is_cpu:
        interpreting = os.environ.get("TRITON_INTERPRET") == "1"
        return "" if interpreting else "the GHN is on the CPU; a GPU, or TRITON_INTERPRET=1 for tests, is accepted"
    # AMD's GPUs have the name, too; numbers of registers, which kernels ask for, have no meaning there.
    if tensor.is_cuda and torch.version.hip is None and capability_of(tensor.device) >= LEAST_CAPABILITY:
        return ""
    least = ".".join(map(str, LEAST_CAPABILITY))
    return f"the GHN is on {tensor.device}; NVIDIA's GPUs of compute capability {least} and more are accepted"


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def capability_of(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def are_recorded(tensors: Iterable[Tensor]) -> bool:
    """Whether what is computed of these is recorded for a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether an operation on these is numbers in and numbers out: nobody records, transforms or compiles it.

    Then the implementation is called as it is: torch's dispatcher takes longer than a small graph's sweep.
    """
    return not are_recorded(tensors) and is_eager(tensors)


def is_eager(tensors: Sequence[Tensor]) -> bool:
    """Whether an operation on these is computed, and at most recorded: nobody transforms or compiles it."""
    return (
        not is_compiling()  # first: what compiles knows it, and what the others call makes it stop
        and {type(tensor) for tensor in tensors} <= PLAIN_TYPES
        and not dispatch_modes()
        and functorch_level() is None
    )


def operator(name: str, computed: Callable[..., Any], on_device: Callable[..., Any], schema: str) -> CustomOpDef:
    """An operator of torch, `ghnfast::name`, that changes none of its arguments.

    Args:
        computed: what computes it on a CPU.
        on_device: on a GPU.
        schema: spelled out, for torch 2.6 cannot infer it from `list[Tensor]`.
    """
    made = torch.library.custom_op(f"ghnfast::{name}", computed, mutates_args=(), device_types="cpu", schema=schema)
    made.register_kernel("cuda", on_device)
    return made


def as_arrays(*tensors: Tensor) -> Any:
    """Tensors as the contiguous numpy arrays that C++ takes; in their own memory where they are contiguous.

    bfloat16 is int16, with the same bits.
    """
    return [as_array(tensor if tensor.is_contiguous() else tensor.contiguous()) for tensor in tensors]


def as_array(tensor: Tensor) -> Any:
    force = tensor.requires_grad or tensor.is_neg()
    if tensor.dtype == torch.bfloat16:  # which numpy has not: its bits
        return (tensor.detach().resolve_neg() if force else tensor).view(torch.int16).numpy()
    return tensor.numpy(force=force)


def autocasts(tensor: Tensor) -> bool:
    """Whether torch would round operands on the device of a tensor (automatic mixed precision)."""
    return torch.is_autocast_enabled(tensor.device.type)
