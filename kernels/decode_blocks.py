"""What the kernels of decoding share: sizes and scales of targets, their products, normalization."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import sigmoid, tanh
from .decode_tables import BIAS, NORM_WEIGHT, SCALE


@triton.jit
def scale_of(target):
    return tl.load((target + SCALE).to(tl.pointer_type(tl.float64), bitcast=True)).to(tl.float32)


@triton.jit
def size_of(target, column: tl.constexpr, INDEX: tl.constexpr):
    """In 32 bits where `index_type` allows it: divisions of 64 bits take several times as long."""
    return tl.load(target + column).to(INDEX)


@triton.jit
def normalized(x, kind, scale):
    return tl.where(kind == NORM_WEIGHT, 2.0 * sigmoid(x / 2), tl.where(kind == BIAS, tanh(x / 5), x * scale))


@triton.jit
def place_in_product(element, rows, columns, cells):
    """Where the elements of a block (rows, columns, cells) lie in its product, (cells, rows, columns)."""
    in_row = columns * cells
    return (element % cells * rows + element // in_row) * columns + element // cells % columns
