"""The last step of decoding in one launch: product, normalization, and the store of every repeat.

All tensors of a model, or of a batch of models, are one launch over a list of work items. An item computes a tile of a
block in registers and stores it wherever the parameter repeats it, through a table of addresses, in the parameter's own
dtype. The backward kernel sums over the repeats. Sums have one order: results are the same in every run.

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
from .check import Largest, check
from .common import on_device_of, rounded_to_bfloat16, rounded_to_tf32, sigmoid, tanh
from .decode_blocks import load_bias, load_weight, normalized, scale_of, size_of
from .decode_tables import (
    ADDRESS,
    BIAS,
    CELLS,
    COLUMNS,
    ELEMENT,
    FINE,
    FIRST,
    FLOAT32,
    FLOAT64,
    GRADIENT,
    IN,
    ITEM_COUNT,
    ITEM_DOES,
    ITEM_PART,
    ITEM_PARTS,
    ITEM_TARGET,
    ITEM_TILE,
    ITEM_WIDTH,
    KERNEL,
    KERNEL_CELLS,
    KIND,
    NORM_WEIGHT,
    ONE_CELL,
    OUT,
    PRODUCT,
    ROWS,
    TABLE_WIDTH,
    Tables,
    blocks_for,
)  # fmt: skip
from .launching import launch
from .stores import bits_of, repeats_of, store_cells, store_repeats

# Repeats that are stored at once: of a tile of 32 elements, so many that each of 128 threads stores four.
REPEATS = 16
# The width of a tile of a product that is one of matrices.
KERNEL_CHUNK = 32
# With 168 registers a thread, which is enough not to spill (tests/kernels/test_compile.py), a multiprocessor runs three
# programs.
OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 168}
ROUNDING_OPTIONS = {**OPTIONS, "maxnreg": 200}  # rounding operands takes more: two programs
WIDE_OPTIONS = {**OPTIONS, "maxnreg": 255}  # and so does counting in 64 bits

# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """total + a b, of operands that are rounded."""
    if PRECISION == "bfloat16":
        if INTERPRETED:  # Triton's interpreter would multiply the bits
            total = tl.dot(rounded_to_bfloat16(a), rounded_to_bfloat16(b), total)
        else:
            total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    elif PRECISION == "tf32":
        total = tl.dot(rounded_to_tf32(a), rounded_to_tf32(b), total, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def decode_one_cell(
    hidden, weight, bias, flat, targets, first, count, tile, part, parts, width, max_columns,
    WIDTH: tl.constexpr, TILE: tl.constexpr, REPEATS: tl.constexpr, FLAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Products of one cell, of targets with blocks of equal size: weight . hidden + bias."""
    target = targets + first * TABLE_WIDTH
    columns = size_of(target, COLUMNS, INDEX)
    element, elements = tile * TILE + tl.arange(0, TILE), size_of(target, ROWS, INDEX) * columns
    matrix = load_weight(weight, element, elements, columns, max_columns, width, WIDTH)
    offset = load_bias(bias, element, elements, columns, max_columns)
    k = tl.arange(0, WIDTH)
    for _ in range(count):
        x = tl.load(hidden + tl.load(target + FIRST) * width + k, mask=k < width, other=0.0)
        value = (tl.sum(matrix * x[None, :], axis=1) + offset) * scale_of(target)
        store_repeats(flat, target, value, element, elements, part, parts, REPEATS, FLAT, INDEX)
        target += TABLE_WIDTH


