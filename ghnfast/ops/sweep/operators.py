"""The operation as operators of torch: in C++ on a CPU (csrc/sweep), on a GPU as `choice` says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _C
from ...graph import Topology
from ..backend import as_arrays, backend_for, is_plain, operator
from ..uploads import Wanted, in_use, upload
from .choice import Sweep, chosen_sweep

if TYPE_CHECKING:
    from ...kernels.chain import Walk


def native_topology(topology: Sequence[Tensor], cutoff: int) -> _C.Topology:
    graph_offsets, edge_offsets, edge_sources, band_starts, band_offsets, closeness = as_arrays(*topology)
    return _C.Topology(graph_offsets, edge_offsets, edge_sources, band_starts, band_offsets, closeness, cutoff)


def native_gated_sweep(states: Tensor, weights: list[NDArray[Any]], topology: _C.Topology) -> Tensor:
    (initial,) = as_arrays(states)
    return torch.from_numpy(_C.gated_sweep(initial, weights, topology, torch.get_num_threads()))


def triton_tables(topology: Topology, device: torch.device) -> list[Tensor]:
    """graph_offsets, and the bands by target and by source: starts, offsets, closeness (see kernels/sweep.py)."""
    upload([wanted_tables(topology, device)], device)
    tables = known_tables(topology, device)
    in_use(tables)
    return tables


def known_tables(topology: Topology, device: torch.device) -> list[Tensor]:
    """`triton_tables` that are there."""
    tables: list[Tensor] = topology.known["gated_sweep"][device]
    return tables


def wanted_tables(topology: Topology, device: torch.device) -> Wanted | None:
    """What a device has not yet of `triton_tables`."""
    known: dict[torch.device, list[Tensor]] = topology.known.setdefault("gated_sweep", {})
    if device in known:
        return None
    own = topology.band_starts, topology.band_offsets, topology.closeness
    starts, offsets, closeness = _C.reversed_bands(*own)
    arrays = [
        topology.graph_offsets,
        np.concatenate([own[0], starts]),
        np.concatenate([own[1], own[1][-1] + offsets[1:]]),
        np.concatenate([own[2], closeness]),
    ]
    return Wanted(arrays, functools.partial(known.__setitem__, device))


def computed_sweep(
    states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool, largest: int
) -> list[Tensor]:
    """Final node states, and behind them what the backward pass reads where it does not recompute it.

    Args:
        weights: those of the direct MLP, the GRU and, where there are virtual edges, their MLP: 8 or 12 tensors.
        topology: the arrays of `Topology`, without the levels; for Triton `triton_tables`.
        keep: whether there will be a backward pass.
        largest: nodes of the largest graph.
    """
    if backend_for(states) == "triton":
        return device_gated_sweep(states, weights, topology, cutoff, keep, largest)
    return [native_gated_sweep(states, as_arrays(*weights), native_topology(topology, cutoff))]


def device_gated_sweep(
    states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool, largest: int
) -> list[Tensor]:
    """By the kernel that `chosen_sweep` says."""
    heads = 2 if len(weights) == 12 else 1
    sweep = Sweep(largest, heads, states.shape[1], len(weights[1]), keep)
    if chosen_sweep(sweep, states.device) == "cuda":
        from ...kernels import chain

        return chain.gated_sweep(states, weights, topology, cutoff, keep, largest)
    from ...kernels import sweep as kernels

    return kernels.gated_sweep(states, weights, topology, cutoff, keep)


gated_sweep_op = operator(
    "gated_sweep",
    computed_sweep,
    device_gated_sweep,
    "(Tensor states, Tensor[] weights, Tensor[] topology, SymInt cutoff, bool keep, SymInt largest) -> Tensor[]",
)


def walk(weights: Sequence[Tensor], tables: Sequence[Tensor], topology: Topology, hid: int) -> Walk:
    """What computes the states between the sweeps, and the final ones, of this batch from its initial ones in CUDA
    C++, again and again."""
    from ...kernels import chain

    return chain.Walk(weights, tables, topology.cutoff, topology.largest, hid)


@gated_sweep_op.register_fake
def _(
    states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool, largest: int
) -> list[Tensor]:
    nodes, hid = states.shape
    final = states.new_empty(nodes, hid)
    if not keep or backend_for(states) != "triton":
        return [final]
    heads, width = (2 if len(weights) == 12 else 1), weights[0].shape[0]
    shapes = (nodes, hid), (2, nodes, heads, hid), (2, nodes, 5, hid), (2, nodes, heads, width)
    return [final, *(states.new_empty(shape) for shape in shapes)]


def computed_gradients(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
    largest: int,
) -> list[Tensor]:
    """The gradients of the states and of each weight; `kept` is everything that the forward pass returned."""
    if backend_for(states) == "triton":
        return device_gated_sweep_backward(grad, states, kept, weights, topology, cutoff, largest)
    arrays = native_topology(topology, cutoff)
    grad_final, initial = as_arrays(grad, states)
    grad_states, grad_weights = _C.gated_sweep_backward(
        grad_final, initial, as_arrays(*weights), arrays, torch.get_num_threads()
    )
    return [torch.from_numpy(array) for array in (grad_states, *grad_weights)]


def device_gated_sweep_backward(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
    largest: int,
) -> list[Tensor]:
    """By the kernel that `chosen_sweep` says."""
    heads = 2 if len(weights) == 12 else 1
    sweep = Sweep(largest, heads, states.shape[1], len(weights[1]), True, True)
    if chosen_sweep(sweep, states.device) == "cuda":
        from ...kernels import chain_backward

        return chain_backward.gated_sweep_backward(grad, states, kept, weights, topology, cutoff, largest)
    from ...kernels import sweep as kernels

    return kernels.gated_sweep_backward(grad, states, kept, weights, topology, cutoff)


gated_sweep_backward_op = operator(
    "gated_sweep_backward",
    computed_gradients,
    device_gated_sweep_backward,
    "(Tensor grad, Tensor states, Tensor[] kept, Tensor[] weights, Tensor[] topology, SymInt cutoff, "
    "SymInt largest) -> Tensor[]",
)


@gated_sweep_backward_op.register_fake
def _(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
    largest: int,
) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (states, *weights)]


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    states, weights, topology, ctx.cutoff, _, ctx.largest = inputs
    kept = output if len(output) > 1 else []
    ctx.save_for_backward(states, *kept, *weights, *topology)
    ctx.counts = len(kept), len(weights)
    ctx.set_materialize_grads(False)


def sweep_backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    states, *others = ctx.saved_tensors
    kept_count, weight_count = ctx.counts
    kept, others = others[:kept_count], others[kept_count:]
    weights, topology = others[:weight_count], others[weight_count:]
    grad = torch.zeros_like(states) if grads[0] is None else grads[0]
    found = gated_sweep_backward_op(grad, states, kept, weights, topology, ctx.cutoff, ctx.largest)
    return found[0], found[1:], [None] * len(topology), None, None, None


gated_sweep_op.register_autograd(sweep_backward, setup_context=keep_for_backward)


class RecordedSweep(torch.autograd.Function):
    """The operation, recorded without torch's machinery for operators.

    That imports torch's compiler, which takes two seconds, and takes the host a quarter of a millisecond each way, as
    long as the kernels of a GPU take.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, tables: list[Tensor], cutoff: int, largest: int, *weights: Tensor) -> Tensor:
        final, *others = computed_sweep(states, list(weights), tables, cutoff, True, largest)
        ctx.save_for_backward(states, *weights, *((final, *others) if others else ()))
        ctx.tables, ctx.sizes, ctx.weights = tables, (cutoff, largest), len(weights)
        return final

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, *others = ctx.saved_tensors
        weights, kept = others[: ctx.weights], others[ctx.weights :]
        run = computed_gradients if is_plain([grad, states, *others]) else gated_sweep_backward_op
        found = run(grad, states, kept, weights, ctx.tables, *ctx.sizes)
        return found[0], None, None, None, *found[1:]
