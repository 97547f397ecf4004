"""Attention of the graphs of a batch, all in one launch, and its backward in two.

A program owns some rows (queries; in one of the backward kernels keys) of a graph and one head, and walks over all
nodes of the graph. Logits are never stored: the forward kernel keeps the logarithms of their sums of exponentials, from
which the backward kernels have them again. The bias of a pair is gathered by its code, a byte, from the table. All is
float32, products too. Every sum has one order: results are the same in every run.

`ghnfast.ops.attention.naive_attention` defines what is computed. Source: Do Transformers Really Perform Bad for Graph
Representation? (Ying et al., NeurIPS 2021), equation 6; FlashAttention-2 (Dao, ICLR 2024), algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from . import driver
from .common import power_of_two
from .launching import launch

# Nodes whose rows a program owns, and nodes that it looks at at once: as few as a product of matrices takes, so that a
# graph of a hundred nodes is many programs.
BLOCK = 16
# Heads are padded to what a product of matrices takes, at least.
LEAST_WIDTH = 16
# Up to this width, values stay in the registers of four warps (tests/kernels/test_compile.py).
NARROW = 64


# Going forward, what a program looks at at once, by the width that heads are padded to; of wider ones, BLOCK.
KEYS = {16: 64, 32: 32}
# From this architecture on, the registers of the least heads suffice for half as many where there is a backward pass.
FEWER_KEYS_FROM = 100


def keys_for(width: int, keep: bool, device: torch.device) -> int:
    """See `KEYS`."""
    keys = KEYS.get(width, BLOCK)
    return keys // 2 if keep and width == LEAST_WIDTH and driver.architecture_of(device) >= FEWER_KEYS_FROM else keys


def options_for(width: int) -> dict[str, int]:
    return {"num_warps": 4 if width <= NARROW else 8, "num_stages": 1, "maxnreg": 255}


def forward_options_for(width: int) -> dict[str, int]:
    """Of the least heads, two programs fit into a multiprocessor at once."""
    return {"num_warps": 8, "num_stages": 1, "maxnreg": 128} if width == LEAST_WIDTH else options_for(width)


def tiles_of(graph_offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """(tiles, 2): the graph of a program, and the first of its `BLOCK` nodes there."""
    graphs = enumerate(np.diff(graph_offsets).tolist())
    found = [(graph, first) for graph, nodes in graphs for first in range(0, nodes, BLOCK)]
    return np.array(found, dtype=np.int32).reshape(-1, 2)


# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def load_rows(pointer, row, nodes, stride, width, WIDTH: tl.constexpr):
    """(rows, WIDTH) of a head, zero beyond (nodes, width)."""
    column = tl.arange(0, WIDTH)[None, :]
    mask = (row < nodes)[:, None] & (column < width)
    return tl.load(pointer + row[:, None].to(tl.int64) * stride + column, mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, values, row, nodes, stride, width, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)[None, :]
    mask = (row < nodes)[:, None] & (column < width)
    tl.store(pointer + row[:, None].to(tl.int64) * stride + column, values, mask=mask)


@triton.jit
def load_numbers(pointer, row, nodes, heads):
    """(rows,) of a head, zero beyond `nodes`."""
    return tl.load(pointer + row.to(tl.int64) * heads, mask=row < nodes, other=0.0)


@triton.jit
def load_codes(codes, first, second, nodes):
    """The codes of pairs, of the shape of both indices together; 0 beyond (nodes, nodes)."""
    inside = (first < nodes) & (second < nodes)
    return tl.load(codes + first.to(tl.int64) * nodes + second, mask=inside, other=0).to(tl.int32)


@triton.jit
def load_biases(codes, table, first, second, nodes, heads: tl.constexpr, head):
    """The biases of pairs, of the shape of both indices together."""
    return tl.load(table + load_codes(codes, first, second, nodes) * heads + head)


@triton.jit
def product(a, b):
    """a b^T, rounded as float32 is."""
    return tl.dot(a, tl.trans(b), input_precision="ieee")


# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit
def attention_kernel(
    qkv,  # (nodes, 3, heads, width)
    table,  # (kinds, heads)
    result,  # (nodes, heads, width), written
    log_sums,  # (nodes, heads), written if KEEP
    graph_offsets,  # (graphs + 1,) int64
    pair_offsets,  # (graphs + 1,) int64
    codes,  # uint8: of each graph (nodes, nodes)
    tiles,  # (programs, 2) int32, see `tiles_of`
    heads: tl.constexpr,
    width: tl.constexpr,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    KEEP: tl.constexpr,
):
    """softmax over j of (q_i . k_j scale + table[code(i, j)]), times v_j: a program per tile of rows i, and head."""
    graph, first, head = (
        tl.load(tiles + 2 * tl.program_id(0)),
        tl.load(tiles + 2 * tl.program_id(0) + 1),
        tl.program_id(1),
    )
    begin = tl.load(graph_offsets + graph)
    nodes = (tl.load(graph_offsets + graph + 1) - begin).to(tl.int32)
    stride = 3 * heads * width
    queries = qkv + begin * stride + head * width
    keys, values = queries + heads * width, queries + 2 * heads * width
    own_codes = codes + tl.load(pair_offsets + graph)

    row = first + tl.arange(0, BLOCK)
    query = load_rows(queries, row, nodes, stride, width, WIDTH)
    most = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    sums = tl.zeros([BLOCK, WIDTH], dtype=tl.float32)
    other = tl.arange(0, KEYS)
    bias = load_biases(own_codes, table, row[:, None], other[None, :], nodes, heads, head)
    key = load_rows(keys, other, nodes, stride, width, WIDTH)
    value = load_rows(values, other, nodes, stride, width, WIDTH)
    for _ in range(0, nodes, KEYS):
        logits = product(query, key) * scale + bias
        logits = tl.where(other[None, :] < nodes, logits, float("-inf"))
        # Where all are minus infinity so far, they are compared with 0: minus infinity less itself is no number.
        higher = tl.maximum(most, tl.max(logits, axis=1))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights, factor = tl.exp(logits - level[:, None]), tl.exp(most - level)
        most = higher
        total = total * factor + tl.sum(weights, axis=1)
        sums = sums * factor[:, None]
        other += KEYS
        # What is looked at next is on its way meanwhile.
        bias = load_biases(own_codes, table, row[:, None], other[None, :], nodes, heads, head)
        key = load_rows(keys, other, nodes, stride, width, WIDTH)
        sums += tl.dot(weights, value, input_precision="ieee")
        value = load_rows(values, other, nodes, stride, width, WIDTH)
    written = result + begin * heads * width + head * width
    store_rows(written, sums / total[:, None], row, nodes, heads * width, width, WIDTH)
    if KEEP:
        tl.store(log_sums + (begin + row) * heads + head, most + tl.log(total), mask=row < nodes)


@triton.jit(do_not_specialize=["width"])  # loads of four numbers would not fit into registers of wide heads
def queries_backward_kernel(
    grad,  # (nodes, heads, width): of the result
    qkv,  # (nodes, 3, heads, width)
    table,  # (kinds, heads)
    log_sums,  # (nodes, heads)
    deltas,  # (nodes, heads): the products of result and its gradient
    grad_qkv,  # (nodes, 3, heads, width), written: of queries
    grad_tables,  # (programs, heads, KINDS), written: what a program's rows give
    scratch,  # (programs, heads, BLOCK, BLOCK), written: gradients of logits, which are read in another order
    graph_offsets,
    pair_offsets,
    codes,
    tiles,
    heads,
    width,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    KINDS: tl.constexpr,
):
    """ds_ij = p_ij (dO_i . v_j - delta_i);  dQ_i = sum_j ds_ij k_j scale;  dtable[c] = sum of ds_ij of the code c."""
    graph, first, head = (
        tl.load(tiles + 2 * tl.program_id(0)),
        tl.load(tiles + 2 * tl.program_id(0) + 1),
        tl.program_id(1),
    )
    begin = tl.load(graph_offsets + graph)
    nodes = (tl.load(graph_offsets + graph + 1) - begin).to(tl.int32)
    stride = 3 * heads * width
    at = begin * stride + head * width
    keys, values = qkv + at + heads * width, qkv + at + 2 * heads * width
    own_codes = codes + tl.load(pair_offsets + graph)
    program = tl.program_id(0).to(tl.int64) * heads + head
    own_scratch = scratch + program * BLOCK * BLOCK

    row, column = first + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    query = load_rows(qkv + at, row, nodes, stride, width, WIDTH)
    given = load_rows(grad + begin * heads * width + head * width, row, nodes, heads * width, width, WIDTH)
    log_sum = load_numbers(log_sums + begin * heads + head, row, nodes, heads)
    delta = load_numbers(deltas + begin * heads + head, row, nodes, heads)
    sums = tl.zeros([BLOCK, WIDTH], dtype=tl.float32)
    kind = tl.arange(0, KINDS)[:, None]
    by_kind = tl.zeros([KINDS, BLOCK], dtype=tl.float32)
    for start in range(0, nodes, BLOCK):
        other = start + column
        key = load_rows(keys, other, nodes, stride, width, WIDTH)
        code = load_codes(own_codes, row[:, None], other[None, :], nodes)
        logits = product(query, key) * scale + tl.load(table + code * heads + head)
        there = (row < nodes)[:, None] & (other < nodes)[None, :]
        weights = tl.where(there, tl.exp(logits - log_sum[:, None]), 0.0)
        inner = product(given, load_rows(values, other, nodes, stride, width, WIDTH))
        inner = tl.where(there, weights * (inner - delta[:, None]), 0.0)
        sums += tl.dot(inner, key, input_precision="ieee")
        tl.store(own_scratch + tl.arange(0, BLOCK)[:, None] * BLOCK + column[None, :], inner)
        tl.debug_barrier()
        for index in range(0, tl.minimum(BLOCK, nodes - first)):
            own = load_codes(own_codes, first + index + tl.zeros([BLOCK], dtype=tl.int32), other, nodes)
            by_kind += tl.where(own[None, :] == kind, tl.load(own_scratch + index * BLOCK + column)[None, :], 0.0)
        tl.debug_barrier()
    store_rows(grad_qkv + at, sums * scale, row, nodes, stride, width, WIDTH)
    tl.store(grad_tables + program * KINDS + tl.arange(0, KINDS), tl.sum(by_kind, axis=1))


@triton.jit
def keys_backward_kernel(
    grad,  # (nodes, heads, width): of the result
    qkv,  # (nodes, 3, heads, width)
    table,  # (kinds, heads)
    log_sums,  # (nodes, heads)
    deltas,  # (nodes, heads)
    grad_qkv,  # (nodes, 3, heads, width), written: of keys and values
    graph_offsets,
    pair_offsets,
    codes,
    tiles,
    heads,
    width,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dV_j = sum_i p_ij dO_i;  dK_j = sum_i ds_ij q_i scale: a program per tile of nodes j, and head."""
    graph, first, head = (
        tl.load(tiles + 2 * tl.program_id(0)),
        tl.load(tiles + 2 * tl.program_id(0) + 1),
        tl.program_id(1),
    )
    begin = tl.load(graph_offsets + graph)
    nodes = (tl.load(graph_offsets + graph + 1) - begin).to(tl.int32)
    stride = 3 * heads * width
    at = begin * stride + head * width
    own_grad = grad + begin * heads * width + head * width
    own_codes = codes + tl.load(pair_offsets + graph)

    row = first + tl.arange(0, BLOCK)
    key = load_rows(qkv + at + heads * width, row, nodes, stride, width, WIDTH)
    value = load_rows(qkv + at + 2 * heads * width, row, nodes, stride, width, WIDTH)
    key_sums = tl.zeros([BLOCK, WIDTH], dtype=tl.float32)
    value_sums = key_sums
    for start in range(0, nodes, BLOCK):
        other = start + tl.arange(0, BLOCK)
        query = load_rows(qkv + at, other, nodes, stride, width, WIDTH)
        given = load_rows(own_grad, other, nodes, heads * width, width, WIDTH)
        log_sum = load_numbers(log_sums + begin * heads + head, other, nodes, heads)
        delta = load_numbers(deltas + begin * heads + head, other, nodes, heads)
        code = load_codes(own_codes, other[None, :], row[:, None], nodes)
        logits = product(key, query) * scale + tl.load(table + code * heads + head)
        there = (row < nodes)[:, None] & (other < nodes)[None, :]
        weights = tl.where(there, tl.exp(logits - log_sum[None, :]), 0.0)
        value_sums += tl.dot(weights, given, input_precision="ieee")
        inner = tl.where(there, weights * (product(value, given) - delta[None, :]), 0.0)
        key_sums += tl.dot(inner, query, input_precision="ieee")
    store_rows(grad_qkv + at + heads * width, key_sums * scale, row, nodes, stride, width, WIDTH)
    store_rows(grad_qkv + at + 2 * heads * width, value_sums, row, nodes, stride, width, WIDTH)