@triton.jit
def decode_wide_cells(
    hidden, weight, bias, flat, targets, first, count, tile, part, parts, width, max_columns,
    TILE: tl.constexpr, TARGETS: tl.constexpr, CHUNK: tl.constexpr, REPEATS: tl.constexpr, FLAT: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The same where rows of the weight are too wide to be held: as a matrix, (out * in, targets), in chunks."""
    target = targets + first * TABLE_WIDTH
    columns = size_of(target, COLUMNS, INDEX)
    element, elements = tile * TILE + tl.arange(0, TILE), size_of(target, ROWS, INDEX) * columns
    row = (element // columns) * max_columns + element % columns
    own = tl.arange(0, TARGETS)
    states = tl.load(target + own * TABLE_WIDTH + FIRST, mask=own < count, other=0) * width
    total = tl.zeros([TILE, TARGETS], dtype=tl.float32)
    for start in range(0, width, CHUNK):
        k = start + tl.arange(0, CHUNK)
        a = tl.load(
            weight + row.to(tl.int64)[:, None] * width + k[None, :],
            mask=(element < elements)[:, None] & (k < width)[None, :],
            other=0.0,
        )
        b = tl.load(
            hidden + states[None, :] + k[:, None], mask=(own < count)[None, :] & (k < width)[:, None], other=0.0
        )
        total = add_product(total, a, b, PRECISION, INTERPRETED)
    offset = load_bias(bias, element, elements, columns, max_columns)
    for number in range(count):
        value = tl.sum(tl.where((own == number)[None, :], total, 0.0), axis=1)
        value = (value + offset) * scale_of(target)
        store_repeats(flat, target, value, element, elements, part, parts, REPEATS, FLAT, INDEX)
        target += TABLE_WIDTH


@triton.jit
def decode_kernel_cells(
    hidden, weight, bias, flat, target, tile, part, parts, width, max_columns,
    TILE: tl.constexpr, CELLS_TILE: tl.constexpr, CHUNK: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Products of several cells, as matrices: (out * in, cells)."""
    rows, columns, cells = (
        size_of(target, ROWS, INDEX), size_of(target, COLUMNS, INDEX), size_of(target, CELLS, INDEX)
    )  # fmt: skip
    first, scale = tl.load(target + FIRST), scale_of(target)
    element, elements = tile * TILE + tl.arange(0, TILE), rows * columns
    i, j = element // columns, element % columns
    offset = load_bias(bias, element, elements, columns, max_columns)
    row_of_weight = (i * max_columns + j).to(tl.int64)[:, None] * width
    address, kind = tl.load(target + ADDRESS), tl.load(target + ELEMENT)
    for start_cell in range(0, cells, CELLS_TILE):
        cell = start_cell + tl.arange(0, CELLS_TILE)
        total = tl.zeros([TILE, CELLS_TILE], dtype=tl.float32)
        for start in range(0, width, CHUNK):
            k = start + tl.arange(0, CHUNK)
            a = tl.load(
                weight + row_of_weight + k[None, :],
                mask=(element < elements)[:, None] & (k < width)[None, :],
                other=0.0,
            )
            b = tl.load(
                hidden + (first + cell)[None, :] * width + k[:, None],
                mask=(cell < cells)[None, :] & (k < width)[:, None],
                other=0.0,
            )
            total = add_product(total, a, b, PRECISION, INTERPRETED)
        value = (total + offset[:, None]) * scale
        inside = (element < elements)[:, None] & (cell < cells)[None, :]
        if FLAT:
            store_cells(flat + address, target, value, i, j, cell, inside, part, parts, INDEX)
        elif kind == FLOAT32:
            store_cells(address.to(tl.pointer_type(tl.float32)), target, value, i, j, cell, inside, part, parts, INDEX)
        elif kind == FLOAT64:
            store_cells(address.to(tl.pointer_type(tl.float64)), target, value, i, j, cell, inside, part, parts, INDEX)
        else:
            halves = address.to(tl.pointer_type(tl.int16))
            store_cells(halves, target, bits_of(value, kind), i, j, cell, inside, part, parts, INDEX)


# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit
def decode_kernel(
    hidden,  # (hidden rows, width) float32
    weight,  # (max rows, max columns, width) float32
    bias,  # (max rows, max columns) float32
    blocks,  # (elements,) float32
    flat,  # all targets one behind the other, float32, written if FLAT
    targets,  # (targets, TABLE_WIDTH) int64
    items,  # (items, ITEM_WIDTH), see `index_type`
    status,  # () int32: unless it is FINE, nothing is written
    width,
    max_columns,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    GIVEN_TILE: tl.constexpr,
    REPEATS: tl.constexpr,
    KERNEL_TILE: tl.constexpr,
    KERNEL_CELLS: tl.constexpr,
    KERNEL_CHUNK: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """target[o, p, c] = normalize(weight[i, j] . hidden[first + c] + bias[i, j]), i = o mod rows, j = p mod columns."""
    item = items + tl.program_id(0) * ITEM_WIDTH
    what, first, count = tl.load(item + ITEM_DOES), tl.load(item + ITEM_TARGET), tl.load(item + ITEM_COUNT)
    tile, part, parts = tl.load(item + ITEM_TILE), tl.load(item + ITEM_PART), tl.load(item + ITEM_PARTS)
    target = targets + first * TABLE_WIDTH
    INDEX: tl.constexpr = items.dtype.element_ty
    if tl.load(status) == FINE:
        if what == ONE_CELL:
            if WIDE:
                decode_wide_cells(
                    hidden, weight, bias, flat, targets, first, count, tile, part, parts, width, max_columns,
                    KERNEL_TILE, KERNEL_CELLS, KERNEL_CHUNK, REPEATS, FLAT, PRECISION, INTERPRETED, INDEX,
                )  # fmt: skip
            else:
                decode_one_cell(
                    hidden, weight, bias, flat, targets, first, count, tile, part, parts, width, max_columns,
                    WIDTH, TILE, REPEATS, FLAT, INDEX,
                )  # fmt: skip
        elif what == KERNEL:
            decode_kernel_cells(
                hidden, weight, bias, flat, target, tile, part, parts, width, max_columns,
                KERNEL_TILE, KERNEL_CELLS, KERNEL_CHUNK, FLAT, PRECISION, INTERPRETED, INDEX,
            )  # fmt: skip
        else:
            elements = size_of(target, ROWS, INDEX) * size_of(target, COLUMNS, INDEX) * size_of(target, CELLS, INDEX)
            element = tile * GIVEN_TILE + tl.arange(0, GIVEN_TILE)
            block = tl.load(blocks + tl.load(target + FIRST) + element, mask=element < elements, other=0.0)
            value = normalized(block, tl.load(target + KIND), scale_of(target))
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
        place = tl.load(target + GRADIENT) + (cell * rows + i) * columns + j
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
    flat = hidden.new_empty(elements)
    fine = torch.full((), FINE.value, dtype=torch.int32, device=hidden.device)
    hidden, weight, bias, blocks = (tensor.contiguous() for tensor in (hidden, weight, bias, blocks))
    run(hidden, weight, bias, blocks, flat, tables, fine, True, precision)
    return flat


def decode_into(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, precision: str,
    status: Tensor | None = None, largest: Largest | None = None,
    launches: tuple[Callable[..., Any], Callable[..., Any]] = (launch, launch),
) -> Tensor:  # fmt: skip
    """Write the values of all targets to the addresses in the table, if all are finite.

    Args:
        status: () int32, `FINE`, where something has made it.
        largest: see `check`.
        launches: what launches the check, and what launches the decoding.

    Returns:
        The status, () int32 on the device: the number of the first target with a value that is not finite, or `FINE`.
    """
    hidden, weight, bias, blocks = (tensor.contiguous() for tensor in (hidden, weight, bias, blocks))
    if status is None:
        status = torch.full((), FINE.value, dtype=torch.int32, device=hidden.device)
    check(hidden, weight, bias, blocks, tables, status, largest, launches[0])
    run(hidden, weight, bias, blocks, hidden, tables, status, False, precision, launches[1])
    return status


def run(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, flat: Tensor, tables: Tables, status: Tensor,
    is_flat: bool, precision: str, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    width = hidden.shape[1]
    with on_device_of(hidden):
        launch(
            decode_kernel, (len(tables.items),), hidden, weight, bias, blocks, flat, tables.targets, tables.items,
            status, width, weight.shape[1], *blocks_for(width), width > decode_tables.HELD_WIDTH,
            decode_tables.GIVEN_TILE, REPEATS, decode_tables.KERNEL_TILE, KERNEL_CELLS, KERNEL_CHUNK, is_flat,
            precision, not hidden.is_cuda,
            **options_for(tables, precision),
        )  # fmt: skip


def options_for(tables: Tables, precision: str) -> dict[str, int]:
    if tables.items.dtype == torch.int64:
        return WIDE_OPTIONS
    return OPTIONS if precision == "float32" else ROUNDING_OPTIONS


def decode_backward(grad: Tensor, blocks: Tensor, tables: Tables, product_elements: int) -> tuple[Tensor, Tensor]:
    """The gradients of products, (cells, rows, columns) of one target behind the other, and of blocks.

    Args:
        product_elements: how many the first are.
    """
    products, grad_blocks = blocks.new_empty(product_elements), torch.zeros_like(blocks)
    with on_device_of(blocks):
        launch(
            decode_backward_kernel, (len(tables.backward_items),), grad.contiguous(), blocks.contiguous(), products,
            grad_blocks, tables.targets, tables.backward_items,
            decode_tables.GIVEN_TILE, REPEATS, **options_for(tables, "float32"),
        )  # fmt: skip
    return products, grad_blocks
