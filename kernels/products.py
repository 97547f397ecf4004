"""The gradients of hidden states, of the decoder's last weight and of its bias from those of products: two launches.

Products come in runs of hidden rows with blocks of equal size, which are the leading part (rows, columns) of the
weight. One kernel takes tiles of a run's rows, the other tiles of the weight, for which it walks over all runs. Sums
are float32 and have one order: results are the same in every run.

`ghnfast.ops.decode.operators.product_gradients` defines what is computed.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from .. import _C
from .common import blocks_of, on_device_of
from .launching import launch

# Hidden rows, or columns of the weight, of a program, and its part of the width; and what it sums over at once.
TILE, WIDTH, CHUNK = 16, 64, 32
OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
# The columns of the table of runs: block, hidden rows, and the first product.
ROWS, COLUMNS, FIRST, LAST, START = (tl.constexpr(number) for number in range(5))
RUN_WIDTH = tl.constexpr(5)


def run_tables(runs: NDArray[np.int64]) -> list[NDArray[np.integer]]:
    """(runs, 5) int64, as they are; and (items, 2) int32: runs, and tiles of their rows.

    Args:
        runs: as of `ghnfast.ops.decode.product_runs`.
    """
    return [runs, _C.run_items(runs, TILE)]


@triton.jit
def hidden_gradient_kernel(
    products,  # (elements,) float32: gradients, run by run, of each hidden row (rows, columns)
    weight,  # (max rows, max columns, width) float32
    grad_hidden,  # (hidden rows, width), written
    runs,  # (runs, RUN_WIDTH) int64
    items,  # (items, 2) int32
    width,
    max_columns,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """grad_hidden[i] = sum over the block of products[i] weight: programs (items, parts of the width)."""
    run = runs + tl.load(items + 2 * tl.program_id(0)) * RUN_WIDTH
    first = tl.load(run + FIRST)
    count = (tl.load(run + LAST) - first).to(tl.int32)
    columns = tl.load(run + COLUMNS).to(tl.int32)
    elements = tl.load(run + ROWS).to(tl.int32) * columns
    row = tl.load(items + 2 * tl.program_id(0) + 1) * TILE + tl.arange(0, TILE)
    k = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    own = products + tl.load(run + START)
    total = tl.zeros([TILE, WIDTH], dtype=tl.float32)
    for start in range(0, elements, CHUNK):
        element = start + tl.arange(0, CHUNK)
        place = tl.max_contiguous(row.to(tl.int64)[:, None] * elements + element[None, :], [1, 2])
        grads = tl.load(own + place, mask=(row < count)[:, None] & (element < elements)[None, :], other=0.0)
        of_weight = (element // columns).to(tl.int64) * max_columns + element % columns
        place = tl.max_contiguous(of_weight[:, None] * width + k[None, :], [1, 2])
        matrix = tl.load(weight + place, mask=(element < elements)[:, None] & (k < width)[None, :], other=0.0)
        total = tl.dot(grads, matrix, total, input_precision="ieee")
    place = tl.max_contiguous((first + row)[:, None] * width + k[None, :], [1, 2])
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
                place = tl.max_contiguous(row.to(tl.int64)[:, None] * size + column[None, :], [1, 2])
                grads = tl.load(own + place, mask=(row < count)[:, None] & (column < columns)[None, :], other=0.0)
                place = tl.max_contiguous((first + row)[:, None] * width + k[None, :], [1, 2])
                states = tl.load(hidden + place, mask=(row < count)[:, None] & (k < width)[None, :], other=0.0)
                turned = tl.trans(grads)
                total = tl.dot(turned, states, total, input_precision="ieee")
                of_bias += turned
    of_weight = weight_row.to(tl.int64) * max_columns + column
    place = tl.max_contiguous(of_weight[:, None] * width + k[None, :], [1, 2])
    tl.store(grad_weight + place, total, mask=(column < max_columns)[:, None] & (k < width)[None, :])
    if tl.program_id(2) == 0:
        tl.store(grad_bias + of_weight, tl.sum(of_bias, axis=1), mask=column < max_columns)


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
    with on_device_of(hidden):
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
