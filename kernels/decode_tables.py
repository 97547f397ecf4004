"""What the kernels of decoding work through: the tables of targets and of items, and the sizes that these go by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from .. import _C

# Elements of a block that one item stores, wherever the parameter repeats them, and how many it stores: more than it
# takes to load what it stores.
TILE, STORED = 512, 1 << 13
# Elements of a given block that are looked at, whether they are finite, at once.
GIVEN_TILE = 2048

# The rows of the table of targets: a target; where it is written, the address being the first element where all targets
# share memory; and the first element of its product. Kernels read them as columns of int64.
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
FIRST_PRODUCT = tl.constexpr(column("product"))
TABLE_WIDTH = tl.constexpr(ROW.itemsize // 8)
# The columns of the table of items: the target, which tile of its block, and which part of the repeats, of how many.
ITEM_TARGET, ITEM_TILE, ITEM_PART, ITEM_PARTS = (tl.constexpr(number) for number in range(4))
ITEM_WIDTH = tl.constexpr(4)
# Kinds of targets, as in ghnfast.ops.decode.TargetKind.
PRODUCT, SCALED, NORM_WEIGHT, BIAS = (tl.constexpr(kind) for kind in range(4))
# Dtypes of targets, in the order of ghnfast.graph.PREDICTED_DTYPES.
FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = (tl.constexpr(number) for number in range(4))
# The status of targets that are all finite; else it is the number of the first that is not.
FINE = tl.constexpr(2**31 - 1)


class Tables(NamedTuple):
    """What a decoding is made of, on its device."""

    targets: Tensor  # (targets, columns of `ROW`) int64
    items: Tensor  # (items, 4), see `index_type`
    backward_items: Tensor  # the same
    runs: Tensor  # of products, as of kernels/products.py
    backward_items_of_runs: Tensor
    items_of_runs: Tensor
    owners: Tensor  # (rows of runs,) int32: their targets
    given: Tensor  # (items, 2) int32: targets that are none, and tiles of their blocks
    products: Tensor  # () int64 on the CPU: how many elements they have


def target_table(targets: NDArray[np.void], memory: NDArray[np.void] | None) -> NDArray[np.int64]:
    """`Tables.targets`, to be copied to the device.

    Args:
        targets: (targets,) of `TARGET`.
        memory: (targets,) of `MEMORY`, or None where they lie one behind the other.
    """
    return _C.device_targets(targets, memory).view(np.int64).reshape(len(targets), TABLE_WIDTH.value)


def item_tables(targets: NDArray[np.void]) -> list[NDArray[np.generic]]:
    """`Tables.items` and `Tables.backward_items`; those that take longest come first."""
    return [*_C.device_items(targets, TILE, STORED, index_type(targets) is np.int64)]


def check_tables(targets: NDArray[np.void]) -> list[NDArray[np.int32]]:
    """`Tables.owners` and `Tables.given`."""
    is_product = targets["kind"] == PRODUCT.value
    (products,), (others,) = np.nonzero(is_product), np.nonzero(~is_product)
    sizes = targets["rows"][others] * targets["columns"][others] * targets["cells"][others]
    counts = -(-sizes // GIVEN_TILE)
    tiles = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    given = np.stack([np.repeat(others, counts), tiles], axis=1)
    return [np.repeat(products, targets["cells"][products]).astype(np.int32), given.astype(np.int32)]


def index_type(targets: NDArray[np.void]) -> type[np.signedinteger]:
    """What the kernels count rows, columns, repeats and elements of blocks in; they take it from the table of items."""
    # What a tile or a run of repeats goes beyond is no more than this.
    return np.int32 if _C.largest_count(targets) < 2**31 - 2**20 else np.int64
