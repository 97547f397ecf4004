"""The last step of decoding: products (kernels/products.py), normalization, and the store of every repeat.

All tensors of a model, or of a batch of models, are one launch over a list of work items. An item holds a tile of a
block in registers and stores it wherever the parameter repeats it, through a table of addresses, in the parameter's own
dtype. Blocks are small beside what repeats them, and stay in the cache between the launches. The backward kernel sums
over the repeats. Sums have one order: results are the same in every run.

`ghnfast.ops.decode.naive_blocks` and `tile` define what is computed. Source: Parameter Prediction for Unseen Deep
Architectures (NeurIPS 2021), section 3.3 and appendix B.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import decode_tables
from .check import Largest
from .common import sigmoid, tanh
from .decode_blocks import normalized, place_in_product, scale_of, size_of
from .decode_tables import (
    ADDRESS,
    BIAS,
    CELLS,
    COLUMNS,
    FINE,
    FIRST,
    FIRST_PRODUCT,
    IN,
    ITEM_PART,
    ITEM_PARTS,
    ITEM_TARGET,
    ITEM_TILE,
    ITEM_WIDTH,
    KIND,
    NORM_WEIGHT,
    OUT,
    PRODUCT,
    ROWS,
    TABLE_WIDTH,
    Tables,
)
from .driver import on_device
from .launching import launch
from .products import multiply
from .stores import repeats_of, store_repeats

# Repeats that are stored at once: of a tile of 512 elements, so many that each of 128 threads stores 16.
REPEATS = 4
OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
WIDE_OPTIONS = {**OPTIONS, "maxnreg": 255}  # counting in 64 bits takes more

# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit
def decode_kernel(
    products,  # (elements,) float32: of one target behind the other, (cells, rows, columns) each, before the scale
    blocks,  # (elements,) float32
    flat,  # all targets one behind the other, float32, written if FLAT
    targets,  # (targets, TABLE_WIDTH) int64
    items,  # (items, ITEM_WIDTH), see `index_type`
    status,  # () int32: unless it is FINE, nothing is written
    TILE: tl.constexpr,
    REPEATS: tl.constexpr,
    FLAT: tl.constexpr,
):
    """target[o, p, c] = normalize(block[o mod rows, p mod columns, c])."""
    item = items + tl.program_id(0) * ITEM_WIDTH
    tile, part, parts = tl.load(item + ITEM_TILE), tl.load(item + ITEM_PART), tl.load(item + ITEM_PARTS)
    target = targets + tl.load(item + ITEM_TARGET).to(tl.int64) * TABLE_WIDTH
    INDEX: tl.constexpr = items.dtype.element_ty
    columns, cells, rows = (
        size_of(target, COLUMNS, INDEX), size_of(target, CELLS, INDEX), size_of(target, ROWS, INDEX)
    )  # fmt: skip
    if tl.load(status) == FINE:
        element, elements = tile * TILE + tl.arange(0, TILE), rows * columns * cells
        kind, scale = tl.load(target + KIND), scale_of(target)
        if kind == PRODUCT:
            place = tl.load(target + FIRST_PRODUCT) + place_in_product(element, rows, columns, cells)
            value = tl.load(products + place, mask=element < elements, other=0.0) * scale
        else:
            block = tl.load(blocks + tl.load(target + FIRST) + element, mask=element < elements, other=0.0)
            value = normalized(block, kind, scale)
        store_repeats(flat, target, value, element, elements, part, parts, REPEATS, FLAT, INDEX)


@triton.jit
def decode_backward_kernel(
    grad,  # (elements,) float32: of all targets one behind the other
    blocks,
    grad_products,  # (elements,) float32, written: of products, before the scale; (cells, rows, columns) each
    grad_blocks,  # (elements,) float32, written
    targets,
    items,
    TILE: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """Sum the gradients of a block's repeats, and go back through its normalization."""
    item = items + tl.program_id(0) * ITEM_WIDTH
    target = targets + tl.load(item + ITEM_TARGET) * TABLE_WIDTH
    INDEX: tl.constexpr = items.dtype.element_ty
    columns, cells = size_of(target, COLUMNS, INDEX), size_of(target, CELLS, INDEX)
    rows, out, in_ = size_of(target, ROWS, INDEX), size_of(target, OUT, INDEX), size_of(target, IN, INDEX)
    element, elements = tl.load(item + ITEM_TILE) * TILE + tl.arange(0, TILE), rows * columns * cells
    i, j, cell = element // (columns * cells), element // cells % columns, element % cells
    source = grad + tl.load(target + ADDRESS)
    # A place in the target, other than one in its block, takes 64 bits.
    stride_out, stride_in = in_.to(tl.int64) * cells, cells.to(tl.int64)
    within = i * stride_out + j * stride_in + cell
    repeats, along = repeats_of(target, INDEX)
    total = tl.zeros([REPEATS, TILE], dtype=tl.float32)
    for start in range(0, repeats, REPEATS):
        repeat = start + tl.arange(0, REPEATS)
        row, column = repeat // along * rows, repeat % along * columns
        mask = (repeat < repeats)[:, None] & (element < elements)[None, :]
        mask &= (row[:, None] + i[None, :] < out) & (column[:, None] + j[None, :] < in_)
        place = tl.max_contiguous((row * stride_out + column * stride_in)[:, None] + within[None, :], [1, 2])
        total += tl.load(source + place, mask=mask, other=0.0)
    summed = tl.sum(total, axis=0)
    first, kind, scale = tl.load(target + FIRST), tl.load(target + KIND), scale_of(target)
    if kind == PRODUCT:
        place = tl.load(target + FIRST_PRODUCT) + place_in_product(element, rows, columns, cells)
        tl.store(grad_products + place, summed * scale, mask=element < elements)
    else:
        block = tl.load(blocks + first + element, mask=element < elements, other=0.0)
        s, t = sigmoid(block / 2), tanh(block / 5)
        slope = tl.where(kind == NORM_WEIGHT, s * (1.0 - s), tl.where(kind == BIAS, (1.0 - t * t) / 5, scale))
        tl.store(grad_blocks + first + element, summed * slope, mask=element < elements)


