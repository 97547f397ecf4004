"""What the kernels of decoding work through: the tables of targets and of items, and the sizes that these go by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from .. import _C
from .common import power_of_two

# Rows of the decoder's last weight, and their elements, that an item holds in registers at most, for all targets of one
# cell that share them.
HELD_ROWS, HELD = 32, 8192
# How many targets of one cell share an item.
GROUP = 4
# Wider rows are not held: products of one cell are those of matrices, too, whose columns are targets.
HELD_WIDTH = 512
# Elements of a block that one item of a given block stores.
GIVEN_TILE = 128
# The rows of a tile of a kernel's product, (out * in, cells, width), and its cells: the fewest that `tl.dot` takes.
KERNEL_TILE, KERNEL_CELLS = 32, 16
# Elements that an item stores: more than it takes to load what it stores.
STORED = 1 << 16

# The rows of the table of targets: a target; where it is written, the address being the first element where all targets
# share memory; and the first element of a product's gradient. Kernels read them as columns of int64.
ROW = _C.dtypes()["DeviceTarget"]


def column(part: str, field: str | None = None) -> int:
    """The number of a column: that of a part of the row, or of a field of it."""
    start = ROW.fields[part][1]
    return (start + (ROW[part].fields[field][1] if field else 0)) // 8


FIRST, ROWS, COLUMNS, CELLS, OUT, IN, KIND, SCALE = (
    tl.constexpr(column("target", field))
    for field in ("first", "rows", "columns", "cells", "out", "in", "kind", "scale")
)
ADDRESS, ELEMENT = tl.constexpr(column("memory", "address")), tl.constexpr(column("memory", "element"))
STRIDE_OUT, STRIDE_IN, STRIDE_CELL = (tl.constexpr(column("memory", "strides") + dim) for dim in range(3))
GRADIENT = tl.constexpr(column("gradient"))
TABLE_WIDTH = tl.constexpr(ROW.itemsize // 8)
# The columns of the table of items: what it does, the first target, how many, which tile, and which part of the
# repeats, of how many.
ITEM_DOES, ITEM_TARGET, ITEM_COUNT, ITEM_TILE, ITEM_PART, ITEM_PARTS = (tl.constexpr(number) for number in range(6))
ITEM_WIDTH = tl.constexpr(6)
# What an item does.
ONE_CELL, KERNEL, GIVEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# Kinds of targets, as in ghnfast.ops.decode.TargetKind.
PRODUCT, SCALED, NORM_WEIGHT, BIAS = (tl.constexpr(kind) for kind in range(4))
# Dtypes of targets, in the order of ghnfast.graph.PREDICTED_DTYPES.
FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = (tl.constexpr(number) for number in range(4))
# The status of targets that are all finite; else it is the number of the first that is not.
FINE = tl.constexpr(2**31 - 1)


class Blocks(NamedTuple):
    """Block sizes, as the kernels take them."""

    WIDTH: int
    TILE: int  # elements of the block of a product of one cell


def blocks_for(width: int) -> Blocks:
    padded = power_of_two(width)
    return Blocks(padded, min(max(HELD // padded, 1), HELD_ROWS))


class Tables(NamedTuple):
    """What a decoding is made of, on its device."""

    targets: Tensor  # (targets, columns of `ROW`) int64
    items: Tensor  # (items, 6), see `index_type`
    backward_items: Tensor  # the same; none where nothing goes backward
    runs: Tensor | None = None  # of products, see kernels/products.py; where there is a backward pass
    run_items: Tensor | None = None


def tables(targets: NDArray[np.void], memory: NDArray[np.void] | None, width: int) -> list[NDArray[np.generic]]:
    """The arrays of `Tables`, to be copied to the device.

    Args:
        targets: (targets,) of `TARGET`.
        memory: (targets,) of `MEMORY`, or None where they lie one behind the other.
        width: that of hidden states.
    """
    return [target_table(targets, memory), *item_tables(targets, width)]


def target_table(targets: NDArray[np.void], memory: NDArray[np.void] | None) -> NDArray[np.int64]:
    """`Tables.targets`."""
    return _C.device_targets(targets, memory).view(np.int64).reshape(len(targets), TABLE_WIDTH.value)


def item_tables(targets: NDArray[np.void], width: int) -> list[NDArray[np.generic]]:
    """`Tables.items` and `Tables.backward_items`; those that take longest come first."""
    tile, group = (KERNEL_TILE, KERNEL_CELLS) if width > HELD_WIDTH else (blocks_for(width).TILE, GROUP)
    in_64_bits = index_type(targets) is np.int64
    return [*_C.device_items(targets, tile, KERNEL_TILE, GIVEN_TILE, group, STORED, in_64_bits)]


def index_type(targets: NDArray[np.void]) -> type[np.signedinteger]:
    """What the kernels count rows, columns, repeats and elements of blocks in; they take it from the table of items."""
    # What a tile or a run of repeats goes beyond is no more than this.
    return np.int32 if _C.largest_count(targets) < 2**31 - 2**20 else np.int64
