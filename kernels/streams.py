"""Matrices and vectors between memory and registers: held whole, or streamed in chunks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_matrix(pointer, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS), zero beyond (rows, columns)."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(pointer + row * columns + column, mask=(row < rows) & (column < columns), other=0.0)


@triton.jit
def load_transposed(pointer, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(COLUMNS, ROWS), zero beyond (columns, rows)."""
    row, column = tl.arange(0, ROWS)[None, :], tl.arange(0, COLUMNS)[:, None]
    return tl.load(pointer + row * columns + column, mask=(row < rows) & (column < columns), other=0.0)


@triton.jit
def load_layers(pointer, rows, columns, HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A layer of each MLP: (HEADS, ROWS, COLUMNS)."""
    head = tl.arange(0, HEADS)[:, None, None]
    row, column = tl.arange(0, ROWS)[None, :, None], tl.arange(0, COLUMNS)[None, None, :]
    mask = (row < rows) & (column < columns)
    return tl.load(pointer + (head * rows + row) * columns + column, mask=mask, other=0.0)


@triton.jit
def load_transposed_layers(pointer, rows, columns, HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A layer of each MLP, transposed: (HEADS, COLUMNS, ROWS)."""
    head = tl.arange(0, HEADS)[:, None, None]
    row, column = tl.arange(0, ROWS)[None, None, :], tl.arange(0, COLUMNS)[None, :, None]
    mask = (row < rows) & (column < columns)
    return tl.load(pointer + (head * rows + row) * columns + column, mask=mask, other=0.0)


@triton.jit
def load_rows(pointer, length, HEADS: tl.constexpr, LENGTH: tl.constexpr):
    """(HEADS, LENGTH), zero beyond `length`."""
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, LENGTH)[None, :]
    return tl.load(pointer + head * length + column, mask=column < length, other=0.0)


@triton.jit
def store_rows(pointer, values, length, HEADS: tl.constexpr, LENGTH: tl.constexpr):
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, LENGTH)[None, :]
    tl.store(pointer + head * length + column, values, mask=column < length)


@triton.jit
def load_vector(pointer, length, LENGTH: tl.constexpr):
    """(LENGTH,), zero beyond `length`."""
    column = tl.arange(0, LENGTH)
    return tl.load(pointer + column, mask=column < length, other=0.0)


@triton.jit
def store_vector(pointer, values, length, LENGTH: tl.constexpr):
    column = tl.arange(0, LENGTH)
    tl.store(pointer + column, values, mask=column < length)


