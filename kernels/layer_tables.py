"""What the kernel of linear layers works through: the tables of layers and of items, and its sizes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

# What a program computes: so many rows and outputs; and how many inputs of each it reads at once.
ROWS, OUTPUTS, CHUNK = 16, 64, 32

# The rows of the table of layers, as `ghnfast.ops.layers.Layer` has them. Kernels read them as columns of int64.
FIELDS = (
    "from_states", "x", "x_row", "x_in", "gather", "weight", "weight_first", "weight_outer", "weight_out", "weight_in",
    "bias", "bias_first", "bias_outer", "bias_out", "inner", "rows", "outputs", "inputs", "y", "y_row", "y_out",
    "activation", "residual", "norm", "epsilon",
)  # fmt: skip
LAYER = np.dtype([(name, np.float64 if name == "epsilon" else np.int64) for name in FIELDS])
(
    FROM_STATES, X, X_ROW, X_IN, GATHER, WEIGHT, WEIGHT_FIRST, WEIGHT_OUTER, WEIGHT_OUT, WEIGHT_IN,
    BIAS, BIAS_FIRST, BIAS_OUTER, BIAS_OUT, INNER, LAYER_ROWS, LAYER_OUTPUTS, LAYER_INPUTS, Y, Y_ROW, Y_OUT,
    ACTIVATION, RESIDUAL, NORM, EPSILON,
) = (tl.constexpr(number) for number in range(len(FIELDS)))  # fmt: skip
TABLE_WIDTH = tl.constexpr(len(FIELDS))
# The columns of the table of items: which layer, and which tile of its rows and outputs.
ITEM_LAYER, ITEM_ROWS, ITEM_OUTPUTS = (tl.constexpr(number) for number in range(3))
ITEM_WIDTH = tl.constexpr(3)
# Activations, as in ghnfast.ops.layers.Activation.
NONE, RELU, GELU = (tl.constexpr(number) for number in range(3))


class Tables(NamedTuple):
    """Layers, on their device."""

    layers: Tensor  # (layers, columns of `LAYER`) int64
    items: Tensor  # (items, 3) int32
    rows: Tensor  # (entries,) int32: what `gather` finds rows in
    constants: Tensor  # (elements,) float32: the weight -1


def tables(stages: list[NDArray[np.void]]) -> tuple[list[NDArray[np.generic]], list[int]]:
    """The first two arrays of `Tables`, and where the items of each stage begin, and the last ends.

    Args:
        stages: layers of `LAYER` each, which only read what the stages before them have written.
    """
    layers = np.concatenate(stages)
    row_tiles, output_tiles = -(-layers["rows"] // ROWS), -(-layers["outputs"] // OUTPUTS)
    sizes = row_tiles * output_tiles
    owner = np.repeat(np.arange(len(layers)), sizes)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = np.stack([owner, index // output_tiles[owner], index % output_tiles[owner]], axis=1)
    ends = np.cumsum([0, *sizes])[np.cumsum([0, *map(len, stages)])]
    columns = layers.view(np.int64).reshape(len(layers), TABLE_WIDTH.value)
    return [columns, items.astype(np.int32)], ends.tolist()