# Launchers ------------------------------------------------------------------------------------------------------------


def sizes_of(qkv: Tensor, table: Tensor) -> tuple[int, int, float, int]:
    """heads, width, scale, and WIDTH."""
    heads = table.shape[1]
    width = qkv.shape[1] // (3 * heads)
    return heads, width, width**-0.5, max(LEAST_WIDTH, power_of_two(width))


def attention(
    qkv: Tensor, table: Tensor, relations: Sequence[Tensor], keep: bool, launch: Callable[..., Any] = launch,
    result: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result (nodes, heads width), and what `attention_backward` needs: (nodes, heads), or (0, heads).

    Args:
        qkv: (nodes, 3 heads width) float32.
        table: (kinds, heads) float32.
        relations: graph_offsets, pair_offsets, codes and tiles, see `attention_kernel`.
        result: where it goes, if it has memory already.
    """
    qkv, table = qkv.contiguous(), table.contiguous()
    heads, width, scale, padded = sizes_of(qkv, table)
    if result is None:
        result = qkv.new_empty(len(qkv), heads * width)
    log_sums = qkv.new_empty(len(qkv) if keep else 0, heads)
    with driver.on_device(qkv.device):
        launch(
            attention_kernel, (len(relations[3]), heads), qkv, table, result, log_sums, *relations, heads, width, scale,
            padded, BLOCK, keys_for(padded, keep, qkv.device), keep, **forward_options_for(padded),
        )  # fmt: skip
    return result, log_sums


def attention_backward(
    grad: Tensor, qkv: Tensor, table: Tensor, relations: Sequence[Tensor], result: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the table.

    Args:
        result, log_sums: what `attention` returned.
    """
    grad, qkv, table = grad.contiguous(), qkv.contiguous(), table.contiguous()
    heads, width, scale, padded = sizes_of(qkv, table)
    deltas = (grad * result).view(-1, heads, width).sum(2)
    grad_qkv = torch.empty_like(qkv)
    tiles, kinds = len(relations[3]), power_of_two(len(table))
    grad_tables = qkv.new_empty(tiles, heads, kinds)
    scratch = qkv.new_empty(tiles, heads, BLOCK, BLOCK)
    given = grad, qkv, table, log_sums, deltas, grad_qkv
    sizes, options = (heads, width, scale, padded, BLOCK), options_for(padded)
    with driver.on_device(qkv.device):
        grid = tiles, heads
        launch(queries_backward_kernel, grid, *given, grad_tables, scratch, *relations, *sizes, kinds, **options)
        launch(keys_backward_kernel, grid, *given, *relations, *sizes, **options)
    return grad_qkv, grad_tables.sum(0).T[: len(table)].contiguous()
