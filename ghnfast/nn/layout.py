"""How the slots of a batch are decoded: which share a call of a decoder, and where their blocks lie."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..graph import ArchGraph
from ..ops.decode import DecodeTargets, Role, TargetKind, normalization
from .slots import slots_of, tokens_of


class Decoder(IntEnum):
    """Which decoder gives a slot's block."""

    KERNEL = 0  # a product that the last step computes
    VECTOR_WEIGHT = 1  # the vector decoder's row 0: normalization weights
    VECTOR_BIAS = 2  # its row 1: biases; they share calls
    CLASS_WEIGHT = 3
    CLASS_BIAS = 4
    WHOLE = 5  # a kernel that is computed before the last step: interpolated, or flattened to patches


class Sizes(NamedTuple):
    """What a GHN's configuration says about decoding."""

    rows: int
    columns: int
    cells: int  # per side
    num_classes: int
    weight_norm: bool

    @property
    def vector(self) -> int:
        return max(self.rows, self.columns)


# The columns of a table of slots.
NODE, DECODER, HEIGHT, WIDTH, COLUMNS, ROWS, CELLS, OUT, IN, KIND = range(10)
# What to add to each row, times the number of nodes before a graph, to number its nodes through a batch.
NODE_COLUMN = np.eye(10, dtype=np.int64)[NODE]
# Slots are sorted by these, so that neighbours have most in common.
SORTED_BY = (DECODER, HEIGHT, WIDTH, COLUMNS, ROWS, CELLS)
# What slots that are decoded in one call have in common.
SHARED = {
    Decoder.KERNEL: (DECODER, HEIGHT, WIDTH),
    Decoder.VECTOR_WEIGHT: (DECODER,),
    Decoder.VECTOR_BIAS: (DECODER,),
    Decoder.CLASS_WEIGHT: (DECODER, COLUMNS),
    Decoder.CLASS_BIAS: (DECODER,),
    Decoder.WHOLE: SORTED_BY,
}
# (decoders, columns): 1 for what is shared, else 0.
IS_SHARED = np.array([np.isin(range(10), SHARED[decoder]) for decoder in Decoder], dtype=np.int64)


@functools.lru_cache(maxsize=1 << 16)
def row_of(
    role: Role, shape: tuple[int, ...], parameter_shape: tuple[int, ...], classifier: bool, sizes: Sizes
) -> tuple[tuple[int, ...], float]:
    """A slot's row in the table of slots, without its node, and its scale. Networks repeat few shapes."""
    kind, scale = normalization(shape, role) if sizes.weight_norm else (TargetKind.SCALED, 1.0)
    if len(shape) == 1:
        longest = sizes.num_classes if classifier else sizes.vector
        vector = Decoder.VECTOR_WEIGHT if role is Role.NORM_WEIGHT else Decoder.VECTOR_BIAS
        decoder = Decoder.CLASS_BIAS if classifier else vector
        return (decoder, 1, 1, min(shape[0], longest), 1, 1, 1, shape[0], kind), scale
    out, in_, height, width = (*shape, 1, 1)[:4]
    columns, rows, cells = min(in_, sizes.columns), min(out, sizes.rows), height * width
    decoder = Decoder.WHOLE if max(height, width) > sizes.cells else Decoder.KERNEL
    if classifier:
        decoder, rows, in_ = Decoder.CLASS_WEIGHT, min(out, sizes.num_classes), in_ * cells
        height = width = cells = 1
    elif role is Role.POSITION and len(parameter_shape) != 4:
        # Its patches are rows, and the width of its embeddings the columns.
        decoder, rows, out, cells = Decoder.WHOLE, cells, parameter_shape[-2] - tokens_of(parameter_shape, shape), 1
    kind = TargetKind.PRODUCT if decoder == Decoder.KERNEL else kind
    return (decoder, height, width, columns, rows, cells, out, in_, kind), scale


# The table of each graph's slots and their scales, by what they depend on.
KNOWN_TABLES: weakref.WeakKeyDictionary[ArchGraph, dict[Sizes, tuple[NDArray[np.int64], NDArray[np.float64]]]]
KNOWN_TABLES = weakref.WeakKeyDictionary()


def table_of(graph: ArchGraph, sizes: Sizes) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(slots, 10) and (slots,): the rows and scales of a graph's slots."""
    known = KNOWN_TABLES.setdefault(graph, {})
    if sizes not in known:
        slots, _ = slots_of(graph)
        found = [row_of(role, shape, own, last, sizes) for _, _, role, shape, own, last, _ in slots]
        table = np.empty((len(slots), 10), dtype=np.int64)
        table[:, NODE] = [slot.node for slot in slots]
        table[:, 1:] = np.array([row for row, _ in found]).reshape(-1, 9)
        known[sizes] = table, np.array([scale for _, scale in found], dtype=np.float64)
    return known[sizes]


@dataclass(frozen=True, eq=False)
class Call:
    """Slots whose blocks one call of a decoder gives: nodes (n,) of the batch, and what they share.

    What they do not share is that of the first.
    """

    decoder: Decoder
    nodes: NDArray[np.int64]
    height: int
    width: int
    columns: int
    rows: int
    cells: int


@dataclass(frozen=True, eq=False)
class Layout:
    """The decoding of a batch.

    order: (slots,) int64, the batch's slots in the order of `targets` and of `calls`.
    """

    order: NDArray[np.int64]
    targets: DecodeTargets
    calls: list[Call]


def lay_out(table: NDArray[np.int64], scales: NDArray[np.float64], sizes: Sizes) -> Layout:
    """Sort a batch's slots by what they share, and give each block its place.

    Args:
        table, scales: the rows and scales of all slots (`table_of`), their nodes numbered through the batch.
    """
    order = np.lexsort(tuple(table[:, column] for column in reversed(SORTED_BY)))
    table = table[order]
    shared = table * IS_SHARED[table[:, DECODER]]
    shared[table[:, DECODER] == Decoder.VECTOR_BIAS, DECODER] = Decoder.VECTOR_WEIGHT
    changes = np.flatnonzero(np.any(np.diff(shared, axis=0) != 0, axis=1)) + 1
    calls = []
    first = np.empty(len(table), dtype=np.int64)
    hidden_rows = elements = 0
    for begin, end in zip([0, *changes.tolist()], [*changes.tolist(), len(table)], strict=True):
        _, decoder, *common = table[begin, : CELLS + 1].tolist()
        calls.append(Call(Decoder(decoder), table[begin:end, NODE], *common))
        at = np.arange(end - begin)
        if decoder == Decoder.KERNEL:
            first[begin:end] = hidden_rows + at * calls[-1].cells
            hidden_rows += len(at) * calls[-1].cells
            continue
        size = block_size(calls[-1], sizes)
        first[begin:end] = elements + at * size
        elements += len(at) * size
    first[table[:, DECODER] == Decoder.VECTOR_BIAS] += sizes.vector
    targets = np.column_stack((first, table[:, [ROWS, COLUMNS, CELLS, OUT, IN, KIND]]))
    return Layout(order, DecodeTargets(targets, scales[order]), calls)


def block_size(call: Call, sizes: Sizes) -> int:
    """How many elements a call gives for each slot."""
    if call.decoder in (Decoder.VECTOR_WEIGHT, Decoder.VECTOR_BIAS):
        return 2 * sizes.vector
    if call.decoder == Decoder.CLASS_WEIGHT:
        return sizes.num_classes * call.columns
    if call.decoder == Decoder.CLASS_BIAS:
        return sizes.num_classes
    return call.rows * call.columns * call.cells
