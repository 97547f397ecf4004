"""kernels/chain.cu on the CPU: the same source, with lanes, warps and barriers (emulator.hpp)."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ghnfast.kernels import chain

SOURCE = Path(__file__).with_name("emulated_chain.cpp")
COMPILER = os.environ.get("CXX") or shutil.which("c++") or "g++"


@functools.cache
def emulated(defined: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.so"
        macros = [f"-D{name}={value}" for name, value in defined] + [f'-DKERNEL="{chain.SOURCE}"']
        flags = ["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *flags, *macros, str(SOURCE), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    library.emulate.restype = ctypes.c_bool
    library.emulate.argtypes = [ctypes.POINTER(chain.Arguments), ctypes.c_int, ctypes.c_uint64]
    return library


# The stream that the emulated driver expects.
STREAM = 0x1122334455667788


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
