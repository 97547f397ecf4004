"""A GHN's forward pass as stages of linear layers (`ghnfast.ops.layers`): what is known of it before its weights are.

It depends on the batch, the layout and the settings alone, and is kept with the layout.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .. import _C
from ..ops.layers import Activation, Layer, Stages
from ..prediction.layout import DecoderKind, Layout

NARROW = 64  # the widest states whose layers of attention are a launch each, besides attention
PLACE = 4  # places in scratch are multiples of so many elements: 16 bytes


class Widths(NamedTuple):
    """The sizes of a GHN.

    units: of the vector decoder's hidden layer. epsilon: of the final layer norm. layers: of attention, the epsilons of
    their two layer norms.
    """

    hid: int
    rows: int
    columns: int
    size: int
    units: int
    vector: int
    classes: int
    centred: bool
    norm: bool
    epsilon: float
    layers: tuple[tuple[float, float], ...] = ()

    def cell(self, height: int, width: int, index: int) -> int:
        """The cell of the decoder that a kernel (height, width) has as its own number `index`."""
        top, left = ((self.size // 2 - length // 2 if self.centred else 0) for length in (height, width))
        return (top + index // width) * self.size + left + index % width


class Places(NamedTuple):
    """Where in scratch things begin, and what the steps of a forward pass are.

    initial: initial states. qkv: what attention reads. hidden, blocks: what the last
    step reads. of_states: how many stages the hypernet has.
    """

    initial: int
    qkv: int
    hidden: int
    blocks: int
    of_states: int


@dataclass
class Writer:
    """Puts layers into stages, and what they write into scratch.

    numbers: of weights, by their names. of_states: what the layers that read final states have in common.
    """

    widths: Widths
    numbers: dict[str, int]
    elements: int = 0
    stages: list[list[Layer]] = field(default_factory=list)
    constants: list[NDArray[np.float32]] = field(default_factory=list)

    def place(self, elements: int) -> int:
        """So many elements of scratch."""
        start = self.elements
        self.elements += -(-elements // PLACE) * PLACE
        return start

    def add(self, stage: int, name: str, layer: Layer, bias: bool = True) -> None:
        """A layer with the weights of this name."""
        number = self.numbers[name]
        self.append(stage, layer._replace(weight=number, bias=number + 1 if bias else -1))

    def append(self, stage: int, layer: Layer) -> None:
        while len(self.stages) <= stage:
            self.stages.append([])
        self.stages[stage].append(layer)

    def constant(self, values: NDArray[np.float32]) -> int:
        """The first element of these in the constants."""
        start = sum(len(known) for known in self.constants)
        self.constants.append(values.ravel())
        return start


def layer(x: int, rows: int, outputs: int, inputs: int, y: int, **options: object) -> Layer:
    """A layer whose weights `Writer.add` names."""
    return Layer(x=x, weight=-1, bias=-1, rows=rows, outputs=outputs, inputs=inputs, y=y, **options)  # type: ignore[arg-type]


RELU = Activation.RELU


def write_node_mlp(writer: Writer, nodes: int, states: int) -> int:
    """The hypernet "mlp", over states in scratch: where the final ones are."""
    hid = writer.widths.hid
    units, final = writer.place(nodes * hid), writer.place(nodes * hid)
    writer.add(0, "mlp.0", layer(states, nodes, hid, hid, units, activation=RELU))
    writer.add(1, "mlp.1", layer(units, nodes, hid, hid, final, activation=RELU))
    return final


def write_graphormer(writer: Writer, nodes: int, states: int, units: int, qkv: int) -> None:
    """Layers of attention over states in scratch, in place, four stages each: queries, keys and values; and, of the
    result of attention, which are the states that stages are given, the rest of the layer."""
    hid = writer.widths.hid
    for number, epsilons in enumerate(writer.widths.layers):
        stage = 4 * number
        norms = [writer.numbers[f"{number}.{name}"] for name in ("ln1", "ln2")]
        first = layer(states, nodes, 3 * hid, hid, qkv, norm=norms[0], epsilon=epsilons[0])
        writer.add(stage, f"{number}.to_qkv", first, bias=False)
        result = layer(0, nodes, hid, hid, states, from_states=True, residual=states)
        writer.add(stage + 1, f"{number}.to_out", result)
        gelu = {"norm": norms[1], "epsilon": epsilons[1], "activation": Activation.GELU}
        inner = layer(states, nodes, 4 * hid, hid, units, **gelu)
        writer.add(stage + 2, f"{number}.ff.0", inner)
        writer.add(stage + 3, f"{number}.ff.1", layer(units, nodes, hid, 4 * hid, states, residual=states))


class Kernels(NamedTuple):
    """Kernels of a call of the decoder, cell by cell. row: their first row of hidden states."""

    call: _C.DecoderCall
    height: int
    width: int
    row: int

    @property
    def cells(self) -> int:
        return self.height * self.width


def kernels_of(layout: Layout, widths: Widths) -> tuple[list[Kernels], int]:
    """What has hidden states, and how many rows of them: those of products come first, as they are in the layout."""
    found: list[Kernels] = []
    rows = layout.hidden_rows
    for call in layout.calls:
        if call.decoder == DecoderKind.KERNEL:
            found.append(Kernels(call, call.height, call.width, call.first))
        elif call.decoder in (DecoderKind.CLASS_WEIGHT, DecoderKind.WHOLE):
            found.append(Kernels(call, min(call.height, widths.size), min(call.width, widths.size), rows))
            rows += call.count * found[-1].cells
    return found, rows


def write_decoders(writer: Writer, layout: Layout, states: int | None, stage: int) -> tuple[int, int]:
    """The decoders, from final states in scratch, or of their own where `states` is None: in up to four stages.

    Returns:
        Where hidden states of products are, and blocks.
    """
    widths = writer.widths
    hid, channels, width = widths.hid, 4 * widths.hid, 8 * widths.hid
    norm = writer.numbers["norm"] if widths.norm else -1
    reading = {"from_states": states is None, "x_row": hid, "norm": norm, "epsilon": widths.epsilon}
    start = 0 if states is None else states
    kernels, rows = kernels_of(layout, widths)
    cells, hidden, blocks = writer.place(rows * channels), writer.place(rows * width), writer.place(layout.elements)
    plane = widths.size**2
    for own in kernels:
        for cell in range(own.cells):
            at = widths.cell(own.height, own.width, cell)
            written = layer(
                start, own.call.count, channels, hid, cells + (own.row + cell) * channels, y_row=own.cells * channels,
                gather=own.call.begin, weight_first=at * hid, weight_out=plane * hid, bias_first=at, bias_out=plane,
                activation=RELU, **reading,
            )  # fmt: skip
            writer.add(stage, "cells", written)
    if rows:
        writer.add(stage + 1, "hidden", layer(cells, rows, width, channels, hidden, activation=RELU))
    for own in kernels:
        if own.call.decoder == DecoderKind.CLASS_WEIGHT:
            write_class_weights(writer, own, hidden, blocks, stage)
        elif own.call.decoder == DecoderKind.WHOLE:
            write_whole(writer, own, hidden, blocks, stage)
    for call in layout.calls:
        if call.decoder in (DecoderKind.VECTOR_WEIGHT, DecoderKind.VECTOR_BIAS, DecoderKind.CLASS_BIAS):
            units = writer.place(call.count * widths.units)
            first = layer(start, call.count, widths.units, hid, units, gather=call.begin, activation=RELU, **reading)
            writer.add(stage, "vectors.0", first)
            write_vectors(writer, call, units, blocks + call.first, stage)
    return hidden, blocks


def write_vectors(writer: Writer, call: _C.DecoderCall, units: int, block: int, stage: int) -> None:
    vector, inputs = writer.widths.vector, writer.widths.units
    if call.decoder != DecoderKind.CLASS_BIAS:
        writer.add(stage + 1, "vectors.1", layer(units, call.count, 2 * vector, inputs, block))
        return
    # From the positive part of the vectors for biases, which are the second half of each.
    half = writer.place(call.count * vector)
    of_half = layer(
        units, call.count, vector, inputs, half, weight_first=vector * inputs, bias_first=vector, activation=RELU
    )
    writer.add(stage + 1, "vectors.1", of_half)
    writer.add(stage + 2, "class_bias", layer(half, call.count, writer.widths.classes, vector, block))


def products(writer: Writer, own: Kernels, rows: int, hidden: int, y: int, activation: Activation) -> Layer:
    """The last layer for all cells of kernels: (count * cells, rows * columns)."""
    width, columns = 8 * writer.widths.hid, own.call.columns
    return layer(
        hidden + own.row * width, own.call.count * own.cells, rows * columns, width, y, inner=columns, weight_out=width,
        weight_outer=writer.widths.columns * width, bias_outer=writer.widths.columns, activation=activation,
    )  # fmt: skip


def write_class_weights(writer: Writer, own: Kernels, hidden: int, blocks: int, stage: int) -> None:
    rows, classes, columns = writer.widths.rows, writer.widths.classes, own.call.columns
    inner = writer.place(own.call.count * rows * columns)
    writer.add(stage + 2, "last", products(writer, own, rows, hidden, inner, RELU))
    for index in range(own.call.count):
        read, block = inner + index * rows * columns, blocks + own.call.first + index * classes * columns
        of_slot = layer(read, columns, classes, rows, block, x_row=1, x_in=columns, y_row=1, y_out=columns)
        writer.add(stage + 3, "classes", of_slot)


def write_whole(writer: Writer, own: Kernels, hidden: int, blocks: int, stage: int) -> None:
    """Kernels that are no products of the last step: position encodings, which are (patches, columns), and kernels
    (rows, columns, cells) that are interpolated.
    """
    call, position = own.call, own.call.cells == 1
    rows = 1 if position else call.rows
    kernel, outputs, block = (call.height, call.width), rows * call.columns, blocks + call.first
    if kernel == (own.height, own.width):
        assert position  # else it would be a product of the last step
        writer.add(stage + 2, "last", products(writer, own, rows, hidden, block, Activation.NONE))
        return
    inner, cells = writer.place(call.count * own.cells * outputs), call.height * call.width
    writer.add(stage + 2, "last", products(writer, own, rows, hidden, inner, Activation.NONE))
    first = writer.constant(interpolation((own.height, own.width), kernel))
    for index in range(call.count):
        strides = (1, call.columns) if position else (cells, 1)
        of_slot = layer(
            inner + index * own.cells * outputs, outputs, cells, own.cells, block + index * outputs * cells, x_row=1,
            x_in=outputs, weight_first=first, y_row=strides[0], y_out=strides[1],
        )  # fmt: skip
        writer.append(stage + 3, of_slot)


@functools.lru_cache(maxsize=64)
def interpolation(cells: tuple[int, int], kernel: tuple[int, int]) -> NDArray[np.float32]:
    """(cells of the kernel, cells): how much each counts in bilinear interpolation."""
    count = cells[0] * cells[1]
    units = torch.eye(count).view(1, count, *cells)
    found: NDArray[np.float32] = (
        F.interpolate(units, kernel, mode="bilinear", align_corners=False).view(count, -1).numpy().T
    )
    return np.ascontiguousarray(found)


def is_narrow(widths: Widths) -> bool:
    """Whether a layer of attention is a launch, besides attention, in which each program reads all of its weights."""
    return widths.hid <= NARROW


def write_stages(
    layout: Layout, nodes: int, widths: Widths, numbers: dict[str, int], hypernet: str
) -> tuple[Stages, Places]:
    """The stages of a forward pass.

    Args:
        hypernet: "sweep", whose final states are given to stages; "mlp"; or "attention", which is stages where it is
            not narrow.
    """
    writer = Writer(widths, numbers)
    initial = writer.place(nodes * widths.hid)
    qkv = 0
    states: int | None = initial
    if hypernet == "sweep":
        states = None
    elif hypernet == "mlp":
        states = write_node_mlp(writer, nodes, initial)
    else:
        qkv = writer.place(3 * nodes * widths.hid)
        if not is_narrow(widths):
            write_graphormer(writer, nodes, initial, writer.place(4 * nodes * widths.hid), qkv)
    of_states = len(writer.stages)
    hidden, blocks = write_decoders(writer, layout, states, of_states)
    constants = np.concatenate(writer.constants) if writer.constants else np.zeros(1, np.float32)
    stages = Stages(writer.stages, layout.nodes.astype(np.int32), constants, writer.elements)
    return stages, Places(initial, qkv, hidden, blocks, of_states)


def indices_of(columns: Sequence[NDArray[np.integer]]) -> NDArray[np.int32]:
    """Rows of tables, (nodes, columns)."""
    return np.ascontiguousarray(np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1).astype(np.int32))
