"""Whether everything that a decoding would write is finite, in its dtype: before any of it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import on_device_of, power_of_two
from .decode_blocks import load_bias, load_weight, normalized, scale_of, size_of
from .decode_tables import (
    BFLOAT16,
    CELLS,
    COLUMNS,
    ELEMENT,
    FIRST,
    FLOAT16,
    KIND,
    PRODUCT,
    ROWS,
    TABLE_WIDTH,
    Tables,
    blocks_for,
)
from .launching import launch

# How many programs look at one target, and at how many elements of a given block each of them at once.
PARTS, INTERPRETED_PARTS, GIVEN_TILE = 32, 2, 2048
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


@triton.jit(do_not_specialize=["at_weight", "at_bias", "weights"])
def check_kernel(
    hidden,
    weight,
    bias,
    blocks,
    largest,  # (weights,) float32: the largest absolute values of weights, weight and bias among them
    targets,
    items,  # as of `decode_kernel`, for their type alone
    status,  # () int32, lowered to the number of the first target with a value that its dtype cannot hold
    width,
    max_columns,
    at_weight,  # the places of weight and bias in `largest`
    at_bias,
    weights,  # how many of `largest` have to be finite, from the first one on
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    GIVEN_TILE: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """Whether all values are finite: programs (targets, parts), each of every so many cells, or tiles of a given block.

    |weight . x + bias| <= max |weight| * sum |x| + max |bias|: products are computed only where this is too large.
    What is found is kept by element, and brought together once, at the end.
    """
    is_first = (tl.program_id(0) == 0) & (tl.program_id(1) == 0)
    if WEIGHTS > 0 and is_first:
        number = tl.arange(0, WEIGHTS)
        sizes = tl.load(largest + number, mask=number < weights, other=0.0).to(tl.int32, bitcast=True)
        if tl.max(sizes, axis=0) >= INFINITE:
            tl.atomic_min(status, BROKEN)
    part, parts = tl.program_id(1), tl.num_programs(1)
    target = targets + tl.program_id(0) * TABLE_WIDTH
    INDEX: tl.constexpr = items.dtype.element_ty
    columns, cells = size_of(target, COLUMNS, INDEX), size_of(target, CELLS, INDEX)
    rows, first = size_of(target, ROWS, INDEX), tl.load(target + FIRST)
    kind, scale = tl.load(target + KIND), scale_of(target)
    element_type = tl.load(target + ELEMENT)
    # The least value that rounds to infinity: half a step beyond the largest number.
    limit = tl.where(element_type == FLOAT16, 65520.0, float("inf"))
    limit = tl.where(element_type == BFLOAT16, 3.3961775292304957e38, limit)
    safe = tl.minimum(limit, 3.4028234663852886e38) / 2  # the sums are rounded, too
    if kind == PRODUCT:
        k = tl.arange(0, WIDTH)
        found = tl.zeros([TILE], dtype=tl.int32)
        for cell in range(part, cells, parts):
            x = tl.load(hidden + (first + cell) * width + k, mask=k < width, other=0.0)
            bound = (tl.load(largest + at_weight) * tl.sum(tl.abs(x), axis=0) + tl.load(largest + at_bias)) * tl.abs(
                scale
            )
            if not (bound < safe):
                for start in range(0, rows * columns, TILE):
                    element = start + tl.arange(0, TILE)
                    matrix = load_weight(weight, element, rows * columns, columns, max_columns, width, WIDTH)
                    offset = load_bias(bias, element, rows * columns, columns, max_columns)
                    value = (tl.sum(matrix * x[None, :], axis=1) + offset) * scale
                    found |= tl.where(tl.abs(value) < limit, 0, 1)
        if tl.max(found, axis=0) > 0:
            tl.atomic_min(status, tl.program_id(0))
    else:
        elements = rows * columns * cells
        found_given = tl.zeros([GIVEN_TILE], dtype=tl.int32)
        for start in range(part * GIVEN_TILE, elements, parts * GIVEN_TILE):
            element = start + tl.arange(0, GIVEN_TILE)
            value = normalized(tl.load(blocks + first + element, mask=element < elements, other=0.0), kind, scale)
            found_given |= tl.where(tl.abs(value) < limit, 0, 1)
        if tl.max(found_given, axis=0) > 0:
            tl.atomic_min(status, tl.program_id(0))


class Largest(NamedTuple):
    """The largest absolute values of weights.

    values: (weights,) float32, on their device. weight, bias: the places there of those that products are made with.
    count: how many of the values have to be finite, from the first one on.
    """

    values: Tensor
    weight: int
    bias: int
    count: int


def largest_of(addresses: Tensor) -> Tensor:
    """(weights,) float32: the largest absolute value of each weight, infinite or not a number where one of them is.

    Args:
        addresses: (weights, 2) int64, of float32, and how many there are.
    """
    largest = torch.zeros(len(addresses), dtype=torch.int32, device=addresses.device)
    with on_device_of(addresses):
        parts = WEIGHT_PARTS if addresses.is_cuda else INTERPRETED_WEIGHT_PARTS
        launch(largest_kernel, (len(addresses), parts), addresses, largest, WEIGHT_TILE, **OPTIONS)
    return largest.view(torch.float32)


def check(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, status: Tensor,
    largest: Largest | None = None, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Lower the status, () int32, to the number of the first target with a value that its dtype cannot hold.

    Args:
        largest: the largest absolute values of weights, where they are known; to `BROKEN`, where one is not finite.
    """
    if largest is None:
        values = torch.stack([torch.linalg.vector_norm(tensor, float("inf")) for tensor in (weight, bias)])
        largest = Largest(values, 0, 1, 0)
    width, block = hidden.shape[1], blocks_for(hidden.shape[1])
    with on_device_of(hidden):
        launch(
            check_kernel, (len(tables.targets), PARTS if hidden.is_cuda else INTERPRETED_PARTS),
            hidden, weight, bias, blocks, largest.values, tables.targets, tables.items, status, width, weight.shape[1],
            largest.weight, largest.bias, largest.count, block.WIDTH, max(block.TILE // 4, 1), GIVEN_TILE,
            power_of_two(largest.count) if largest.count else 0, **OPTIONS,
        )  # fmt: skip
