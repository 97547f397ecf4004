"""Whether everything that a decoding would write is finite, in its dtype: before any of it is written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import on_device_of
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

# How many programs look at one target, and at how many elements of a given block each of them at once.
PARTS, INTERPRETED_PARTS, GIVEN_TILE = 32, 2, 2048
OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}


@triton.jit
def check_kernel(
    hidden,
    weight,
    bias,
    blocks,
    largest,  # (2,) float32: the largest absolute values of weight and bias
    targets,
    items,  # as of `decode_kernel`, for their type alone
    status,  # () int32, lowered to the number of the first target with a value that its dtype cannot hold
    width,
    max_columns,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    GIVEN_TILE: tl.constexpr,
):
    """Whether all values are finite: programs (targets, parts), each of every so many cells, or tiles of a given block.

    |weight . x + bias| <= max |weight| * sum |x| + max |bias|: products are computed only where this is too large.
    What is found is kept by element, and brought together once, at the end.
    """
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
            bound = (tl.load(largest) * tl.sum(tl.abs(x), axis=0) + tl.load(largest + 1)) * tl.abs(scale)
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


def check(hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, status: Tensor) -> None:
    """Lower the status, () int32, to the number of the first target with a value that its dtype cannot hold."""
    largest = torch.stack([torch.linalg.vector_norm(tensor, float("inf")) for tensor in (weight, bias)])
    width, block = hidden.shape[1], blocks_for(hidden.shape[1])
    with on_device_of(hidden):
        check_kernel[(len(tables.targets), PARTS if hidden.is_cuda else INTERPRETED_PARTS)](
            hidden, weight, bias, blocks, largest, tables.targets, tables.items, status, width, weight.shape[1],
            block.WIDTH, max(block.TILE // 4, 1), GIVEN_TILE, **OPTIONS,
        )  # fmt: skip
