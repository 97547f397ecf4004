"""What computes a sweep on a GPU: `GHNFAST_SWEEP`, or what was the fastest for a ResNet-50 on an H100
(bench/results/first-h100.json); for other sizes bench/test_gpu.py, `test_choice_of_sweeps`, has not been measured."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from ... import _C
from ...errors import BackendError

VARIABLE = "GHNFAST_SWEEP"
KINDS = ("cpp", "cuda", "triton")


class Sweep(NamedTuple):
    """What is to be computed: nodes of the largest graph; MLPs, and the widths of states and of the MLPs' hidden
    layers; whether there is a backward pass, and whether this is it."""

    largest: int
    heads: int
    hid: int
    width: int
    keep: bool
    backward: bool = False


def chosen_sweep(sweep: Sweep, device: torch.device, on_host: bool = False) -> Literal["cpp", "cuda", "triton"]:
    """What computes a sweep of a batch whose states are on a GPU.

    "cpp": C++ on the CPU (csrc/sweep), whose result is uploaded. Only a GHN as a whole can do so, where nobody
    differentiates or captures a CUDA graph, and `GHNFAST_BACKEND` asks for nothing. A capture reads tables that "cpp"
    does not bring to the GPU: ask for another one before the call that comes before it.
    "cuda": CUDA C++ that is compiled where it runs (kernels/chain.cu, and chain_backward.cu). Each pass takes what the
    other one of Triton kept.
    "triton": Triton (kernels/sweep.py), which takes everything.

    Args:
        on_host: whether "cpp" is possible.

    Raises:
        BackendError: `GHNFAST_SWEEP` asks for one that does not exist, or for "cuda" where it does not work.
    """
    asked = sweep_asked_for()
    if asked and asked not in KINDS:
        raise BackendError(f"{VARIABLE} is {asked!r}; {', '.join(map(repr, KINDS))} are accepted")
    if on_host and asked == "cpp":
        return "cpp"
    if asked == "triton" or device.type != "cuda":
        return "triton"
    reason = cuda_refusal(sweep, device)
    if asked == "cuda" and reason:
        raise BackendError(f"{VARIABLE} is 'cuda', and {reason}")
    return "triton" if reason else "cuda"


def sweep_asked_for() -> str | None:
    """What `GHNFAST_SWEEP` asks for."""
    return _C.environment(VARIABLE)


def cuda_refusal(sweep: Sweep, device: torch.device) -> str:
    """Why CUDA C++ cannot compute a sweep on a GPU; empty where it can."""
    from ...kernels import chain, chain_backward, driver

    largest, heads, hid, width, keep, backward = sweep
    shared = driver.shared_memory(device)
    if backward:
        return chain_backward.refusal(heads, hid, width, largest, shared) or chain_backward.trouble(
            device, chain_backward.macros(heads, hid, width)
        )
    return chain.refusal(heads, hid, width, largest, shared) or chain.trouble(
        device, chain.macros(heads, hid, width, keep)
    )
