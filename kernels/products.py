"""The products that blocks are made of, and whether all is finite; and the gradients of what they are made of.

Products come in runs of hidden rows with blocks of equal size, which are the leading part (rows, columns) of the
weight. One kernel multiplies them, of all targets of a model, or of a batch of models; going backward, one takes tiles
of a run's rows, the other tiles of the weight, for which it walks over all runs. Sums are float32 and have one order:
results are the same in every run.

`ghnfast.ops.decode.naive_blocks` and `ghnfast.ops.decode.operators.product_gradients` define what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from .. import _C
from . import decode_tables
from .check import Largest, check_given, check_rows, check_weights
from .common import add_exact, blocks_of, power_of_two, rounded_to_bfloat16, rounded_to_tf32
from .decode_tables import TABLE_WIDTH, Tables
from .driver import on_device
from .launching import launch

# Forward: hidden rows and elements of their blocks that a program multiplies, and what it sums over at once.
ROWS_TILE, ELEMENTS, DEPTH = 32, 64, 16
# Backward: hidden rows, or columns of the weight, of a program, and its part of the width; and what it sums over.
TILE, WIDTH, CHUNK = 16, 64, 32
OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
FORWARD_OPTIONS = {"num_warps": 4, "num_stages": 3, "maxnreg": 255}
# The columns of the table of runs: block, hidden rows, and the first product.
ROWS, COLUMNS, FIRST, LAST, START = (tl.constexpr(number) for number in range(5))
RUN_WIDTH, ITEM_WIDTH = tl.constexpr(5), tl.constexpr(4)


def run_tables(runs: NDArray[np.int64]) -> list[NDArray[np.integer]]:
    """(runs, 5) int64, as they are; and the items of the backward pass and of the forward pass, (items, 4) int32: runs,
    tiles of their rows, and of the elements of their blocks, and how many rows all runs have before the tile.

    Args:
        runs: as of `ghnfast.ops.decode.product_runs`.
    """
    return [runs, _C.run_items(runs, TILE, 2**31), _C.run_items(runs, ROWS_TILE, ELEMENTS)]


def count_of(runs: NDArray[np.int64]) -> int:
    """How many elements all products have."""
    return int(((runs[:, 3] - runs[:, 2]) * runs[:, 0] * runs[:, 1]).sum())


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """total + a b, of operands that are rounded; those of float32 are not."""
    if PRECISION == "bfloat16":
        if INTERPRETED:  # Triton's interpreter would multiply the bits
            total = tl.dot(rounded_to_bfloat16(a), rounded_to_bfloat16(b), total)
        else:
            total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    elif PRECISION == "tf32":
        total = tl.dot(rounded_to_tf32(a), rounded_to_tf32(b), total, input_precision="tf32")
    else:
        total = add_exact(total, a, b)
    return total


@triton.jit(do_not_specialize=["count", "weights"])
def products_kernel(
    products,  # (elements,) float32, written: run by run, of each hidden row (rows, columns)
    hidden,  # (hidden rows, width) float32
    weight,  # (max rows, max columns, width) float32
    bias,  # (max rows, max columns) float32
    blocks,  # (elements,) float32: given ones
    largest,  # (weights,) float32: the largest absolute values of weights
    targets,  # (targets, TABLE_WIDTH) int64
    runs,  # (runs, RUN_WIDTH) int64
    items,  # (count, ITEM_WIDTH) int32
    owners,  # (rows of runs,) int32: their targets
    given,  # (items, 2) int32: targets of given blocks, and tiles of these
    status,  # () int32, lowered if CHECKED
    width,
    max_columns,
    count,
    weights,
    TILE: tl.constexpr,
    ELEMENTS: tl.constexpr,
    CHUNK: tl.constexpr,
    GIVEN_TILE: tl.constexpr,
    WEIGHTS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """products[i, r, c] = weight[r, c] . hidden[i] + bias[r, c]: programs (count,).

    If CHECKED, the status is lowered to the number of the first target whose values are not finite: of products by the
    same programs, of given blocks by one more for each of their items.
    """
    if WEIGHTS > 0:
        check_weights(largest, status, weights, WEIGHTS)
    if tl.program_id(0) < count:
        item = items + tl.program_id(0) * ITEM_WIDTH
        run = runs + tl.load(item) * RUN_WIDTH
        first = tl.load(run + FIRST)
        row_count = (tl.load(run + LAST) - first).to(tl.int32)
        columns = tl.load(run + COLUMNS).to(tl.int32)
        elements = tl.load(run + ROWS).to(tl.int32) * columns
        own = tl.arange(0, TILE)
        row = tl.load(item + 1) * TILE + own
        element = tl.load(item + 2) * ELEMENTS + tl.arange(0, ELEMENTS)
        of_weight = (element // columns).to(tl.int64) * max_columns + element % columns
        total = tl.zeros([TILE, ELEMENTS], dtype=tl.float32)
        for start in range(0, width, CHUNK):
            k = start + tl.arange(0, CHUNK)
            place = (first + row)[:, None] * width + k[None, :]
            states = tl.load(hidden + place, mask=(row < row_count)[:, None] & (k < width)[None, :], other=0.0)
            place = of_weight[:, None] * width + k[None, :]
            matrix = tl.load(weight + place, mask=(element < elements)[:, None] & (k < width)[None, :], other=0.0)
            total = add_product(total, states, tl.trans(matrix), PRECISION, INTERPRETED)
        total += tl.load(bias + of_weight, mask=element < elements, other=0.0)[None, :]
        place = row.to(tl.int64)[:, None] * elements + element[None, :]
        inside = (row < row_count)[:, None] & (element < elements)[None, :]
        tl.store(products + tl.load(run + START) + place, total, mask=inside)
        if CHECKED:
            owner = tl.load(owners + tl.load(item + 3) + own, mask=row < row_count, other=0)
            check_rows(total, inside, owner, targets, status)
    elif CHECKED:
        item = given + 2 * (tl.program_id(0) - count)
        number = tl.load(item)
        target = targets + number.to(tl.int64) * TABLE_WIDTH
        check_given(blocks, target, number, tl.load(item + 1), status, GIVEN_TILE)


@triton.jit
def hidden_gradient_kernel(
    products,  # (elements,) float32: gradients, run by run, of each hidden row (rows, columns)
    weight,  # (max rows, max columns, width) float32
    grad_hidden,  # (hidden rows, width), written
    runs,  # (runs, RUN_WIDTH) int64
    items,  # (items, ITEM_WIDTH) int32
    width,
    max_columns,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """grad_hidden[i] = sum over the block of products[i] weight: programs (items, parts of the width)."""
    run = runs + tl.load(items + ITEM_WIDTH * tl.program_id(0)) * RUN_WIDTH
    first = tl.load(run + FIRST)
    count = (tl.load(run + LAST) - first).to(tl.int32)
    columns = tl.load(run + COLUMNS).to(tl.int32)
    elements = tl.load(run + ROWS).to(tl.int32) * columns
    row = tl.load(items + ITEM_WIDTH * tl.program_id(0) + 1) * TILE + tl.arange(0, TILE)
    k = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    own = products + tl.load(run + START)
    total = tl.zeros([TILE, WIDTH], dtype=tl.float32)
    for start in range(0, elements, CHUNK):
        element = start + tl.arange(0, CHUNK)
        place = row.to(tl.int64)[:, None] * elements + element[None, :]
        grads = tl.load(own + place, mask=(row < count)[:, None] & (element < elements)[None, :], other=0.0)
        of_weight = (element // columns).to(tl.int64) * max_columns + element % columns
        place = of_weight[:, None] * width + k[None, :]
        matrix = tl.load(weight + place, mask=(element < elements)[:, None] & (k < width)[None, :], other=0.0)
        total = tl.dot(grads, matrix, total, input_precision="ieee")
    place = (first + row)[:, None] * width + k[None, :]
    tl.store(grad_hidden + place, total, mask=(row < count)[:, None] & (k < width)[None, :])


@triton.jit(do_not_specialize=["run_count"])
def weight_gradient_kernel(
    products,  # as above
    hidden,  # (hidden rows, width) float32
    grad_weight,  # (max rows, max columns, width), written
    grad_bias,  # (max rows, max columns), written
    runs,
    width,
    max_columns,
    run_count,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """grad_weight[r, c] = sum over hidden rows i of products[i, r, c] hidden[i]: programs (max rows, column tiles,
    parts of the width)."""
    weight_row, column = tl.program_id(0), tl.program_id(1) * TILE + tl.arange(0, TILE)
    k = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros([TILE, WIDTH], dtype=tl.float32)
    of_bias = tl.zeros([TILE, CHUNK], dtype=tl.float32)
    for number in range(run_count):
        run = runs + number * RUN_WIDTH
        rows, columns = tl.load(run + ROWS).to(tl.int32), tl.load(run + COLUMNS).to(tl.int32)
        if (rows > weight_row) & (columns > tl.program_id(1) * TILE):
            first, size = tl.load(run + FIRST), rows * columns
            count = (tl.load(run + LAST) - first).to(tl.int32)
            own = products + tl.load(run + START) + weight_row * columns
            for start in range(0, count, CHUNK):
                row = start + tl.arange(0, CHUNK)
                place = row.to(tl.int64)[:, None] * size + column[None, :]
                grads = tl.load(own + place, mask=(row < count)[:, None] & (column < columns)[None, :], other=0.0)
                place = (first + row)[:, None] * width + k[None, :]
                states = tl.load(hidden + place, mask=(row < count)[:, None] & (k < width)[None, :], other=0.0)
                turned = tl.trans(grads)
                total = tl.dot(turned, states, total, input_precision="ieee")
                of_bias += turned
    of_weight = weight_row.to(tl.int64) * max_columns + column
    place = of_weight[:, None] * width + k[None, :]
    tl.store(grad_weight + place, total, mask=(column < max_columns)[:, None] & (k < width)[None, :])
    if tl.program_id(2) == 0:
        tl.store(grad_bias + of_weight, tl.sum(of_bias, axis=1), mask=column < max_columns)


def multiply(
    hidden: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor, tables: Tables, precision: str,
    status: Tensor | None = None, largest: Largest | None = None, launch: Callable[..., Any] = launch,
) -> Tensor:  # fmt: skip
    """The products, run by run: (elements,).

    Args:
        hidden, weight, bias, blocks: contiguous tensors.
        precision: one of `ghnfast.ops.decode.PRECISIONS`.
        status: () int32, which is lowered to the number of the first target with a value that its dtype cannot hold.
        largest: the largest absolute values of weights, where they are to be looked at: the status is lowered to
            `BROKEN` where one is not finite.
    """
    products = hidden.new_empty(int(tables.products))
    count, checked = len(tables.items_of_runs), status is not None
    programs = count + (len(tables.given) if checked else 0)
    if programs:
        with on_device(hidden.device):
            launch(
                products_kernel, (programs,), products, hidden, weight, bias, blocks,
                bias if largest is None else largest.values, tables.targets, tables.runs, tables.items_of_runs,
                tables.owners, tables.given, tables.owners if status is None else status, hidden.shape[1],
                weight.shape[1], count, 0 if largest is None else largest.count, ROWS_TILE, ELEMENTS, DEPTH,
                decode_tables.GIVEN_TILE, 0 if largest is None else power_of_two(largest.count), precision,
                not hidden.is_cuda, checked, **FORWARD_OPTIONS,
            )  # fmt: skip
    return products


def product_gradients(
    products: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, runs: Tensor, items: Tensor
) -> list[Tensor]:
    """The gradients of hidden, weight and bias.

    Args:
        products: (elements,), the gradients of products.
        runs, items: see `run_tables`. No hidden row is in two runs.
    """
    hidden, weight = hidden.contiguous(), weight.contiguous()
    grad_hidden = torch.zeros_like(hidden)  # of rows that no product reads, too
    grad_weight = torch.empty_like(weight)
    grad_bias = torch.empty_like(bias, memory_format=torch.contiguous_format)
    max_rows, max_columns, width = weight.shape
    parts = blocks_of(width, WIDTH)
    with on_device(hidden.device):
        if len(items):
            launch(
                hidden_gradient_kernel, (len(items), parts), products, weight, grad_hidden, runs, items, width,
                max_columns, TILE, WIDTH, CHUNK, **OPTIONS,
            )  # fmt: skip
        launch(
            weight_gradient_kernel, (max_rows, blocks_of(max_columns, TILE), parts), products, hidden, grad_weight,
            grad_bias, runs, width, max_columns, len(runs), TILE, WIDTH, CHUNK, **OPTIONS,
        )  # fmt: skip
    return [grad_hidden, grad_weight, grad_bias]
