"""Linear layers of many sizes in one launch, and the initial embedding of nodes.

What a GHN computes around its message passing are small layers: of a few nodes each, with weights of their own. A table
has all of them; a program computes a tile of one. Products and sums are float32, in one order: results are the same in
every run. Weights are found by their numbers in a table of addresses, which is the only thing here that a GHN's memory
has a part in.

`ghnfast.ops.layers` defines what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from . import layer_tables
from .common import add_exact, blocks_of, fetch, power_of_two, relu
from .launching import launch
from .layer_tables import (
    ACTIVATION,
    BIAS,
    BIAS_FIRST,
    BIAS_OUT,
    BIAS_OUTER,
    EPSILON,
    FROM_STATES,
    GATHER,
    GELU,
    INNER,
    ITEM_LAYER,
    ITEM_OUTPUTS,
    ITEM_ROWS,
    ITEM_WIDTH,
    LAYER_INPUTS,
    LAYER_OUTPUTS,
    LAYER_ROWS,
    NORM,
    RELU,
    RESIDUAL,
    TABLE_WIDTH,
    WEIGHT,
    WEIGHT_FIRST,
    WEIGHT_IN,
    WEIGHT_OUT,
    WEIGHT_OUTER,
    X_IN,
    X_ROW,
    Y_OUT,
    Y_ROW,
    X,
    Y,
)

OPTIONS = {"num_warps": 4, "num_stages": 1, "maxnreg": 168}
# Nodes that a program embeds; of programs that fetch weights, the most that there are, and the lines that one asks for
# at once.
NODES, FETCHERS, FETCHED = 8, 256, 256

# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def weight_of(addresses, number):
    """The memory of a weight."""
    return tl.load(addresses + number).to(tl.pointer_type(tl.float32))


@triton.jit
def load_inputs(x, rows, k, stride, inside, inputs):
    """(rows, inputs k) of x, zero beyond. Inputs are neighbours in memory; as in kernels/stores.py."""
    place = tl.max_contiguous(rows[:, None] + k[None, :] * stride, [1, 2])
    return tl.load(x + place, mask=inside[:, None] & (k < inputs)[None, :], other=0.0)


@triton.jit
def statistics(x, rows, inside, inputs, epsilon, stride, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """(rows,): means over inputs, and one over their standard deviations."""
    total = tl.zeros([ROWS, CHUNK], dtype=tl.float32)
    for start in range(0, inputs, CHUNK):
        total += load_inputs(x, rows, start + tl.arange(0, CHUNK), stride, inside, inputs)
    mean = tl.sum(total, axis=1) / inputs
    squares = tl.zeros([ROWS, CHUNK], dtype=tl.float32)
    for start in range(0, inputs, CHUNK):
        k = start + tl.arange(0, CHUNK)
        distance = load_inputs(x, rows, k, stride, inside, inputs) - mean[:, None]
        squares += tl.where((k < inputs)[None, :], distance * distance, 0.0)
    return mean, 1.0 / tl.sqrt(tl.sum(squares, axis=1) / inputs + epsilon)


@triton.jit
def embedding(indices, addresses, node, column, nodes, hid, POSITIONS: tl.constexpr):
    """E_op[op] + [E_ch[c_out], E_ch[c_in], E_sp[k_h], E_sp[k_w]], and with POSITIONS three rows more: (node, column),
    zero beyond (nodes, hid)."""
    WIDTH: tl.constexpr = 8 if POSITIONS else 5
    inside = (node < nodes) & (column < hid)
    own = indices + node * WIDTH
    place = tl.load(own, mask=node < nodes, other=0).to(tl.int64) * hid + column
    value = tl.load(weight_of(addresses, 0) + place, mask=inside, other=0.0)
    quarter = hid // 4
    part = column // quarter
    entry = tl.load(own + 1 + part, mask=inside, other=0).to(tl.int64) * quarter + column % quarter
    value += tl.load(weight_of(addresses, 2) + entry, mask=inside & (part < 2), other=0.0)
    value += tl.load(weight_of(addresses, 4) + entry, mask=inside & (part >= 2), other=0.0)
    if POSITIONS:
        added = tl.zeros_like(value)
        for table in tl.static_range(3):
            place = tl.load(own + 5 + table, mask=node < nodes, other=0).to(tl.int64) * hid + column
            added += tl.load(weight_of(addresses, 2 * (3 + table)) + place, mask=inside, other=0.0)
        value += added
    return value


# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["begin"])  # one kernel for all stages
def layers_kernel(
    scratch,  # (elements,) float32, read and written
    states,  # (nodes, inputs) float32
    addresses,  # (weights, 2) int64: of float32, and how many there are
    layers,  # (layers, TABLE_WIDTH) int64
    items,  # (items, ITEM_WIDTH) int32
    rows,  # (entries,) int32
    constants,  # (elements,) float32
    begin,  # the first item
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """y[i, n] = activation(weight[n] . norm(x[gather[i]]) + bias[n]) + residual[i, n]: programs (items of a stage,)."""
    item = items + (begin + tl.program_id(0)) * ITEM_WIDTH
    layer = layers + tl.load(item + ITEM_LAYER) * TABLE_WIDTH
    row = tl.load(item + ITEM_ROWS) * ROWS + tl.arange(0, ROWS)
    output = tl.load(item + ITEM_OUTPUTS) * OUTPUTS + tl.arange(0, OUTPUTS)
    count, outputs = tl.load(layer + LAYER_ROWS).to(tl.int32), tl.load(layer + LAYER_OUTPUTS).to(tl.int32)
    inputs = tl.load(layer + LAYER_INPUTS).to(tl.int32)
    inner = tl.load(layer + INNER).to(tl.int32)
    out, there = (output % inner).to(tl.int64), row < count
    outer = (output // inner).to(tl.int64)

    gather = tl.load(layer + GATHER)
    gathered = tl.load(rows + gather + row, mask=there & (gather >= 0), other=0)
    source = tl.where(gather >= 0, gathered, row).to(tl.int64)
    x_in = tl.load(layer + X_IN)
    x = (states if tl.load(layer + FROM_STATES) != 0 else scratch) + tl.load(layer + X)
    x_rows = source * tl.load(layer + X_ROW)
    norm = tl.load(layer + NORM)
    norm_weight = weight_of(addresses, 2 * tl.maximum(norm, 0))
    norm_bias = weight_of(addresses, 2 * tl.maximum(norm + 1, 0))
    mean, factor = tl.zeros([ROWS], dtype=tl.float32), tl.full([ROWS], 1.0, dtype=tl.float32)
    if norm >= 0:
        epsilon = tl.load((layer + EPSILON).to(tl.pointer_type(tl.float64), bitcast=True)).to(tl.float32)
        mean, factor = statistics(x, x_rows, there, inputs, epsilon, x_in, ROWS, CHUNK)

    number = tl.load(layer + WEIGHT)
    weight = weight_of(addresses, 2 * number) if number >= 0 else constants
    weight += tl.load(layer + WEIGHT_FIRST)
    weight_in = tl.load(layer + WEIGHT_IN)
    places = outer * tl.load(layer + WEIGHT_OUTER) + out * tl.load(layer + WEIGHT_OUT)
    total = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for start in range(0, inputs, CHUNK):
        k = start + tl.arange(0, CHUNK)
        value = load_inputs(x, x_rows, k, x_in, there, inputs)
        scale = tl.load(norm_weight + k, mask=(k < inputs) & (norm >= 0), other=1.0)
        shift = tl.load(norm_bias + k, mask=(k < inputs) & (norm >= 0), other=0.0)
        value = (value - mean[:, None]) * factor[:, None] * scale[None, :] + shift[None, :]
        value = tl.where((k < inputs)[None, :], value, 0.0)
        place = tl.max_contiguous(places[:, None] + k[None, :] * weight_in, [1, 2])
        matrix = tl.load(weight + place, mask=(output < outputs)[:, None] & (k < inputs)[None, :], other=0.0)
        total = add_exact(total, value, tl.trans(matrix))

    number = tl.load(layer + BIAS)
    bias = weight_of(addresses, 2 * tl.maximum(number, 0)) + tl.load(layer + BIAS_FIRST)
    place = outer * tl.load(layer + BIAS_OUTER) + out * tl.load(layer + BIAS_OUT)
    total += tl.load(bias + place, mask=(output < outputs) & (number >= 0), other=0.0)[None, :]
    activation = tl.load(layer + ACTIVATION)
    if activation == RELU:
        total = relu(total)
    elif activation == GELU:
        total = gelu(total)
    inside = there[:, None] & (output < outputs)[None, :]
    place = row.to(tl.int64)[:, None] * tl.load(layer + Y_ROW) + output.to(tl.int64)[None, :] * tl.load(layer + Y_OUT)
    place = tl.max_contiguous(place, [1, 2])
    residual = tl.load(layer + RESIDUAL)
    total += tl.load(scratch + residual + place, mask=inside & (residual >= 0), other=0.0)
    tl.store(scratch + tl.load(layer + Y) + place, total, mask=inside)


@triton.jit(do_not_specialize=["nodes", "count"])
def embed_kernel(
    states,  # (nodes, hid) float32, written
    status,  # () int32, written: `fine`
    indices,  # (nodes, 5), or with POSITIONS (nodes, 8), int32: rows of the tables
    addresses,  # (weights, 2) int64: the first are the tables, in the order of the columns of `indices`
    parts,  # (count, 2) int64, of weights that are fetched: see `fetch`
    nodes,
    hid,
    fine,
    count,
    HID: tl.constexpr,
    NODES: tl.constexpr,
    POSITIONS: tl.constexpr,
    FETCHED: tl.constexpr,
):
    """Programs (nodes / NODES,): see `embedding`; and those that fetch weights meanwhile."""
    tiles = tl.cdiv(nodes, NODES)
    if tl.program_id(0) >= tiles:
        fetch(parts, count, tl.program_id(0) - tiles, tl.num_programs(0) - tiles, FETCHED)
    else:
        if tl.program_id(0) == 0:
            tl.store(status, fine)
        node = (tl.program_id(0) * NODES + tl.arange(0, NODES))[:, None]
        column = tl.arange(0, HID)[None, :]
        value = embedding(indices, addresses, node, column, nodes, hid, POSITIONS)
        tl.store(states + node * hid + column, value, mask=(node < nodes) & (column < hid))


# Launchers ------------------------------------------------------------------------------------------------------------


def run_stage(
    scratch: Tensor, states: Tensor, addresses: Tensor, tables: Sequence[Tensor], begin: int, end: int,
    launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Compute the layers of items begin up to end.

    Args:
        tables: `Tables` of kernels/layer_tables.py.
    """
    launch(
        layers_kernel, (end - begin,), scratch, states, addresses, *tables, begin,
        layer_tables.ROWS, layer_tables.OUTPUTS, layer_tables.CHUNK, **OPTIONS,
    )  # fmt: skip


def embed(
    states: Tensor, status: Tensor, indices: Tensor, addresses: Tensor, parts: Tensor, fine: int,
    launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Write the initial states of nodes, and the status; and bring parts of weights into the cache."""
    nodes, hid = states.shape
    launch(
        embed_kernel, (blocks_of(nodes, NODES) + fetchers_of(parts),), states, status, indices, addresses, parts,
        nodes, hid, fine, len(parts), power_of_two(hid), NODES, indices.shape[1] == 8, FETCHED, **OPTIONS,
    )  # fmt: skip


def fetchers_of(parts: Tensor) -> int:
    """How many programs fetch weights: none where kernels are interpreted, which has no word for it."""
    return min(len(parts), FETCHERS) if isinstance(embed_kernel, JITFunction) else 0
