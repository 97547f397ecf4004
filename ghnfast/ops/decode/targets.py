"""What is decoded, and where it is written: roles, targets, sources, and the tables of memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ... import _C
from ...errors import ConfigError, PredictError
from ...graph import PREDICTED_DTYPES

# How the operands of a product may be rounded where that is faster, with sums in float32: not at all, to the 10 bits of
# TensorFloat-32, or to bfloat16. On a GPU all products are faster with either. On a CPU with such instructions
# (AVX-512 BF16) all kernels are faster with bfloat16; without, nothing rounds.
FLOAT32, TF32, BFLOAT16 = PRECISIONS = ("float32", "tf32", "bfloat16")

# An array of numpy with one dimension and named fields.
Table: TypeAlias = NDArray[np.void]


class Role(IntEnum):
    """What a predicted parameter is for; it decides how it is normalized."""

    WEIGHT = 0
    POSITION = 1
    NORM_WEIGHT = 2
    BIAS = 3


class TargetKind(IntEnum):
    """Where a target's block comes from, and how it is normalized; the numbers are those of csrc/decode/decode.hpp."""

    PRODUCT = 0  # a product of hidden states and the decoder's last weight, times the scale
    SCALED = 1  # a given block, times the scale
    NORM_WEIGHT = 2  # a given block, 2 sigmoid(x / 2)
    BIAS = 3  # a given block, tanh(x / 5)


def normalization(shape: Sequence[int], role: Role) -> tuple[TargetKind, float]:
    """How the block of a parameter of `shape` is normalized: the kind of a given block, and the scale.

    Weights: times sqrt(beta / fan_in), fan_in = elements per output; beta is 1 for a kernel with one input channel or
    with k_h < k_w (which no ReLU follows), else 2. Position encodings: as they are. Normalization weights:
    2 sigmoid(x / 2), biases: tanh(x / 5).
    """
    if role is Role.WEIGHT:
        kernel = len(shape) == 4
        beta = 1.0 if kernel and (shape[1] == 1 or shape[2] < shape[3]) else 2.0
        return TargetKind.SCALED, math.sqrt(beta / math.prod(shape[1:]))
    if role is Role.POSITION:
        return TargetKind.SCALED, 1.0
    return (TargetKind.NORM_WEIGHT if role is Role.NORM_WEIGHT else TargetKind.BIAS), 1.0


# The rows of tables: what is decoded (`Target`), and where it lies: the address of its first element, its dtype
# (`ELEMENTS`), and the strides of (out, in, cells) in elements. The structs of csrc/decode/decode.hpp say which fields.
TARGET, MEMORY = (_C.dtypes()[name] for name in ("DecodeTarget", "DecodeMemory"))


class Target(NamedTuple):
    """A parameter, seen as (out, in, cells), that repeats a block (rows, columns, cells) in its first two dimensions.

    first: the first row of the hidden states of a product, or the first element of a given block.
    kind: a `TargetKind`.
    scale: what a product, or a given block that is scaled, is multiplied with.
    """

    first: int
    rows: int
    columns: int
    cells: int
    out: int
    in_: int
    kind: int
    scale: float


class Uploaded(NamedTuple):
    """Tables on a device, see `Tables` of kernels/decode_tables.py. memory: the bytes of the table of memory."""

    memory: bytes
    rows: Tensor
    items: list[Tensor]


@dataclass(frozen=True, eq=False)
class DecodeTargets:
    """What is decoded: table (targets,) of `TARGET`."""

    table: Table
    # Tables as the Triton kernels take them, by device; with the last memory alone.
    uploaded: dict[torch.device, Uploaded] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Target]:
        return itertools.starmap(Target, self.table.tolist())


class DecodeSource(NamedTuple):
    """What targets are decoded from.

    A product's block is weight[i, j] . hidden[first + cell] + bias[i, j]; a given block lies in `blocks`, row-major.
    """

    hidden: Tensor  # (hidden rows, width)
    weight: Tensor  # (max rows, max columns, width)
    bias: Tensor  # (max rows, max columns)
    blocks: Tensor  # (elements,)


class NotFinite(PredictError):
    """The values of target number `index` are not finite."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the values of target {index} are not finite")
        self.index = index


# The status of values that are all finite; else it is the number of the first target whose values are not.
FINE = 2**31 - 1

ELEMENTS = {dtype: number for number, dtype in enumerate(PREDICTED_DTYPES)}  # as in csrc/decode/decode.hpp
ELEMENT_BYTES = [dtype.itemsize for dtype in ELEMENTS]


def as_tensor(table: Table) -> Tensor:
    """A table as torch can hold it: (rows, columns) int64, the bits of other fields too."""
    return torch.from_numpy(table.view(np.int64).reshape(len(table), table.itemsize // 8))


def as_table(tensor: Tensor, dtype: np.dtype[np.void]) -> Table:
    """The table that `as_tensor` was given."""
    return tensor.numpy().view(dtype).reshape(len(tensor))


def joined(tables: Sequence[Table]) -> Table:
    """Tables of one dtype behind each other, as `np.concatenate`, which copies every field of every row on its own."""
    if len(tables) == 1:
        return tables[0]
    return np.concatenate([table.view(np.int64) for table in tables]).view(tables[0].dtype)


def memory_table(outputs: Sequence[Tensor], targets: Table) -> Table:
    """(targets,) of `MEMORY`."""
    addresses = [output.data_ptr() for output in outputs]
    memory = contiguous_memory(targets, addresses, [ELEMENTS[output.dtype] for output in outputs])
    for index, output in enumerate(outputs):
        if not output.is_contiguous():
            memory["strides"][index] = strides_of(output)
    return memory


def contiguous_memory(targets: Table, addresses: ArrayLike, elements: ArrayLike) -> Table:
    """`memory_table` where every target is contiguous."""
    memory = np.empty(len(targets), dtype=MEMORY)
    cells, strides = targets["cells"], memory["strides"]
    memory["address"], memory["element"] = addresses, elements
    strides[:, 0], strides[:, 1], strides[:, 2] = targets["in"] * cells, cells, 1
    return memory


def sizes_of(targets: Table) -> NDArray[np.int64]:
    """(targets,): how many elements each target has."""
    sizes: NDArray[np.int64] = targets["out"] * targets["in"] * targets["cells"]
    return sizes


def strides_of(output: Tensor) -> tuple[int, int, int]:
    strides = output.stride()
    if len(strides) == 1:
        return 0, strides[0], 0
    return strides[0], strides[1], (strides[3] if output.shape[3] > 1 else strides[2]) if len(strides) == 4 else 0


def check_sizes(outputs: Sequence[Tensor], table: Table) -> None:
    """What writes to memory writes what the table says."""
    if [output.numel() for output in outputs] != sizes_of(table).tolist():
        raise ConfigError("the sizes of the outputs differ from those of the targets")


def product_runs(table: Table) -> Tensor:
    """(runs, 5): products with blocks of equal size, from hidden states side by side: rows, columns, the first hidden
    row, the one behind the last, and the first element where products lie one behind the other."""
    return torch.from_numpy(_C.product_runs(table))