@triton.jit
def stream_layers(pointer, rows, columns, x, stride, HEADS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """W x of each MLP's layer, (HEADS, ROWS), read in chunks; a head's x lies at x + head * stride."""
    head = tl.arange(0, HEADS)[:, None, None]
    row, column = tl.arange(0, ROWS)[None, :, None], tl.arange(0, CHUNK)[None, None, :]
    total = tl.zeros([HEADS, ROWS, CHUNK], dtype=tl.float32)
    for start in range(0, columns, CHUNK):
        inside = start + column < columns
        weight = tl.load(
            pointer + (head * rows + row) * columns + start + column, mask=(row < rows) & inside, other=0.0
        )
        total += weight * tl.load(x + head * stride + start + column, mask=inside, other=0.0)
    return tl.sum(total, axis=2)


@triton.jit
def stream_transposed_layers(
    pointer, rows, columns, x, HEADS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr
):
    """W^T x of each MLP's layer, (HEADS, COLUMNS), read in chunks; a head's x lies at x + head * rows."""
    head = tl.arange(0, HEADS)[:, None, None]
    row, column = tl.arange(0, CHUNK)[None, None, :], tl.arange(0, COLUMNS)[None, :, None]
    total = tl.zeros([HEADS, COLUMNS, CHUNK], dtype=tl.float32)
    for start in range(0, rows, CHUNK):
        inside = start + row < rows
        weight = tl.load(
            pointer + (head * rows + start + row) * columns + column, mask=inside & (column < columns), other=0.0
        )
        total += weight * tl.load(x + head * rows + start + row, mask=inside, other=0.0)
    return tl.sum(total, axis=2)


@triton.jit
def stream_gates(weight, x, hid, HID: tl.constexpr, CHUNK: tl.constexpr):
    """W x of a GRU's gates, reset, update and new, read in chunks; (HID,) each."""
    row, column = tl.arange(0, HID)[:, None], tl.arange(0, CHUNK)[None, :]
    reset = tl.zeros([HID, CHUNK], dtype=tl.float32)
    update, new = reset, reset
    square = hid * hid
    for start in range(0, hid, CHUNK):
        inside = start + column < hid
        place, mask = weight + row * hid + start + column, (row < hid) & inside
        chunk = tl.load(x + start + column, mask=inside, other=0.0)
        reset += tl.load(place, mask=mask, other=0.0) * chunk
        update += tl.load(place + square, mask=mask, other=0.0) * chunk
        new += tl.load(place + 2 * square, mask=mask, other=0.0) * chunk
    return tl.sum(reset, axis=1), tl.sum(update, axis=1), tl.sum(new, axis=1)


@triton.jit
def hidden_half(states, weight, bias, products, count, hid, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """products (count, 3 hid) = states (count, hid) times the transpose of a weight (3 hid, hid), plus a bias."""
    row, column, inner = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :], tl.arange(0, BLOCK)
    for start in range(0, count, ROWS):
        own = start + row
        for left in range(0, 3 * hid, BLOCK):
            total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
            fits = left + column < 3 * hid
            for first in range(0, hid, BLOCK):
                inside = first + inner < hid
                x = tl.load(
                    states + own * hid + first + inner[None, :], mask=(own < count) & inside[None, :], other=0.0
                )
                place = weight + (left + column) * hid + first + inner[:, None]
                w = tl.load(place, mask=fits & inside[:, None], other=0.0)
                total += tl.dot(x, w, input_precision="ieee")
            total += tl.load(bias + left + column, mask=fits, other=0.0)
            tl.store(products + own * 3 * hid + left + column, total, mask=(own < count) & fits)


@triton.jit
def add_hidden_half(grad_gates, weight, grads, count, hid, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """grads (count, hid) += the gradients of gates (count, 4, hid) times a weight (3 hid, hid): of reset, of update and
    of the last."""
    row, column, inner = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :], tl.arange(0, BLOCK)
    for start in range(0, count, ROWS):
        own = start + row
        for left in range(0, hid, BLOCK):
            mask = (own < count) & (left + column < hid)
            place = grads + own * hid + left + column
            total = tl.load(place, mask=mask, other=0.0)
            for first in range(0, 3 * hid, BLOCK):
                which = first + inner
                gate = tl.where(which < 2 * hid, which, which + hid)[None, :]
                x = tl.load(
                    grad_gates + own * 4 * hid + gate, mask=(own < count) & (which < 3 * hid)[None, :], other=0.0
                )
                w = tl.load(
                    weight + which[:, None] * hid + left + column,
                    mask=(which < 3 * hid)[:, None] & (left + column < hid),
                    other=0.0,
                )
                total += tl.dot(x, w, input_precision="ieee")
            tl.store(place, total, mask=mask)


@triton.jit
def stream_transposed_gates(weight, grad_gates, hid, HID: tl.constexpr, CHUNK: tl.constexpr):
    """W^T grad, (HID,), of reset, update and new, read in chunks."""
    row, column = tl.arange(0, CHUNK)[None, :], tl.arange(0, HID)[:, None]
    total = tl.zeros([HID, CHUNK], dtype=tl.float32)
    for start in range(0, hid, CHUNK):
        inside = start + row < hid
        place, mask = weight + (start + row) * hid + column, inside & (column < hid)
        grad = grad_gates + start + row
        total += tl.load(place, mask=mask, other=0.0) * tl.load(grad, mask=inside, other=0.0)
        total += tl.load(place + hid * hid, mask=mask, other=0.0) * tl.load(grad + hid, mask=inside, other=0.0)
        total += tl.load(place + 2 * hid * hid, mask=mask, other=0.0) * tl.load(grad + 2 * hid, mask=inside, other=0.0)
    return tl.sum(total, axis=1)
