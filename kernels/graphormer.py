"""What a narrow layer of attention does node by node, in one launch: all of it but attention itself.

A program owns some nodes, and takes their states through the output of attention, the MLP, and the norm and the
queries, keys and values of the next layer. Weights are read whole by every program, so this is for narrow layers:
those of wide ones are tiles of `layers_kernel`, which share them out. Products and sums are float32, in one order:
results are the same in every run.

`ghnfast.nn.graphormer.GraphormerLayer` defines what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .common import blocks_of, fetch, halves_of, multiply_halves, power_of_two
from .launching import launch
from .layers import FETCHED, embedding, fetchers_of, gelu

# Nodes of a program, the fewest that `tl.dot` takes; and numbers of a weight that it reads at once, half as many one by
# one: registers have to hold them, and the next, which are on their way meanwhile.
ROWS, READ = 16, 4096
OPTIONS = {"num_warps": 8, "num_stages": 1, "maxnreg": 255}
LEAST_WIDTH = 16  # that a product of matrices takes
# The weights of a layer, in the order of their numbers.
LN1, LN1_BIAS, QKV, OUT, OUT_BIAS, LN2, LN2_BIAS, FF0, FF0_BIAS, FF1, FF1_BIAS = (tl.constexpr(n) for n in range(11))
WEIGHTS = 11

# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def own_weight(addresses, number, ALIGNED: tl.constexpr):
    """The memory of a weight; ALIGNED where four numbers of it may be read at once."""
    weight = tl.load(addresses + 2 * number).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        weight = tl.multiple_of(weight, 16)
    return weight


@triton.jit
def load_part(pointer, row, rows, column, columns):
    """(row, column) of a matrix (rows, columns), zero beyond."""
    place = row[:, None] * columns + column[None, :]
    return tl.load(pointer + place, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def store_part(pointer, values, row, rows, column, columns):
    place = row[:, None] * columns + column[None, :]
    tl.store(pointer + place, values, mask=(row < rows)[:, None] & (column < columns)[None, :])


@triton.jit
def product(high, low, matrix):
    """x (rows, inputs), of which these are the halves, times the transpose of a matrix (outputs, inputs)."""
    matrix_high, matrix_low = halves_of(matrix)
    return multiply_halves(high, low, tl.trans(matrix_high), tl.trans(matrix_low))


@triton.jit
def load_vector(pointer, column, columns):
    return tl.load(pointer + column, mask=column < columns, other=0.0)


@triton.jit
def normed_halves(x, scale, shift, epsilon, hid, HID: tl.constexpr):
    """The layer norm of rows of x, (ROWS, HID), zero beyond hid: the halves of its numbers."""
    mean = tl.sum(x, axis=1) / hid
    distance = tl.where((tl.arange(0, HID) < hid)[None, :], x - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(distance * distance, axis=1) / hid + epsilon)
    return halves_of(distance * factor[:, None] * scale[None, :] + shift[None, :])


@triton.jit
def store_queries(qkv, high, low, matrix, weight, row, rows, hid: tl.constexpr, HID: tl.constexpr):
    """qkv = to_qkv(x) of a program's rows, of which these are the halves. matrix: the first outputs of the weight."""
    column = tl.arange(0, HID)
    for start in tl.static_range(0, 3 * HID, HID):
        own = matrix
        if start < 2 * HID:
            matrix = load_part(weight, start + HID + column, 3 * hid, column, hid)
        store_part(qkv, product(high, low, own), row, rows, start + column, 3 * hid)


# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["nodes", "first", "count"])
def begin_kernel(
    states,  # (nodes, hid) float32, written
    status,  # () int32, written: `fine`
    qkv,  # (nodes, 3 hid) float32, written
    indices,  # (nodes, 8) int32, and
    addresses,  # (weights, 2) int64, and
    parts,  # (count, 2) int64: see `embed_kernel`
    nodes,
    fine,
    first,  # the number of the first weight of the first layer
    epsilon,  # of its first norm
    count,
    hid: tl.constexpr,
    HID: tl.constexpr,
    ROWS: tl.constexpr,
    ALIGNED: tl.constexpr,
    FETCHED: tl.constexpr,
):
    """The initial states, and the first layer's queries, keys and values: programs (nodes / ROWS,), and those that
    fetch weights meanwhile."""
    tiles = tl.cdiv(nodes, ROWS)
    if tl.program_id(0) >= tiles:
        fetch(parts, count, tl.program_id(0) - tiles, tl.num_programs(0) - tiles, FETCHED)
    else:
        if tl.program_id(0) == 0:
            tl.store(status, fine)
        row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HID)
        own = addresses + 2 * first
        to_qkv = own_weight(own, QKV, ALIGNED)
        matrix = load_part(to_qkv, column, 3 * hid, column, hid)
        scale = load_vector(own_weight(own, LN1, ALIGNED), column, hid)
        shift = load_vector(own_weight(own, LN1_BIAS, ALIGNED), column, hid)
        x = embedding(indices, addresses, row[:, None], column[None, :], nodes, hid, True)
        store_part(states, x, row, nodes, column, hid)
        high, low = normed_halves(x, scale, shift, epsilon, hid, HID)
        store_queries(qkv, high, low, matrix, to_qkv, row, nodes, hid, HID)


