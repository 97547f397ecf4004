"""bench/test_gpu.py without a GPU: `pytest -p helpers.dry_gpu` makes sure that it runs, and tells nothing about speed.

What is on "cuda" is on the CPU; kernels are called and compute nothing; a CUDA graph holds nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch.overrides import TorchFunctionMode

from ghnfast.kernels import attention, check, decode, graphormer, layers, products, sweep
from ghnfast.ops import backend
from ghnfast.ops.decode import FINE
from helpers import kernel_device  # noqa: F401  (first: kernels are interpreted, if they run at all)


class Kernel:
    """Computes nothing but the status, where the kernel is one that makes it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, grid: Any) -> Any:
        return self.launched

    def launched(self, *arguments: Any, **options: Any) -> None:
        if self.name in ("embed_kernel", "begin_kernel"):
            arguments[1].fill_(FINE)


def here(value: Any) -> Any:
    return "cpu" if isinstance(value, (str, torch.device)) and str(value).startswith("cuda") else value


class OnTheCpu(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*map(here, args), **{name: here(value) for name, value in (kwargs or {}).items()})


class Graph:
    def replay(self) -> None:
        pass


def once(function: Any, **options: Any) -> float:
    function()
    return 1.0


def install() -> None:
    for module in (attention, check, decode, graphormer, layers, products, sweep):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            setattr(module, name, Kernel(name))
    backend.backend_asked_for = lambda: "triton"
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[assignment, method-assign]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.CUDAGraph = Graph  # type: ignore[assignment, misc]
    torch.cuda.graph = lambda graph: contextlib.nullcontext()  # type: ignore[assignment, misc]
    triton.testing.do_bench = once
    OnTheCpu().__enter__()


install()
