"""Whether everything that a decoding would write is finite, in its dtype: before any of it is written."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .decode_blocks import normalized, scale_of
from .decode_tables import BFLOAT16, CELLS, COLUMNS, ELEMENT, FINE, FIRST, FLOAT16, KIND, ROWS, TABLE_WIDTH
from .driver import on_device
from .launching import launch

OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
# How many programs look at one weight, and at how many elements at once.
WEIGHT_PARTS, INTERPRETED_WEIGHT_PARTS, WEIGHT_TILE = 64, 1, 2048
INFINITE = tl.constexpr(0x7F800000)  # the bits of infinity; those of what is not a number are more
# The status where a weight is not finite.
BROKEN = tl.constexpr(-1)


@triton.jit
def largest_kernel(
    addresses,  # (weights, 2) int64: of float32, and how many there are
    largest,  # (weights,) int32, raised to the bits of the largest absolute value, or of one that is not a number
    TILE: tl.constexpr,
):
    """Programs (weights, parts). Bits of positive numbers are in the order of the numbers."""
    own = addresses + 2 * tl.program_id(0)
    weight, elements = tl.load(own).to(tl.pointer_type(tl.int32)), tl.load(own + 1)
    found = tl.zeros([TILE], dtype=tl.int32)
    for start in range(tl.program_id(1) * TILE, elements, tl.num_programs(1) * TILE):
        element = start + tl.arange(0, TILE)
        found = tl.maximum(found, tl.load(weight + element, mask=element < elements, other=0) & 0x7FFFFFFF)
    tl.atomic_max(largest + tl.program_id(0), tl.max(found, axis=0))


@triton.jit
def limit_of(element):
    """The least value that rounds to infinity in a dtype: half a step beyond the largest number."""
    limit = tl.where(element == FLOAT16, 65520.0, float("inf"))
    return tl.where(element == BFLOAT16, 3.3961775292304957e38, limit)


@triton.jit
def check_weights(largest, status, weights, WEIGHTS: tl.constexpr):
    """Lower the status to BROKEN where one of the first of the largest absolute values is not finite: the first program
    does."""
    if tl.program_id(0) == 0:
        number = tl.arange(0, WEIGHTS)
        sizes = tl.load(largest + number, mask=number < weights, other=0.0).to(tl.int32, bitcast=True)
        if tl.max(sizes, axis=0) >= INFINITE:
            tl.atomic_min(status, BROKEN)


@triton.jit
def check_rows(products, inside, owner, targets, status):
    """Lower the status to the number of the first target with a value that its dtype cannot hold.

    Args:
        products: (rows, elements), before the scale; of the targets `owner`, (rows,).
    """
    target = targets + owner.to(tl.int64) * TABLE_WIDTH
    limit, scale = limit_of(tl.load(target + ELEMENT)), scale_of(target)
    broken = inside & ~(tl.abs(products * scale[:, None]) < limit[:, None])
    first = tl.min(tl.where(tl.max(broken.to(tl.int32), axis=1) > 0, owner, FINE), axis=0)
    if first < FINE:
        tl.atomic_min(status, first)


@triton.jit
def check_given(blocks, target, number, tile, status, TILE: tl.constexpr):
    """The same of a tile of a given block."""
    elements = tl.load(target + ROWS) * tl.load(target + COLUMNS) * tl.load(target + CELLS)
    element = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    block = tl.load(blocks + tl.load(target + FIRST) + element, mask=element < elements, other=0.0)
    value = normalized(block, tl.load(target + KIND), scale_of(target))
    broken = ~(tl.abs(value) < limit_of(tl.load(target + ELEMENT)))
    if tl.max(broken.to(tl.int32), axis=0) > 0:
        tl.atomic_min(status, number)


class Largest(NamedTuple):
    """The largest absolute values of weights.

    values: (weights,) float32, on their device. count: how many of them have to be finite, from the first one on.
    """

    values: Tensor
    count: int


def largest_of(addresses: Tensor) -> Tensor:
    """(weights,) float32: the largest absolute value of each weight, infinite or not a number where one of them is.

    Args:
        addresses: (weights, 2) int64, of float32, and how many there are.
    """
    largest = torch.zeros(len(addresses), dtype=torch.int32, device=addresses.device)
    with on_device(addresses.device):
        parts = WEIGHT_PARTS if addresses.is_cuda else INTERPRETED_WEIGHT_PARTS
        launch(largest_kernel, (len(addresses), parts), addresses, largest, WEIGHT_TILE, **OPTIONS)
    return largest.view(torch.float32)
