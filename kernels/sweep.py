"""The gated sweep of a batch of graphs in one launch, and its backward in another.

A program owns a graph: it walks the graph's nodes in topological order, then in reverse, and no other program reads
what it writes, so that no barrier spans the grid. Node states, messages and weights are float32. The GRU's hidden half
needs no message: it is one product of all nodes before each sweep, and the gradients of states through it are one after
each backward one. All other arithmetic of a node happens between the loads of its neighbours' messages and the store of
its state, and weights stay in registers for all nodes where they fit. What a node's loads need of addresses, and the
closeness of its first senders, is loaded while the node before it is on. Every sum has one order: results are the same
in every run.

`ghnfast.ops.sweep.naive_gated_sweep` defines what is computed. Source: Graph HyperNetworks (Zhang et al., ICLR 2019),
equations 3 and 4; Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bands import load_band, load_closeness, load_known, weights_of_messages
from .common import power_of_two, relu, sigmoid, tanh
from .driver import on_device
from .launching import launch
from .streams import (
    add_hidden_half,
    hidden_half,
    load_layers,
    load_matrix,
    load_rows,
    load_transposed,
    load_transposed_layers,
    load_vector,
    store_rows,
    store_vector,
    stream_gates,
    stream_layers,
    stream_transposed_gates,
    stream_transposed_layers,
)
from .sweep_gradients import gru_gradients, mlp_gradients

# Up to this width, the weights of a graph's program stay in registers: 5 hid^2 of them with virtual edges.
RESIDENT_HID = 32
# Elements of a weight (hid, columns) that are read at once where they do not.
CHUNK = 1024
# Elements of messages (senders, MLPs, hid) that are gathered at once.
GATHERED = 4096
# Nodes and columns of the products that are made before a sweep, and after its backward pass.
ROWS, BLOCK = 32, 32
# Eight warps have registers for all this without spilling (tests/kernels/test_compile.py); four have not. The loops
# have no stages: a node reads what the one before it has written.
OPTIONS = {"num_warps": 8, "num_stages": 1, "maxnreg": 255}


class Blocks(NamedTuple):
    """Block sizes, as the kernels take them."""

    HEADS: int  # MLPs: for edges, and for virtual edges
    HID: int
    WIDTH: int  # of the MLPs' hidden layers
    SENDERS: int  # messages that are gathered at once
    RESIDENT: bool
    CHUNK: int
    ROWS: int  # nodes, whose states are multiplied at once
    BLOCK: int  # columns of their products, and of what is summed over


def blocks_for(heads: int, hid: int, width: int) -> Blocks:
    padded = power_of_two(hid)
    senders = max(GATHERED // (heads * padded), 1)
    resident, chunk = hid <= RESIDENT_HID, max(CHUNK // padded, 1)
    return Blocks(heads, padded, power_of_two(width), senders, resident, chunk, ROWS, min(max(padded, 16), BLOCK))


# Kernels --------------------------------------------------------------------------------------------------------------

# One kernel for batches of all sizes; and widths that are known to be multiples of 16 would have numbers moved four at
# once, between threads that have them one by one: a barrier more for each, in every step of a chain.


@triton.jit(do_not_specialize=["nodes", "hid", "width"])
def sweep_kernel(
    states,  # (nodes, hid)
    middle,  # (nodes, hid), written: the states between the two sweeps
    final,  # (nodes, hid), written
    messages,  # (2, nodes, HEADS, hid), written: what each node sends, in each sweep
    gates,  # (2, nodes, 5, hid), written if KEEP: received, reset, update, new, and the new gate's hidden part
    hidden,  # (2, nodes, HEADS, width), written if KEEP: the MLPs' hidden layers
    products,  # (nodes, 3, hid), written: the GRU's hidden half, in the sweep that is on
    weight_1,  # (HEADS, width, hid)
    bias_1,  # (HEADS, width)
    weight_2,  # (HEADS, hid, width)
    bias_2,  # (HEADS, hid)
    weight_input,  # (3, hid, hid)
    weight_hidden,  # (3, hid, hid)
    bias_input,  # (3, hid)
    bias_hidden,  # (3, hid)
    graph_offsets,  # (graphs + 1,) int64
    band_starts,  # (2 * nodes,) int32: by target, then by source
    band_offsets,  # (2 * nodes + 1,) int64
    closeness,  # uint8, at most `cutoff`
    nodes,
    hid,
    width,
    cutoff,
    HEADS: tl.constexpr,
    HID: tl.constexpr,
    WIDTH: tl.constexpr,
    SENDERS: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,  # for the backward kernel, and where weights do not stay
):
    """m_v = sum_u MLP(h_u) + sum_u MLP_ve(h_u) / d(u, v), then h_v = GRU(m_v, h_v): a program per graph."""
    begin = tl.load(graph_offsets + tl.program_id(0))
    count = tl.load(graph_offsets + tl.program_id(0) + 1) - begin
    square = hid * hid
    bias_reset, bias_update = load_vector(bias_input, hid, HID), load_vector(bias_input + hid, hid, HID)
    bias_new = load_vector(bias_input + 2 * hid, hid, HID)
    layer_bias_1, layer_bias_2 = load_rows(bias_1, width, HEADS, WIDTH), load_rows(bias_2, hid, HEADS, HID)
    if RESIDENT:
        reset_input = load_matrix(weight_input, hid, hid, HID, HID)
        update_input = load_matrix(weight_input + square, hid, hid, HID, HID)
        new_input = load_matrix(weight_input + 2 * square, hid, hid, HID, HID)
        layer_1 = load_layers(weight_1, width, hid, HEADS, WIDTH, HID)
        layer_2 = load_layers(weight_2, hid, width, HEADS, HID, WIDTH)
    for sweep in range(2):
        if sweep == 0:
            before = states
            after = middle
        else:
            before = middle
            after = final
        sent = messages + tl.cast(sweep, tl.int64) * nodes * HEADS * hid
        hidden_half(
            before + begin * hid, weight_hidden, bias_hidden, products + begin * 3 * hid, count, hid, ROWS, BLOCK
        )
        tl.debug_barrier()
        step = 1 - 2 * sweep
        node = begin + sweep * (count - 1)
        row = sweep * nodes + node
        first, band, senders, near = load_band(band_starts, band_offsets, closeness, row, SENDERS)
        for index in range(count):
            if RESIDENT:  # what no message is needed for, while messages come
                h, hidden_reset, hidden_update, hidden_new = load_known(before, products, node, hid, HID)
            head, column = tl.arange(0, HEADS)[None, :, None], tl.arange(0, HID)[None, None, :]
            gathered = tl.zeros([SENDERS, HEADS, HID], dtype=tl.float32)
            for start in range(0, senders, SENDERS):
                sender = start + tl.arange(0, SENDERS)
                weight = weights_of_messages(near, cutoff, HEADS)[:, :, None]
                place = sent + ((first + sender)[:, None, None] * HEADS + head) * hid + column
                message = tl.load(place, mask=(weight > 0) & (column < hid), other=0.0)
                near = load_closeness(closeness + band, start + SENDERS, senders, SENDERS)
                gathered += weight * message
            received = tl.sum(tl.reshape(gathered, [SENDERS * HEADS, HID]), axis=0)
            # The next node's band.
            following = tl.where(index + 1 < count, row + step, row)
            first, band, senders, near = load_band(band_starts, band_offsets, closeness, following, SENDERS)

            kept = gates + row * 5 * hid
            if KEEP:
                store_vector(kept, received, hid, HID)
            if RESIDENT:
                m = received[None, :]
                of_reset, of_update = tl.sum(reset_input * m, axis=1), tl.sum(update_input * m, axis=1)
                of_new = tl.sum(new_input * m, axis=1)
            else:
                tl.debug_barrier()
                of_reset, of_update, of_new = stream_gates(weight_input, kept, hid, HID, CHUNK)
                h, hidden_reset, hidden_update, hidden_new = load_known(before, products, node, hid, HID)
            reset = sigmoid(of_reset + bias_reset + hidden_reset)
            update = sigmoid(of_update + bias_update + hidden_update)
            new = tanh(of_new + bias_new + reset * hidden_new)
            state = (1.0 - update) * new + update * h
            store_vector(after + node * hid, state, hid, HID)
            if KEEP:
                store_vector(kept + hid, reset, hid, HID)
                store_vector(kept + 2 * hid, update, hid, HID)
                store_vector(kept + 3 * hid, new, hid, HID)
                store_vector(kept + 4 * hid, hidden_new, hid, HID)

            if RESIDENT:
                inner = tl.sum(layer_1 * state[None, None, :], axis=2)
            else:
                tl.debug_barrier()
                inner = stream_layers(weight_1, width, hid, after + node * hid, 0, HEADS, WIDTH, CHUNK)
            inner = relu(inner + layer_bias_1)
            kept_hidden = hidden + row * HEADS * width
            if KEEP:
                store_rows(kept_hidden, inner, width, HEADS, WIDTH)
            if RESIDENT:
                message = tl.sum(layer_2 * inner[:, None, :], axis=2)
            else:
                tl.debug_barrier()
                message = stream_layers(weight_2, hid, width, kept_hidden, width, HEADS, HID, CHUNK)
            store_rows(sent + node * HEADS * hid, relu(message + layer_bias_2), hid, HEADS, HID)
            node += step
            row += step
            tl.debug_barrier()  # the next node reads the message


@triton.jit(do_not_specialize=["nodes", "hid", "width"])
def sweep_backward_kernel(
    grad_final,  # (nodes, hid)
    grad_middle,  # (nodes, hid), written
    grad_states,  # (nodes, hid), written
    grad_received,  # (2, nodes, hid), written: the gradients of what nodes received
    grad_gates,  # (2, nodes, 4, hid), written: before the activations of reset, update, new; the new gate's hidden part
    grad_hidden,  # (2, nodes, HEADS, width), written: before the activation of the MLPs' hidden layers
    grad_messages,  # (2, nodes, HEADS, hid), written: before the activation of messages
    states,  # (nodes, hid)
    middle,  # as the forward kernel left them, up to `hidden`
    messages,
    gates,
    hidden,
    weight_1,
    weight_2,
    weight_input,
    weight_hidden,
    graph_offsets,
    band_starts,
    band_offsets,
    closeness,
    nodes,
    hid,
    width,
    cutoff,
    HEADS: tl.constexpr,
    HID: tl.constexpr,
    WIDTH: tl.constexpr,
    SENDERS: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Nodes in the opposite order: what a node sent has its gradient once all its receivers have theirs.

    Weights have gradients of their own outside: they are products over all nodes of what this kernel writes.
    """
    begin = tl.load(graph_offsets + tl.program_id(0))
    count = tl.load(graph_offsets + tl.program_id(0) + 1) - begin
    square = hid * hid
    if RESIDENT:
        layer_1 = load_transposed_layers(weight_1, width, hid, HEADS, WIDTH, HID)
        layer_2 = load_transposed_layers(weight_2, hid, width, HEADS, HID, WIDTH)
        reset_input = load_transposed(weight_input, hid, hid, HID, HID)
        update_input = load_transposed(weight_input + square, hid, hid, HID, HID)
        new_input = load_transposed(weight_input + 2 * square, hid, hid, HID, HID)
    for turn in range(2):
        sweep = 1 - turn
        if sweep == 0:
            before = states
            grad_after = grad_middle
            grad_before = grad_states
        else:
            before = middle
            grad_after = grad_final
            grad_before = grad_middle
        grads = grad_received + tl.cast(sweep, tl.int64) * nodes * hid
        step = 1 - 2 * turn
        node = begin + turn * (count - 1)
        row = sweep * nodes + node
        band_row = turn * nodes + node  # who receives in one sweep sends in the other
        first, band, receivers, near = load_band(band_starts, band_offsets, closeness, band_row, SENDERS)
        for index in range(count):
            # What no gradient is needed for, while gradients come.
            sent = load_rows(messages + row * HEADS * hid, hid, HEADS, HID)
            inner = load_rows(hidden + row * HEADS * width, width, HEADS, WIDTH)
            kept = gates + row * 5 * hid
            reset, update = load_vector(kept + hid, hid, HID), load_vector(kept + 2 * hid, hid, HID)
            new, of_hidden = load_vector(kept + 3 * hid, hid, HID), load_vector(kept + 4 * hid, hid, HID)
            h, grad_own = load_vector(before + node * hid, hid, HID), load_vector(grad_after + node * hid, hid, HID)
            column = tl.arange(0, HID)[None, :]
            gathered = tl.zeros([SENDERS, HEADS, HID], dtype=tl.float32)
            for start in range(0, receivers, SENDERS):
                receiver = start + tl.arange(0, SENDERS)
                weight = weights_of_messages(near, cutoff, HEADS)[:, :, None]
                place = grads + (first + receiver)[:, None] * hid + column
                grad = tl.load(place, mask=(near > 0)[:, None] & (column < hid), other=0.0)
                near = load_closeness(closeness + band, start + SENDERS, receivers, SENDERS)
                gathered += weight * grad[:, None, :]
            grad_sent = tl.sum(gathered, axis=0)
            # The next node's band.
            following = tl.where(index + 1 < count, band_row + step, band_row)
            first, band, receivers, near = load_band(band_starts, band_offsets, closeness, following, SENDERS)
            grad_sent = tl.where(sent > 0, grad_sent, 0.0)
            store_rows(grad_messages + row * HEADS * hid, grad_sent, hid, HEADS, HID)

            if RESIDENT:
                grad_inner = tl.sum(layer_2 * grad_sent[:, None, :], axis=2)
            else:
                tl.debug_barrier()
                place = grad_messages + row * HEADS * hid
                grad_inner = stream_transposed_layers(weight_2, hid, width, place, HEADS, WIDTH, CHUNK)
            grad_inner = tl.where(inner > 0, grad_inner, 0.0)
            store_rows(grad_hidden + row * HEADS * width, grad_inner, width, HEADS, WIDTH)
            if RESIDENT:
                of_heads = tl.sum(layer_1 * grad_inner[:, None, :], axis=2)
            else:
                tl.debug_barrier()
                place = grad_hidden + row * HEADS * width
                of_heads = stream_transposed_layers(weight_1, width, hid, place, HEADS, HID, CHUNK)
            grad_state = tl.sum(of_heads, axis=0) + grad_own

            grad_update = grad_state * (h - new) * update * (1.0 - update)
            grad_new = grad_state * (1.0 - update) * (1.0 - new * new)
            grad_reset = grad_new * of_hidden * reset * (1.0 - reset)
            grad_of_hidden = grad_new * reset
            written = grad_gates + row * 4 * hid
            store_vector(written, grad_reset, hid, HID)
            store_vector(written + hid, grad_update, hid, HID)
            store_vector(written + 2 * hid, grad_new, hid, HID)
            store_vector(written + 3 * hid, grad_of_hidden, hid, HID)

            if RESIDENT:
                r, z, n = grad_reset[None, :], grad_update[None, :], grad_new[None, :]
                of_received = tl.sum(reset_input * r + update_input * z + new_input * n, axis=1)
            else:
                tl.debug_barrier()
                of_received = stream_transposed_gates(weight_input, written, hid, HID, CHUNK)
            store_vector(grads + node * hid, of_received, hid, HID)
            store_vector(grad_before + node * hid, grad_state * update, hid, HID)
            node += step
            row += step
            band_row += step
            tl.debug_barrier()  # the next node reads the gradient of what this one received
        add_hidden_half(
            grad_gates + (sweep * nodes + begin) * 4 * hid,
            weight_hidden, grad_before + begin * hid, count, hid, ROWS, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()


# Launchers ------------------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """The weights of a sweep as the kernels take them: the MLPs' layers stacked."""

    weight_1: Tensor  # (heads, width, hid)
    bias_1: Tensor  # (heads, width)
    weight_2: Tensor  # (heads, hid, width)
    bias_2: Tensor  # (heads, hid)
    weight_input: Tensor  # (3 hid, hid)
    weight_hidden: Tensor
    bias_input: Tensor  # (3 hid,)
    bias_hidden: Tensor


def layers_of(weights: Sequence[Tensor]) -> Layers:
    """From the direct MLP's, the GRU's and, where there are virtual edges, their MLP's weights."""
    direct, gru, virtual = weights[:4], weights[4:8], weights[8:]
    mlps = [direct, virtual] if virtual else [direct]
    stacked = list(zip(*mlps, strict=True))
    # All of them in one copy; in this order, each is aligned.
    order = 0, 2, 3, 1
    joined = torch.cat([weight.flatten() for which in order for weight in stacked[which]])
    parts = joined.split([len(mlps) * stacked[which][0].numel() for which in order])
    found = {which: part.view(len(mlps), *stacked[which][0].shape) for which, part in zip(order, parts, strict=True)}
    return Layers(*(found[which] for which in range(4)), *(w.contiguous() for w in gru))


def gated_sweep(
    states: Tensor,
    weights: Sequence[Tensor],
    topology: Sequence[Tensor],
    cutoff: int,
    keep: bool,
    layers: Layers | None = None,
    launch: Callable[..., Any] = launch,
) -> list[Tensor]:
    """Final node states (nodes, hid), and behind them what `gated_sweep_backward` needs, if it is to be kept.

    Args:
        states: (nodes, hid) float32.
        weights: 8 or 12 tensors, see `ghnfast.ops.sweep.SweepWeights.flat`.
        topology: graph_offsets, band_starts, band_offsets and closeness, see `sweep_kernel`.
        layers: `layers_of` the weights, where they are known.
        launch: what launches the kernel.
    """
    layers, states = layers_of(weights) if layers is None else layers, states.contiguous()
    nodes, hid = states.shape
    heads, width, _ = layers.weight_1.shape
    middle, final = torch.empty_like(states), torch.empty_like(states)
    messages = states.new_empty(2, nodes, heads, hid)
    blocks = blocks_for(heads, hid, width)
    written = keep or not blocks.RESIDENT
    gates = states.new_empty((2, nodes, 5, hid)) if written else messages
    hidden = states.new_empty((2, nodes, heads, width)) if written else messages
    products = states.new_empty(nodes, 3, hid)
    with on_device(states.device):
        launch(
            sweep_kernel, (len(topology[0]) - 1,), states, middle, final, messages, gates, hidden, products, *layers,
            *topology, nodes, hid, width, cutoff, *blocks, written, **OPTIONS,
        )  # fmt: skip
    return [final, middle, messages, gates, hidden] if keep else [final]


def gated_sweep_backward(
    grad: Tensor,
    states: Tensor,
    kept: Sequence[Tensor],
    weights: Sequence[Tensor],
    topology: Sequence[Tensor],
    cutoff: int,
) -> list[Tensor]:
    """The gradients of the states and of each weight.

    Args:
        kept: everything that `gated_sweep` returned.
    """
    final, middle, messages, gates, hidden = kept
    layers, states = layers_of(weights), states.contiguous()
    nodes, hid = states.shape
    heads, width, _ = layers.weight_1.shape
    grad_middle, grad_states = torch.empty_like(states), torch.empty_like(states)
    grad_received = states.new_empty(2, nodes, hid)
    grad_gates = states.new_empty(2, nodes, 4, hid)
    grad_hidden, grad_messages = torch.empty_like(hidden), torch.empty_like(messages)
    with on_device(states.device):
        launch(
            sweep_backward_kernel, (len(topology[0]) - 1,), grad.contiguous(), grad_middle, grad_states, grad_received,
            grad_gates, grad_hidden, grad_messages,
            states, middle, messages, gates, hidden, layers.weight_1, layers.weight_2, layers.weight_input,
            layers.weight_hidden, *topology, nodes, hid, width, cutoff, *blocks_for(heads, hid, width), **OPTIONS,
        )  # fmt: skip
    with torch.autocast(states.device.type, enabled=False):
        after = torch.cat([middle, final])
        direct, *virtual = (
            mlp_gradients(after, *(part[:, :, head].flatten(0, 1) for part in (hidden, grad_hidden, grad_messages)))
            for head in range(heads)
        )
        gru = gru_gradients(torch.cat([states, middle]), gates[:, :, 0].flatten(0, 1), grad_gates.flatten(0, 1))
    return [grad_states, *direct, *gru, *(grad for mlp in virtual for grad in mlp)]
