"""What the kernels of decoding share: sizes and scales of targets, rows of the decoder's last layer, normalization."""

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
def load_weight(weight, element, elements, columns, max_columns, width, WIDTH: tl.constexpr):
    """(elements, WIDTH): the rows of the last layer for elements of a block (rows, columns)."""
    k = tl.arange(0, WIDTH)[None, :]
    row = (element // columns) * max_columns + element % columns
    return tl.load(
        weight + row.to(tl.int64)[:, None] * width + k, mask=(element < elements)[:, None] & (k < width), other=0.0
    )


@triton.jit
def load_bias(bias, element, elements, columns, max_columns):
    row = (element // columns) * max_columns + element % columns
    return tl.load(bias + row, mask=element < elements, other=0.0)
