"""What a narrow layer of attention does node by node, in one launch: all of it but attention itself.

A program owns some nodes, and takes their states through the output of attention, the MLP, and the norm and the
queries, keys and values of the next layer. Weights are read whole by every program, so this is for narrow layers:
those of wide ones are tiles of `layers_kernel`, which share them out. Products and sums are float32, in one order:
results are the same in every run.

`ghnfast.nn.graphormer.GraphormerLayer` defines what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .common import add_exact, blocks_of, fetch, power_of_two
from .launching import launch
from .layers import FETCHED, embedding, fetchers_of, gelu, weight_of

# Nodes of a program, the fewest that `tl.dot` takes; outputs of a layer that it computes at once, and inputs of them.
ROWS, OUTPUTS, CHUNK = 16, 64, 32
OPTIONS = {"num_warps": 8, "num_stages": 2, "maxnreg": 255}
# The weights of a layer, in the order of their numbers.
LN1, LN1_BIAS, QKV, OUT, OUT_BIAS, LN2, LN2_BIAS, FF0, FF0_BIAS, FF1, FF1_BIAS = (tl.constexpr(n) for n in range(11))
WEIGHTS = 11

# Device functions -----------------------------------------------------------------------------------------------------


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
def product(
    x, row, rows, inputs, weight, output, outputs, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNK: tl.constexpr
):
    """x (rows, inputs) times the transpose of a weight (outputs, inputs), at (row, output)."""
    total = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for start in range(0, inputs, CHUNK):
        k = start + tl.arange(0, CHUNK)
        matrix = load_part(weight, output, outputs, k, inputs)
        total = add_exact(total, load_part(x, row, rows, k, inputs), tl.trans(matrix))
    return total


@triton.jit
def add_product(
    x, given, row, rows, inputs, weight, bias, outputs,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """x (rows, outputs) += given (rows, inputs) times the transpose of a weight, + bias: of a program's rows."""
    for start in range(0, outputs, OUTPUTS):
        output = start + tl.arange(0, OUTPUTS)
        found = product(given, row, rows, inputs, weight, output, outputs, ROWS, OUTPUTS, CHUNK)
        found += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
        store_part(x, load_part(x, row, rows, output, outputs) + found, row, rows, output, outputs)


@triton.jit
def store_normed(normed, x, row, rows, weight, bias, epsilon, hid, HID: tl.constexpr):
    """The layer norm of a program's rows of x, (ROWS, HID), zero beyond hid."""
    column = tl.arange(0, HID)
    mean = tl.sum(x, axis=1) / hid
    distance = tl.where((column < hid)[None, :], x - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(distance * distance, axis=1) / hid + epsilon)
    scale = tl.load(weight + column, mask=column < hid, other=0.0)
    shift = tl.load(bias + column, mask=column < hid, other=0.0)
    store_part(normed, distance * factor[:, None] * scale[None, :] + shift[None, :], row, rows, column, hid)


@triton.jit
def store_queries(
    x, normed, qkv, row, rows, weights, epsilon, hid,
    HID: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """qkv = to_qkv(LN1(x)) of a program's rows."""
    store_normed(normed, x, row, rows, weight_of(weights, 2 * LN1), weight_of(weights, 2 * LN1_BIAS), epsilon, hid, HID)
    tl.debug_barrier()
    weight = weight_of(weights, 2 * QKV)
    for start in range(0, 3 * hid, OUTPUTS):
        output = start + tl.arange(0, OUTPUTS)
        found = product(normed, row, rows, hid, weight, output, 3 * hid, ROWS, OUTPUTS, CHUNK)
        store_part(qkv, found, row, rows, output, 3 * hid)


# Kernels --------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["nodes", "first", "weights"])
def begin_kernel(
    states,  # (nodes, hid) float32, written
    status,  # () int32, written: `fine`
    normed,  # (nodes, hid) float32: what a program writes and reads again
    qkv,  # (nodes, 3 hid) float32, written
    indices,  # (nodes, 8) int32, and
    addresses,  # (weights, 2) int64: see `embed_kernel`
    nodes,
    hid,
    fine,
    first,  # the number of the first weight of the first layer
    epsilon,  # of its first norm
    weights,  # how many there are
    HID: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHUNK: tl.constexpr,
    FETCHED: tl.constexpr,
):
    """The initial states, and the first layer's queries, keys and values: programs (nodes / ROWS,), and those that
    fetch weights meanwhile."""
    tiles = tl.cdiv(nodes, ROWS)
    if tl.program_id(0) >= tiles:
        fetch(addresses, weights, tl.program_id(0) - tiles, tl.num_programs(0) - tiles, FETCHED)
    else:
        if tl.program_id(0) == 0:
            tl.store(status, fine)
        row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HID)
        x = embedding(indices, addresses, row[:, None], column[None, :], nodes, hid, True)
        store_part(states, x, row, nodes, column, hid)
        store_queries(x, normed, qkv, row, nodes, addresses + 2 * first, epsilon, hid, HID, ROWS, OUTPUTS, CHUNK)


