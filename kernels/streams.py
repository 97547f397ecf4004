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
def stream_gates(weight_input, weight_hidden, m, h, hid, HID: tl.constexpr, CHUNK: tl.constexpr):
    """The products of a GRU, read in chunks: of reset and update together, of new apart; (HID,) each."""
    row, column = tl.arange(0, HID)[:, None], tl.arange(0, CHUNK)[None, :]
    reset = tl.zeros([HID, CHUNK], dtype=tl.float32)
    update, new_input, new_hidden = reset, reset, reset
    square = hid * hid
    for start in range(0, hid, CHUNK):
        inside = start + column < hid
        place, mask = row * hid + start + column, (row < hid) & inside
        x, y = tl.load(m + start + column, mask=inside, other=0.0), tl.load(h + start + column, mask=inside, other=0.0)
        reset += tl.load(weight_input + place, mask=mask, other=0.0) * x
        reset += tl.load(weight_hidden + place, mask=mask, other=0.0) * y
        update += tl.load(weight_input + square + place, mask=mask, other=0.0) * x
        update += tl.load(weight_hidden + square + place, mask=mask, other=0.0) * y
        new_input += tl.load(weight_input + 2 * square + place, mask=mask, other=0.0) * x
        new_hidden += tl.load(weight_hidden + 2 * square + place, mask=mask, other=0.0) * y
    return tl.sum(reset, axis=1), tl.sum(update, axis=1), tl.sum(new_input, axis=1), tl.sum(new_hidden, axis=1)


@triton.jit
def stream_transposed_gates(weight, grad_gates, last, hid, HID: tl.constexpr, CHUNK: tl.constexpr):
    """W^T grad, (HID,), of reset, update and the gate number `last` of `grad_gates`, read in chunks."""
    row, column = tl.arange(0, CHUNK)[None, :], tl.arange(0, HID)[:, None]
    total = tl.zeros([HID, CHUNK], dtype=tl.float32)
    for start in range(0, hid, CHUNK):
        inside = start + row < hid
        place, mask = weight + (start + row) * hid + column, inside & (column < hid)
        grad = grad_gates + start + row
        total += tl.load(place, mask=mask, other=0.0) * tl.load(grad, mask=inside, other=0.0)
        total += tl.load(place + hid * hid, mask=mask, other=0.0) * tl.load(grad + hid, mask=inside, other=0.0)
        total += tl.load(place + 2 * hid * hid, mask=mask, other=0.0) * tl.load(
            grad + last * hid, mask=inside, other=0.0
        )
    return tl.sum(total, axis=1)
