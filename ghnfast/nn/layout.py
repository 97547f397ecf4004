"""How the slots of a batch are decoded: which share a call of a decoder, and where their blocks lie."""

from __future__ import annotations

import functools
import struct
import weakref
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _C
from ..ops.decode import ELEMENT_BYTES, DecodeTargets, Role, TargetKind, contiguous_memory, normalization
from .slots import Form, Slots


class Decoder(IntEnum):
    """Which decoder gives a slot's block; the numbers are those of `Decoder` in csrc/ghn.hpp."""

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


# The columns of a table of slots: the node; the decoder and what it is asked for; the parameter as (out, in, cells) and
# its kind (see `Target`); how many elements in front of it are left alone; and the bits of its scale, a float64.
NODE, DECODER, HEIGHT, WIDTH, COLUMNS, ROWS, CELLS, OUT, IN, KIND, KEPT, SCALE = range(12)
ROW = struct.Struct("11qd")


@functools.lru_cache(maxsize=1 << 16)
def row_of(form: Form, classifier: bool, sizes: Sizes) -> bytes:
    """A slot's row in the table of slots, of node 0."""
    kind, scale = normalization(form.shape, form.role) if sizes.weight_norm else (TargetKind.SCALED, 1.0)
    if len(form.shape) == 1:
        (length,) = form.shape
        longest = sizes.num_classes if classifier else sizes.vector
        vector = Decoder.VECTOR_WEIGHT if form.role is Role.NORM_WEIGHT else Decoder.VECTOR_BIAS
        decoder = Decoder.CLASS_BIAS if classifier else vector
        return ROW.pack(0, decoder, 1, 1, min(length, longest), 1, 1, 1, length, kind, 0, scale)
    out, in_, height, width = (*form.shape, 1, 1)[:4]
    columns, rows, cells, kept = min(in_, sizes.columns), min(out, sizes.rows), height * width, 0
    decoder = Decoder.WHOLE if max(height, width) > sizes.cells else Decoder.KERNEL
    if classifier:
        decoder, rows, in_ = Decoder.CLASS_WEIGHT, min(out, sizes.num_classes), in_ * cells
        height = width = cells = 1
    elif form.role is Role.POSITION and len(form.parameter_shape) in (2, 3):
        # Its patches are rows, and the width of its embeddings the columns.
        decoder, rows, out, cells = Decoder.WHOLE, cells, form.parameter_shape[-2] - form.tokens, 1
        kept = form.tokens * in_
    kind = TargetKind.PRODUCT if decoder == Decoder.KERNEL else kind
    return ROW.pack(0, decoder, height, width, columns, rows, cells, out, in_, kind, kept, scale)


# The tables of slots that are known, by what they depend on.
KNOWN_TABLES: weakref.WeakKeyDictionary[Slots, dict[Sizes, NDArray[np.int64]]] = weakref.WeakKeyDictionary()


def table_of(slots: Slots, sizes: Sizes) -> NDArray[np.int64]:
    """(slots, 12): the rows of a graph's slots."""
    known = KNOWN_TABLES.setdefault(slots, {})
    if sizes not in known:
        rows = [row_of(form, False, sizes) for form in slots.forms]
        for slot in slots.classifier:
            rows[slot] = row_of(slots.forms[slot], True, sizes)
        table = np.frombuffer(bytearray(b"".join(rows)), dtype=np.int64).reshape(-1, 12)
        table[:, NODE] = slots.nodes
        known[sizes] = table
    return known[sizes]


@dataclass(frozen=True, eq=False)
class Layout:
    """The decoding of a batch.

    order: (slots,) int64, the batch's slots in the order of `targets` and `nodes`.
    nodes: (slots,) int64, the node of the batch that each is decoded from.
    calls: runs of slots whose blocks one call of a decoder gives, and where those go.
    hidden_rows, elements: how many rows of hidden states, and elements of blocks, the last step reads.
    """

    order: NDArray[np.int64]
    targets: DecodeTargets
    nodes: NDArray[np.int64]
    calls: list[_C.DecoderCall]
    hidden_rows: int
    elements: int


def lay_out(table: NDArray[np.int64], sizes: Sizes) -> Layout:
    """Sort a batch's slots by what they share, and give each block its place.

    Args:
        table: the rows of all slots (`table_of`), their nodes numbered through the batch.
    """
    order, targets, scales, nodes, calls, rows, elements = _C.lay_out(table, sizes.vector, sizes.num_classes)
    return Layout(order, DecodeTargets(targets, scales), nodes, calls, rows, elements)


def memory_of(table: NDArray[np.int64], found: NDArray[np.int64], layout: Layout) -> NDArray[np.int64]:
    """What `decode_to` writes to, for parameters that are all contiguous.

    Args:
        found: (slots, 3), where each parameter lies (`Plan.memory`).
    """
    addresses = found[:, 0] + table[:, KEPT] * ELEMENT_BYTES[found[:, 1]]
    return contiguous_memory(layout.targets.table, addresses[layout.order], found[layout.order, 1])