@triton.jit(do_not_specialize=["nodes", "first"])
def rest_kernel(
    states,  # (nodes, hid) float32, read and written
    attended,  # (nodes, hid) float32: the result of attention
    normed,  # (nodes, hid), and
    units,  # (nodes, 4 hid) float32: what a program writes and reads again
    qkv,  # (nodes, 3 hid) float32, written where there is a NEXT layer
    addresses,
    nodes,
    hid,
    first,  # the number of the first weight of this layer; the next one's follow its own
    epsilon,  # of its second norm
    next_epsilon,  # of the next one's first norm
    HID: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHUNK: tl.constexpr,
    NEXT: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """x += to_out(attended);  x += ff(LN2(x));  qkv = to_qkv(LN1(x)) of the next layer: programs (nodes / ROWS,)."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HID)
    weights = addresses + 2 * first
    add_product(
        states, attended, row, nodes, hid, weight_of(weights, 2 * OUT), weight_of(weights, 2 * OUT_BIAS), hid,
        ROWS, OUTPUTS, CHUNK,
    )  # fmt: skip
    tl.debug_barrier()
    x = load_part(states, row, nodes, column, hid)
    store_normed(
        normed, x, row, nodes, weight_of(weights, 2 * LN2), weight_of(weights, 2 * LN2_BIAS), epsilon, hid, HID
    )
    tl.debug_barrier()
    weight, bias = weight_of(weights, 2 * FF0), weight_of(weights, 2 * FF0_BIAS)
    for start in range(0, 4 * hid, OUTPUTS):
        unit = start + tl.arange(0, OUTPUTS)
        found = product(normed, row, nodes, hid, weight, unit, 4 * hid, ROWS, OUTPUTS, CHUNK)
        found += tl.load(bias + unit, mask=unit < 4 * hid, other=0.0)[None, :]
        store_part(units, gelu(found), row, nodes, unit, 4 * hid)
    tl.debug_barrier()
    add_product(
        states, units, row, nodes, 4 * hid, weight_of(weights, 2 * FF1), weight_of(weights, 2 * FF1_BIAS), hid,
        ROWS, OUTPUTS, CHUNK,
    )  # fmt: skip
    if NEXT:
        tl.debug_barrier()
        x = load_part(states, row, nodes, column, hid)
        store_queries(
            x, normed, qkv, row, nodes, weights + 2 * WEIGHTS, next_epsilon, hid, HID, ROWS, OUTPUTS, CHUNK
        )  # fmt: skip


# Launchers ------------------------------------------------------------------------------------------------------------


class Room(NamedTuple):
    """What programs write and read again: float32."""

    normed: Tensor  # (nodes, hid)
    units: Tensor  # (nodes, 4 hid)
    qkv: Tensor  # (nodes, 3 hid): what the next attention reads


def begin(
    states: Tensor, status: Tensor, room: Room, indices: Tensor, addresses: Tensor, fine: int, fetches: bool,
    first: int, epsilon: float, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Write the initial states of nodes, the status, and what the first layer attends with; `fetches` as of `embed`."""
    nodes, hid = states.shape
    launch(
        begin_kernel, (blocks_of(nodes, ROWS) + fetchers_of(addresses, fetches),), states, status, room.normed,
        room.qkv, indices, addresses, nodes, hid, fine, first, epsilon, len(addresses), power_of_two(hid), ROWS,
        OUTPUTS, CHUNK, FETCHED, **OPTIONS,
    )  # fmt: skip


def rest(
    states: Tensor, attended: Tensor, room: Room, addresses: Tensor, first: int, epsilon: float,
    next_epsilon: float | None, launch: Callable[..., Any] = launch,
) -> None:  # fmt: skip
    """Take states through a layer, after its attention, and write what the next one attends with, if there is one.

    Args:
        first: the number of the layer's first weight.
        epsilon, next_epsilon: of its second norm, and of the next layer's first one.
    """
    nodes, hid = states.shape
    launch(
        rest_kernel, (blocks_of(nodes, ROWS),), states, attended, *room, addresses, nodes, hid, first, epsilon,
        next_epsilon or 0.0, power_of_two(hid), ROWS, OUTPUTS, CHUNK, next_epsilon is not None, WEIGHTS,
        **OPTIONS,
    )  # fmt: skip
