"""From a decoded block to a parameter: normalize, tile, store.

A block holds what the decoder computes for one parameter, at most as large as the decoder's own shape; the parameter
repeats it. Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 3.3 and appendix B.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor


class Role(Enum):
    """What a predicted parameter is for; it decides how it is normalized."""

    WEIGHT = "weight"
    POSITION = "position encoding"
    NORM_WEIGHT = "normalization weight"
    BIAS = "bias"


def normalize(block: Tensor, shape: Sequence[int], role: Role) -> Tensor:
    """Scale a block for a parameter of `shape`.

    Weights: times sqrt(beta / fan_in), fan_in = elements per output; beta is 1 for a kernel with one input channel or
    with k_h < k_w (which no ReLU follows), else 2. Position encodings: as they are. Normalization weights:
    2 sigmoid(x / 2), biases: tanh(x / 5).
    """
    if role is Role.WEIGHT:
        kernel = len(shape) == 4
        beta = 1.0 if kernel and (shape[1] == 1 or shape[2] < shape[3]) else 2.0
        return block * math.sqrt(beta / math.prod(shape[1:]))
    if role is Role.POSITION:
        return block
    if role is Role.NORM_WEIGHT:
        return 2 * torch.sigmoid(block / 2)
    return torch.tanh(block / 5)


def tile(block: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of `shape` that repeats `block`: entry i, j, ... is block[i mod rows, j mod columns, ...].

    Args:
        block: no dimension longer than the same one of `shape`.
    """
    for dim, size in enumerate(shape):
        index = torch.arange(size, device=block.device) % block.shape[dim]
        block = block if block.shape[dim] == size else block.index_select(dim, index)
    return block


def store(block: Tensor, target: Tensor) -> None:
    """Write `tile(block, target.shape)` into `target`, without a temporary of its size."""
    store_from(block, target, 0)


def store_from(block: Tensor, target: Tensor, dim: int) -> None:
    """`store`, where the dimensions before `dim` are settled: of equal size, or broadcast."""
    while dim < target.ndim and block.shape[dim] == target.shape[dim]:
        dim += 1
    if dim == target.ndim:
        target.copy_(block)
        return
    length = block.shape[dim]
    repeats, rest = divmod(target.shape[dim], length)
    if repeats:
        # Splitting a dimension is a view whatever the strides are; the block broadcasts along the repeats.
        whole = target.narrow(dim, 0, repeats * length).unflatten(dim, (repeats, length))
        store_from(block.unsqueeze(dim), whole, dim + 2)
    if rest:
        store_from(block.narrow(dim, 0, rest), target.narrow(dim, repeats * length, rest), dim + 1)