# Launchers ------------------------------------------------------------------------------------------------------------


def decode(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, elements: int, precision: str
) -> Tensor:
    """The values of all targets one behind the other: (elements,)."""
    hidden, weight, bias, blocks = (tensor.contiguous() for tensor in (hidden, weight, bias, blocks))
    products = multiply(hidden, weight, bias, blocks, tables, precision)
    flat = hidden.new_empty(elements)
    fine = torch.full((), FINE.value, dtype=torch.int32, device=hidden.device)
    store(products, blocks, flat, tables, fine, True)
    return flat


def decode_into(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, precision: str,
    status: Tensor | None = None, largest: Largest | None = None,
    launches: tuple[Callable[..., Any], Callable[..., Any]] = (launch, launch),
) -> Tensor:  # fmt: skip
    """Write the values of all targets to the addresses in the table, if all are finite.

    Args:
        status: () int32, `FINE`, where something has made it.
        largest: see `multiply`.
        launches: what launches the products, and the stores.

    Returns:
        The status, () int32 on the device: the number of the first target with a value that is not finite, or `FINE`.
    """
    hidden, weight, bias, blocks = (tensor.contiguous() for tensor in (hidden, weight, bias, blocks))
    if status is None:
        status = torch.full((), FINE.value, dtype=torch.int32, device=hidden.device)
    products = multiply(hidden, weight, bias, blocks, tables, precision, status, largest, launches[0])
    store(products, blocks, products, tables, status, False, launches[1])
    return status


def store(
    products: Tensor, blocks: Tensor, flat: Tensor, tables: Tables, status: Tensor, is_flat: bool,
    launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Store all repeats of all blocks: to the addresses in the table, or one behind the other into `flat`."""
    with on_device(blocks.device):
        launch(
            decode_kernel, (len(tables.items),), products, blocks, flat, tables.targets, tables.items, status,
            decode_tables.TILE, REPEATS, is_flat, **options_for(tables),
        )  # fmt: skip


def options_for(tables: Tables) -> dict[str, int]:
    return WIDE_OPTIONS if tables.items.dtype == torch.int64 else OPTIONS


def decode_backward(grad: Tensor, blocks: Tensor, tables: Tables, product_elements: int) -> tuple[Tensor, Tensor]:
    """The gradients of products, (cells, rows, columns) of one target behind the other, and of blocks.

    Args:
        product_elements: how many the first are.
    """
    products, grad_blocks = blocks.new_empty(product_elements), torch.zeros_like(blocks)
    with on_device(blocks.device):
        launch(
            decode_backward_kernel, (len(tables.backward_items),), grad.contiguous(), blocks.contiguous(), products,
            grad_blocks, tables.targets, tables.backward_items, decode_tables.TILE, REPEATS, **options_for(tables),
        )  # fmt: skip
    return products, grad_blocks
