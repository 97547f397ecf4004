"""Where the last step of decoding stores: the repeats of a block, in memory of any dtype and with any strides."""

from __future__ import annotations

import triton
import triton.language as tl

from .decode_blocks import size_of
from .decode_tables import (
    ADDRESS,
    CELLS,
    COLUMNS,
    ELEMENT,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    IN,
    OUT,
    ROWS,
    STRIDE_CELL,
    STRIDE_IN,
    STRIDE_OUT,
)


@triton.jit
def share_of(repeats, part, parts):
    """The repeats up to this part of so many; no product that could overflow."""
    return repeats // parts * part + tl.minimum(part, repeats % parts)


@triton.jit
def repeats_of(target, INDEX: tl.constexpr):
    """How often a target repeats its block: (in all, along its second dimension)."""
    along = tl.cdiv(size_of(target, IN, INDEX), size_of(target, COLUMNS, INDEX))
    return tl.cdiv(size_of(target, OUT, INDEX), size_of(target, ROWS, INDEX)) * along, along


@triton.jit
def bits_of(value, kind):
    """Numbers as the bits of float16 or bfloat16: one store is compiled for both."""
    halves = value.to(tl.float16).to(tl.int16, bitcast=True)
    return tl.where(kind == FLOAT16, halves, value.to(tl.bfloat16).to(tl.int16, bitcast=True))


@triton.jit
def store_run(
    pointer, target, value, element, elements, part, parts, REPEATS: tl.constexpr, INDEX: tl.constexpr
):  # fmt: skip
    """`store_repeats` to a pointer of the target's dtype, or to `bits_of`: 16 bytes at once, where they lie so."""
    VECTOR: tl.constexpr = 128 // pointer.dtype.element_ty.primitive_bitwidth
    cells, in_ = size_of(target, CELLS, INDEX), size_of(target, IN, INDEX)
    follow = (tl.load(target + STRIDE_IN) == cells) & ((cells == 1) | (tl.load(target + STRIDE_CELL) == 1))
    whole = (size_of(target, COLUMNS, INDEX) * cells % VECTOR == 0) & (in_ * cells % VECTOR == 0)
    begin = (pointer.to(tl.int64) % 16 == 0) & (tl.load(target + STRIDE_OUT) % VECTOR == 0)
    if follow & whole & begin:
        store_vectors(pointer, target, value, element, elements, part, parts, REPEATS, VECTOR, INDEX)
    else:
        store_vectors(pointer, target, value, element, elements, part, parts, REPEATS, 1, INDEX)


@triton.jit
def store_vectors(
    pointer, target, value, element, elements, part, parts,
    REPEATS: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """`store_run`, where so many neighbours among the elements are neighbours in memory, and aligned."""
    columns, cells = size_of(target, COLUMNS, INDEX), size_of(target, CELLS, INDEX)
    rows, out, in_ = size_of(target, ROWS, INDEX), size_of(target, OUT, INDEX), size_of(target, IN, INDEX)
    stride_out, stride_in = tl.load(target + STRIDE_OUT), tl.load(target + STRIDE_IN)
    i, j, cell = element // (columns * cells), element // cells % columns, element % cells
    within = i * stride_out + j * stride_in + cell * tl.load(target + STRIDE_CELL)
    repeats, along = repeats_of(target, INDEX)
    end = share_of(repeats, part + 1, parts)
    values = tl.broadcast_to(value.to(pointer.dtype.element_ty)[None, :], [REPEATS, value.shape[0]])
    for start in range(share_of(repeats, part, parts), end, REPEATS):
        repeat = start + tl.arange(0, REPEATS)
        row, column = repeat // along * rows, repeat % along * columns
        mask = (repeat < end)[:, None] & (element < elements)[None, :]
        mask &= (row[:, None] + i[None, :] < out) & (column[:, None] + j[None, :] < in_)
        offset = (row * stride_out + column * stride_in)[:, None] + within[None, :]
        if VECTOR > 1:
            place = tl.max_contiguous(tl.multiple_of(pointer + offset, [1, 16]), [1, VECTOR])
            tl.store(place, values, mask=tl.max_constancy(mask, [1, VECTOR]))
        else:
            # Strides are from a table, so Triton knows of no neighbours in memory, and up to 3.7 it has a warp's lanes
            # lie along columns then, whose stores are one by one. As long as the pointer's alignment is not known,
            # either, the hint says no more than which way they are to lie. It has to stand where the sum does.
            offset = tl.max_contiguous(offset, [1, 2])
            tl.store(pointer + offset, values, mask=mask)


@triton.jit
def store_repeats(
    flat, target, value, element, elements, part, parts,
    REPEATS: tl.constexpr, FLAT: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Store elements of a block (rows, columns, cells), numbered row-major, to this part of its repeats."""
    address = tl.load(target + ADDRESS)
    if FLAT:
        store_run(flat + address, target, value, element, elements, part, parts, REPEATS, INDEX)
    else:
        kind = tl.load(target + ELEMENT)
        if kind == FLOAT32:
            store_run(
                address.to(tl.pointer_type(tl.float32)), target, value, element, elements, part, parts, REPEATS, INDEX
            )
        elif kind == FLOAT64:  # rare, and 8 bytes a lane are much: only one form is compiled
            doubles = address.to(tl.pointer_type(tl.float64))
            store_vectors(doubles, target, value, element, elements, part, parts, REPEATS, 1, INDEX)
        else:
            halves = address.to(tl.pointer_type(tl.int16))
            store_run(halves, target, bits_of(value, kind), element, elements, part, parts, REPEATS, INDEX)
