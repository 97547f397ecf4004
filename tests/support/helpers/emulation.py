"""kernels/chain.cu and those of its backward pass on the CPU: the same source, with lanes, warps and barriers
(emulator.hpp)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghnfast.kernels import chain, chain_backward, driver

SOURCE = Path(__file__).with_name("emulated_chain.cpp")
COMPILER = os.environ.get("CXX") or shutil.which("c++") or "g++"
ARGUMENTS: dict[str, Any] = {
    "chain": chain.Arguments,
    chain_backward.BACKWARD: chain_backward.Arguments,
    chain_backward.GRADIENTS: chain_backward.GradientArguments,
}
THREADS = dict.fromkeys(ARGUMENTS, chain.THREADS) | {chain_backward.GRADIENTS: chain_backward.GRADIENT_THREADS}
# Hidden: else inline variables are one for all libraries.
FLAGS = "-std=c++17 -O1 -Wall -Werror -Wno-unknown-pragmas -shared -fPIC -fvisibility=hidden".split()


@functools.cache
def emulated(defined: tuple[tuple[str, int], ...], name: str = "chain") -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        source = Path(chain.__file__).with_name(f"{name}.cu")
        macros = [f"-D{macro}={value}" for macro, value in (*defined, ("THREADS", THREADS[name]), ("KERNEL", name))]
        command = [COMPILER, *FLAGS, *macros, f'-DSOURCE="{source}"', str(SOURCE), "-o", str(path)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
    library.emulate.restype = ctypes.c_bool
    library.emulate.argtypes = [ctypes.POINTER(ARGUMENTS[name]), ctypes.c_int, ctypes.c_uint64]
    return library


# The stream that the emulated driver expects.
STREAM = 0x1122334455667788


@contextlib.contextmanager
def gpu(monkeypatch: pytest.MonkeyPatch, library: ctypes.CDLL) -> Iterator[None]:
    """torch has a GPU, and its driver runs a kernel that is `emulated` on the CPU, whatever binary it is given."""
    monkeypatch.setattr(driver, "library", lambda: library)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(driver, "architecture_of", lambda device: 90)
    monkeypatch.setattr(driver, "current_stream", lambda device: STREAM)
    kept = driver.shared_memory, driver.primary_context, chain.function, chain.trouble
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def gated_sweep(
    states: Tensor, weights: Sequence[Tensor], topology: Sequence[Tensor], cutoff: int, keep: bool, seed: int
) -> list[Tensor]:
    """`ghnfast.kernels.chain.gated_sweep` on the CPU, in an order of threads that `seed` names."""
    heads, width = 2 if len(weights) == 12 else 1, len(weights[1])
    outputs = chain.outputs_for(states, heads, width, keep)
    for output in outputs:
        output.fill_(torch.nan)
    arguments = chain.arguments_for(states, weights, topology, cutoff, outputs)
    library = emulated(chain.macros(heads, states.shape[1], width, keep))
    assert library.emulate(arguments, len(topology[0]) - 1, seed), "deadlock"
    return outputs if keep else outputs[:1]


def walked_back(
    grad: Tensor,
    states: Tensor,
    kept: Sequence[Tensor],
    weights: Sequence[Tensor],
    topology: Sequence[Tensor],
    cutoff: int,
    seed: int,
) -> list[Tensor]:
    """What chain_backward.cu writes: see `chain_backward.outputs_for`."""
    heads, width = 2 if len(weights) == 12 else 1, len(weights[1])
    outputs = chain_backward.outputs_for(states, kept)
    for output in outputs:
        output.fill_(torch.nan)
    arguments = chain_backward.arguments_for(grad, states, kept, weights, topology, cutoff, outputs)
    library = emulated(chain_backward.macros(heads, states.shape[1], width), chain_backward.BACKWARD)
    assert library.emulate(arguments, len(topology[0]) - 1, seed), "deadlock"
    return outputs


def weight_gradients(
    states: Tensor, kept: Sequence[Tensor], outputs: Sequence[Tensor], weights: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """What chain_gradients.cu writes."""
    heads, hid, width = 2 if len(weights) == 12 else 1, states.shape[1], len(weights[1])
    grads = [torch.full_like(weight, torch.nan) for weight in weights]
    arguments = chain_backward.gradient_arguments_for(states, kept, outputs, grads)
    library = emulated(chain_backward.macros(heads, hid, width), chain_backward.GRADIENTS)
    assert library.emulate(arguments, chain_backward.gradient_blocks(heads, hid, width), seed), "deadlock"
    return grads
