"""How the slots of a batch are decoded: which share a call of a decoder, and where their blocks lie."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _C
from ..graph import GraphBatch
from ..ops.decode import ELEMENT_BYTES, DecodeTargets, Role, Table, TargetKind, contiguous_memory, joined, normalization
from .slots import Chosen, Form, Slots, chosen


class DecoderKind(IntEnum):
    """Which decoder gives a slot's block; the numbers are those of csrc/decode/layout.hpp."""

    KERNEL = 0  # a product that the last step computes
    VECTOR_WEIGHT = 1  # the vector decoder's row 0: normalization weights
    VECTOR_BIAS = 2  # its row 1: biases; they share calls
    CLASS_WEIGHT = 3
    CLASS_BIAS = 4
    WHOLE = 5  # a kernel that is computed before the last step: interpolated, or flattened to patches


class Request(Hashable, Protocol):
    """What slots ask their decoders for; equal ones ask for the same.

    vector: the length of a decoded vector. num_classes: the most classes.
    """

    @property
    def vector(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    def row(self, form: Form, classifier: bool) -> bytes:
        """The row of a slot (`row_of_slot`) in the table of slots, of the classification layer or another."""
        ...


class Sizes(NamedTuple):
    """What slots ask of decoders with blocks of a largest size, which larger parameters repeat.

    products: whether kernels are products that the last step computes; else the decoder gives their blocks.
    """

    rows: int
    columns: int
    cells: int  # per side
    num_classes: int
    weight_norm: bool
    products: bool = True

    @property
    def vector(self) -> int:
        return max(self.rows, self.columns)

    def row(self, form: Form, classifier: bool) -> bytes:
        return row_of(form, classifier, self)


# The rows of tables of slots: the node; the decoder and what it is asked for; the parameter as (out, in, cells), its
# kind and scale (see `Target`); how many elements in front of it are left alone. csrc/decode/layout.hpp has the struct.
SLOT = _C.dtypes()["Slot"]


def row_of_slot(
    decoder: DecoderKind,
    *,
    height: int = 1,
    width: int = 1,
    columns: int,
    rows: int = 1,
    cells: int = 1,
    out: int = 1,
    in_: int,
    kind: TargetKind,
    kept: int = 0,
    scale: float,
) -> bytes:
    """A `SLOT` of node 0."""
    row = np.zeros((), SLOT)
    row["decoder"], row["height"], row["width"] = decoder, height, width
    row["columns"], row["rows"], row["cells"] = columns, rows, cells
    row["out"], row["in"], row["kind"] = out, in_, kind
    row["kept"], row["scale"] = kept, scale
    return row.tobytes()


@functools.lru_cache(maxsize=1 << 16)
def row_of(form: Form, classifier: bool, sizes: Sizes) -> bytes:
    """A slot's row in the table of slots, of node 0."""
    kind, scale = normalization(form.shape, form.role) if sizes.weight_norm else (TargetKind.SCALED, 1.0)
    if len(form.shape) == 1:
        (length,) = form.shape
        longest = sizes.num_classes if classifier else sizes.vector
        vector = DecoderKind.VECTOR_WEIGHT if form.role is Role.NORM_WEIGHT else DecoderKind.VECTOR_BIAS
        decoder = DecoderKind.CLASS_BIAS if classifier else vector
        return row_of_slot(decoder, columns=min(length, longest), in_=length, kind=kind, scale=scale)
    out, in_, height, width = (*form.shape, 1, 1)[:4]
    columns, rows, cells, kept = min(in_, sizes.columns), min(out, sizes.rows), height * width, 0
    decoder = DecoderKind.KERNEL if sizes.products and max(height, width) <= sizes.cells else DecoderKind.WHOLE
    if classifier:
        decoder, rows, in_ = DecoderKind.CLASS_WEIGHT, min(out, sizes.num_classes), in_ * cells
        height = width = cells = 1
    elif form.role is Role.POSITION and len(form.parameter_shape) in (2, 3):
        # Its patches are rows, and the width of its embeddings the columns.
        decoder, rows, out, cells = DecoderKind.WHOLE, cells, form.parameter_shape[-2] - form.tokens, 1
        kept = form.tokens * in_
    kind = TargetKind.PRODUCT if decoder == DecoderKind.KERNEL else kind
    return row_of_slot(
        decoder, height=height, width=width, columns=columns, rows=rows, cells=cells, out=out, in_=in_, kind=kind,
        kept=kept, scale=scale,
    )  # fmt: skip


def table_of(slots: Slots, request: Request) -> Table:
    """(slots,) of `SLOT`: the rows of a graph's slots."""
    table = slots.tables.get(request)
    if table is None:
        rows = [request.row(form, False) for form in slots.forms]
        for slot in slots.classifier:
            rows[slot] = request.row(slots.forms[slot], True)
        table = np.frombuffer(bytearray(b"".join(rows)), dtype=SLOT)
        table["node"] = slots.nodes
        slots.tables[request] = table
    return table


def table_of_batch(
    batch: GraphBatch, slots: Sequence[Slots], rows: Sequence[NDArray[np.int64]], request: Request
) -> Table:
    """The rows that are wanted of each graph's slots, as `lay_out` takes them."""
    # Numpy takes rows whole, but indexes and copies them field by field, which takes ten times as long.
    tables = [table_of(own, request).take(wanted) for own, wanted in zip(slots, rows, strict=True)]
    for table, offset in zip(tables, batch.offsets, strict=False):
        table["node"] += offset
    return joined(tables)


@dataclass(frozen=True, eq=False)
class Layout:
    """The decoding of a batch.

    order: (slots,) int64, the batch's slots in the order of `targets` and `nodes`.
    nodes: (slots,) int64, the node of the batch that each is decoded from.
    calls: runs of slots whose blocks one call of a decoder gives, and where those go.
    hidden_rows, elements: how many rows of hidden states, and elements of blocks, the last step reads.
    known: what others have made of it, each under a key of its own.
    """

    order: NDArray[np.int64]
    targets: DecodeTargets
    nodes: NDArray[np.int64]
    calls: list[_C.DecoderCall]
    hidden_rows: int
    elements: int
    known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def empty_memory(self) -> Table:
        """(targets,) of `MEMORY`, for parameters that are contiguous: all but where they lie."""
        return contiguous_memory(self.targets.table, 0, 0)


class SlotLayout(NamedTuple):
    """The decoding of rows of slots.

    order: which of the rows is decoded, in the order of the layout; `choose` takes those. names, forms: of each.
    kept: how many of its elements, in front, are left alone; None where that is none of any.
    """

    layout: Layout
    order: NDArray[np.int64]
    choose: Chosen
    names: list[str]
    forms: list[Form]
    kept: NDArray[np.int64] | None


class Memory(NamedTuple):
    """Where parameters lie that are all contiguous, on one device. table: in the order of a layout's targets."""

    table: Table
    device: torch.device


def lay_out_slots(
    batch: GraphBatch,
    slots: Sequence[Slots],
    rows: Sequence[NDArray[np.int64]],
    decoded: NDArray[np.int64],
    request: Request,
) -> SlotLayout:
    """The decoding of these rows of each graph's slots; of a graph alone it is kept with its slots.

    Args:
        decoded: which of all rows there is to decode.
    """
    if len(slots) > 1:
        return make_slot_layout(batch, slots, rows, decoded, request)
    key = request, rows[0].tobytes(), decoded.tobytes()
    known: SlotLayout | None = slots[0].layouts.get(key)
    if known is None:
        known = slots[0].layouts[key] = make_slot_layout(batch, slots, rows, decoded, request)
    return known


def make_slot_layout(
    batch: GraphBatch,
    slots: Sequence[Slots],
    rows: Sequence[NDArray[np.int64]],
    decoded: NDArray[np.int64],
    request: Request,
) -> SlotLayout:
    table = table_of_batch(batch, slots, rows, request).take(decoded)
    layout = lay_out(table, request)
    order = decoded[layout.order]
    choose = chosen(order.tolist())
    # No pair for each of thousands of rows: so many new containers would set off the collector of garbage.
    wanted = [(own, chosen(each.tolist())) for own, each in zip(slots, rows, strict=True)]
    names = list(choose([name for own, choose_own in wanted for name in choose_own(own.names)]))
    forms = list(choose([form for own, choose_own in wanted for form in choose_own(own.forms)]))
    kept = table["kept"][layout.order]
    return SlotLayout(layout, order, choose, names, forms, kept if kept.any() else None)


def lay_out(table: Table, request: Request) -> Layout:
    """Sort a batch's slots by what they share, and give each block its place.

    Args:
        table: the rows of all slots (`table_of_batch`), their nodes numbered through the batch.
    """
    order, targets, nodes, calls, rows, elements = _C.lay_out(table, request.vector, request.num_classes)
    return Layout(order, DecodeTargets(targets), nodes, calls, rows, elements)


def memory_of(found: Table, own: SlotLayout) -> Memory | None:
    """What the last step writes to, or None where parameters are not just contiguous memory of one device.

    Args:
        found: where each parameter lies (`Plan.memory`).
    """
    there = _C.memory_of(found, own.order, own.layout.empty_memory, own.kept, ELEMENT_BYTES)
    if there is None:
        return None
    places, number = there
    return Memory(places, torch.device("cpu") if number < 0 else torch.device("cuda", number))