@triton.jit(do_not_specialize=["nodes", "first"])
def rest_kernel(
    states,  # (nodes, hid) float32, read and written
    attended,  # (nodes, hid) float32: the result of attention
    qkv,  # (nodes, 3 hid) float32, written where there is a NEXT layer
    addresses,
    nodes,
    first,  # the number of the first weight of this layer; the next one's follow its own
    epsilon,  # of its second norm
    next_epsilon,  # of the next one's first norm
    hid: tl.constexpr,
    HID: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    ALIGNED: tl.constexpr,
    NEXT: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """x += to_out(attended);  x += ff(LN2(x));  qkv = to_qkv(LN1(x)) of the next layer: programs (nodes / ROWS,).

    The next matrix is on its way while one is multiplied: what is read here comes before what waits for it.
    """
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HID)
    unit = tl.arange(0, UNITS)
    own = addresses + 2 * first
    inner, outer = own_weight(own, FF0, ALIGNED), own_weight(own, FF1, ALIGNED)
    inner_bias = own_weight(own, FF0_BIAS, ALIGNED)
    high, low = halves_of(load_part(attended, row, nodes, column, hid))
    matrix = load_part(own_weight(own, OUT, ALIGNED), column, hid, column, hid)
    x = load_part(states, row, nodes, column, hid)
    x += load_vector(own_weight(own, OUT_BIAS, ALIGNED), column, hid)[None, :]
    scale = load_vector(own_weight(own, LN2, ALIGNED), column, hid)
    shift = load_vector(own_weight(own, LN2_BIAS, ALIGNED), column, hid)
    after = load_vector(own_weight(own, FF1_BIAS, ALIGNED), column, hid)
    matrix_in = load_part(inner, unit, 4 * hid, column, hid)
    x += product(high, low, matrix)
    high, low = normed_halves(x, scale, shift, epsilon, hid, HID)
    x += after[None, :]
    if NEXT:
        to_qkv = own_weight(own, WEIGHTS + QKV, ALIGNED)
    for start in tl.static_range(0, 4 * HID, UNITS):
        bias = load_vector(inner_bias, start + unit, 4 * hid)
        found = product(high, low, matrix_in) + bias[None, :]
        matrix_out = load_part(outer, column, hid, start + unit, 4 * hid)
        units_high, units_low = halves_of(gelu(found))
        if start + UNITS < 4 * HID:
            matrix_in = load_part(inner, start + UNITS + unit, 4 * hid, column, hid)
        elif NEXT:
            matrix_in = load_part(to_qkv, column, 3 * hid, column, hid)
            scale = load_vector(own_weight(own, WEIGHTS + LN1, ALIGNED), column, hid)
            shift = load_vector(own_weight(own, WEIGHTS + LN1_BIAS, ALIGNED), column, hid)
        x += product(units_high, units_low, matrix_out)
    store_part(states, x, row, nodes, column, hid)
    if NEXT:
        high, low = normed_halves(x, scale, shift, next_epsilon, hid, HID)
        store_queries(qkv, high, low, matrix_in, to_qkv, row, nodes, hid, HID)


# Launchers ------------------------------------------------------------------------------------------------------------


def width_of(hid: int) -> int:
    return max(LEAST_WIDTH, power_of_two(hid))


def begin(
    states: Tensor, status: Tensor, qkv: Tensor, indices: Tensor, addresses: Tensor, parts: Tensor, aligned: bool,
    fine: int, first: int, epsilon: float, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Write the initial states of nodes, the status, and what the first layer attends with.

    Args:
        parts: as of `embed`.
        aligned: whether each weight begins at a multiple of 16 bytes.
    """
    nodes, hid = states.shape
    launch(
        begin_kernel, (blocks_of(nodes, ROWS) + fetchers_of(parts),), states, status, qkv, indices, addresses, parts,
        nodes, fine, first, epsilon, len(parts), hid, width_of(hid), ROWS, aligned, FETCHED, **OPTIONS,
    )  # fmt: skip


def rest(
    states: Tensor, attended: Tensor, qkv: Tensor, addresses: Tensor, aligned: bool, first: int, epsilon: float,
    next_epsilon: float | None, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Take states through a layer, after its attention, and write what the next one attends with, if there is one.

    Args:
        aligned: as of `begin`.
        first: the number of the layer's first weight.
        epsilon, next_epsilon: of its second norm, and of the next layer's first one.
    """
    nodes, hid = states.shape
    width, read = width_of(hid), READ if aligned else READ // 2
    launch(
        rest_kernel, (blocks_of(nodes, ROWS),), states, attended, qkv, addresses, nodes, first, epsilon,
        next_epsilon or 0.0, hid, width, ROWS, min(read // width, 4 * width), aligned, next_epsilon is not None,
        WEIGHTS, **OPTIONS,
    )  # fmt: skip
