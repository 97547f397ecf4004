"""What the kernels share."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Through exp, or near 0, where that cancels, by its series: an error of 1e-6 of the value at most."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    s = x * x
    near = x * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def relu(x):
    """NaN stays NaN, which `tl.maximum` would make 0."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def rounded_to_tf32(x):
    """To the nearest: the multiplier would cut off the last 13 bits.

    The largest numbers, which would round to infinity, are cut off. NaN stays NaN: rounded, its bits could carry into
    the sign, and cut off, they could be those of infinity.
    """
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    rounded = tl.where(size < 0x7F7FF000, bits + 0x1000, bits) & -0x2000
    return tl.where(size > 0x7F800000, 0x7FC00000, rounded).to(tl.float32, bitcast=True)


@triton.jit
def rounded_to_bfloat16(x):
    """As a GPU rounds: Triton's interpreter would make other numbers of what is not a number."""
    return tl.where(x == x, x.to(tl.bfloat16).to(tl.float32), x)


def blocks_of(count: int, size: int) -> int:
    """How many of a size it takes to cover so many. Triton's own `cdiv`, outside of kernels, takes microseconds."""
    return -(-count // size)


def power_of_two(number: int) -> int:
    """The least one that is no less than a positive number."""
    return 1 << (number - 1).bit_length()


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the current device: make it that of a tensor."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
