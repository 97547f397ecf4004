"""Gated message passing over architecture graphs.

`gated_sweep` is the operation; `naive_gated_sweep` defines it, in plain PyTorch; csrc/sweep.cpp is what runs on a CPU,
kernels/sweep.py on a GPU. Source: Graph HyperNetworks (Zhang et al., ICLR 2019), equations 3 and 4, and Parameter
Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 4, for the virtual edges.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import _C
from ..graph import Topology
from .backend import as_arrays, autocasts, backend_for, is_plain, kept_for_capture, uploaded


class MlpWeights(NamedTuple):
    """Two linear layers, each followed by a ReLU."""

    weight_1: Tensor  # (hidden, in)
    bias_1: Tensor  # (hidden,)
    weight_2: Tensor  # (out, hidden)
    bias_2: Tensor  # (out,)


class GruWeights(NamedTuple):
    """A gated recurrent unit in the layout of torch.nn.GRUCell: reset, update and new gates stacked."""

    weight_input: Tensor  # (3 hid, hid)
    weight_hidden: Tensor  # (3 hid, hid)
    bias_input: Tensor  # (3 hid,)
    bias_hidden: Tensor  # (3 hid,)


@dataclass(frozen=True, eq=False)
class SweepWeights:
    """What a sweep computes with. `virtual` is the MLP of the virtual edges, or None where there are none."""

    direct: MlpWeights
    virtual: MlpWeights | None
    gru: GruWeights

    @cached_property
    def flat(self) -> list[Tensor]:
        """All weights in the order that C++ takes them: 8, or 12 with virtual edges."""
        return [*self.direct, *self.gru, *(self.virtual or ())]

    def arrays(self) -> list[NDArray[Any]]:
        """`flat` for C++. Arrays in the weights' own memory are kept for as long as it is theirs."""
        addresses = [weight.data_ptr() for weight in self.flat]
        known = KNOWN_ARRAYS.get(self)
        if known is not None and known[0] == addresses:
            return known[1]
        arrays: list[NDArray[Any]] = as_arrays(*self.flat)
        if all(weight.is_contiguous() for weight in self.flat):
            KNOWN_ARRAYS[self] = addresses, arrays
        return arrays


KNOWN_ARRAYS: weakref.WeakKeyDictionary[SweepWeights, tuple[list[int], list[NDArray[Any]]]]
KNOWN_ARRAYS = weakref.WeakKeyDictionary()


def gated_sweep(states: Tensor, topology: Topology, weights: SweepWeights) -> Tensor:
    """Update every node once in topological order, then once in reverse.

    m_v = sum over u at distance 1 of MLP(h_u) + sum over u at distance d <= 50 of MLP_ve(h_u) / d, from states that
    this sweep has already updated, then h_v = GRU(m_v, h_v). A message depends on its sender alone, so it is
    computed once, when the sender is updated. Differentiable once with respect to states and weights.

    Under autocast, it is computed and returned in the weights' dtype all the same: rounding would add up over its
    steps. On a GPU it waits for nothing; a CUDA graph can capture it once a first call has brought `topology` there.

    Args:
        states: (nodes, hid), the nodes' initial states.
        topology: the edges and, for virtual edges, the shortest paths (`GraphBatch.topology`).

    Returns:
        (nodes, hid), the nodes' final states.

    Raises:
        BackendError: see `GHNFAST_BACKEND`.
    """
    if autocasts(states):
        with torch.autocast(states.device.type, enabled=False):
            return gated_sweep(states.to(weights.gru.weight_input.dtype), topology, weights)
    backend = backend_for(states)
    if backend == "torch":
        return naive_gated_sweep(states, topology, weights)
    if backend == "cpp" and is_plain([states, *weights.flat]):
        return native_gated_sweep(states, weights.arrays(), topology.native)
    differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (states, *weights.flat))
    tables = (
        [torch.from_numpy(a) for a in topology.arrays] if backend == "cpp" else triton_tables(topology, states.device)
    )
    result: Tensor = gated_sweep_op(states, weights.flat, tables, topology.cutoff, differentiated)[0]
    return result


# In plain PyTorch -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """One level of a batch in a sweep: what its nodes receive.

    nodes: (k,) int64, the nodes that are updated.
    sources, targets: (p,) int64; message p goes from node sources[p] to nodes[targets[p]].
    distances: (p,) float32, the distance in hops between the two.
    """

    nodes: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    distances: NDArray[np.float32]


def naive_gated_sweep(states: Tensor, topology: Topology, weights: SweepWeights) -> Tensor:
    """`gated_sweep`, level by level."""
    sources, targets, distances = topology.pairs()
    if weights.virtual is None:
        adjacent = distances == 1
        sources, targets, distances = sources[adjacent], targets[adjacent], distances[adjacent]
    hops = distances.astype(np.float32)
    forward = split_by_level(topology.levels, sources, targets, hops)
    reverse = split_by_level(topology.levels, targets, sources, hops)[::-1]
    for steps in (forward, reverse):
        states = sweep_once(states, steps, weights)
    return states


def sweep_once(states: Tensor, steps: Sequence[Step], weights: SweepWeights) -> Tensor:
    device = states.device
    states = states.clone()
    direct = torch.zeros_like(states)
    virtual = torch.zeros_like(states)
    for step in steps:
        nodes = torch.from_numpy(step.nodes).to(device)
        sources, targets = torch.from_numpy(step.sources).to(device), torch.from_numpy(step.targets).to(device)
        distances = torch.from_numpy(step.distances).to(states)
        adjacent = distances == 1
        received = states.new_zeros(len(nodes), states.shape[1])
        received = received.index_add(0, targets[adjacent], direct[sources[adjacent]])
        if weights.virtual is not None:
            received = received.index_add(0, targets, virtual[sources] / distances[:, None])
        updated = torch.gru_cell(received, states[nodes], *weights.gru)
        states = states.index_copy(0, nodes, updated)
        direct = direct.index_copy(0, nodes, apply_mlp(updated, weights.direct))
        if weights.virtual is not None:
            virtual = virtual.index_copy(0, nodes, apply_mlp(updated, weights.virtual))
    return states


def apply_mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    hidden = F.relu(F.linear(x, weights.weight_1, weights.bias_1))
    return F.relu(F.linear(hidden, weights.weight_2, weights.bias_2))


def split_by_level(
    level: NDArray[np.int64], sources: NDArray[np.int64], targets: NDArray[np.int64], hops: NDArray[np.float32]
) -> list[Step]:
    """One step per level, in rising order: the messages to the nodes of that level."""
    depth = int(level.max()) + 1
    nodes = np.argsort(level, kind="stable")
    node_bounds = np.searchsorted(level[nodes], np.arange(depth + 1))
    position = np.empty(len(level), dtype=np.int64)
    position[nodes] = np.arange(len(level)) - node_bounds[level[nodes]]
    order = np.argsort(level[targets], kind="stable")
    bounds = np.searchsorted(level[targets][order], np.arange(depth + 1))
    steps = []
    for index in range(depth):
        chosen = order[bounds[index] : bounds[index + 1]]
        steps.append(
            Step(
                nodes=nodes[node_bounds[index] : node_bounds[index + 1]],
                sources=sources[chosen],
                targets=position[targets[chosen]],
                distances=hops[chosen],
            )
        )
    return steps


# As operators of torch ------------------------------------------------------------------------------------------------
# The schemas are spelled out, for torch 2.6 cannot infer them from `list[Tensor]`.


def native_topology(topology: Sequence[Tensor], cutoff: int) -> _C.Topology:
    graph_offsets, edge_offsets, edge_sources, band_starts, band_offsets, closeness = as_arrays(*topology)
    return _C.Topology(graph_offsets, edge_offsets, edge_sources, band_starts, band_offsets, closeness, cutoff)


def native_gated_sweep(states: Tensor, weights: list[NDArray[Any]], topology: _C.Topology) -> Tensor:
    (initial,) = as_arrays(states)
    return torch.from_numpy(_C.gated_sweep(initial, weights, topology, torch.get_num_threads()))


# Topologies as the Triton kernels take them, by device.
KNOWN_TABLES: weakref.WeakKeyDictionary[Topology, dict[torch.device, list[Tensor]]] = weakref.WeakKeyDictionary()


def triton_tables(topology: Topology, device: torch.device) -> list[Tensor]:
    """graph_offsets, and the bands by target and by source: starts, offsets, closeness (see kernels/sweep.py)."""
    known = KNOWN_TABLES.setdefault(topology, {})
    if device not in known:
        own = topology.band_starts, topology.band_offsets, topology.closeness
        starts, offsets, closeness = _C.reversed_bands(*own)
        arrays = [
            topology.graph_offsets,
            np.concatenate([own[0], starts]),
            np.concatenate([own[1], own[1][-1] + offsets[1:]]),
            np.concatenate([own[2], closeness]),
        ]
        known[device] = uploaded(arrays, device)
    return kept_for_capture(known[device])


@torch.library.custom_op(
    "ghnfast::gated_sweep",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor states, Tensor[] weights, Tensor[] topology, SymInt cutoff, bool keep) -> Tensor[]",
)
def gated_sweep_op(
    states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool
) -> list[Tensor]:
    """Final node states, and behind them what the backward pass reads where it does not recompute it.

    Args:
        weights: those of the direct MLP, the GRU and, where there are virtual edges, their MLP: 8 or 12 tensors.
        topology: the arrays of `Topology`, without the levels; for Triton `triton_tables`.
        keep: whether there will be a backward pass.
    """
    if backend_for(states) == "triton":
        return triton_gated_sweep(states, weights, topology, cutoff, keep)
    return [native_gated_sweep(states, as_arrays(*weights), native_topology(topology, cutoff))]


@gated_sweep_op.register_kernel("cuda")
def triton_gated_sweep(
    states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool
) -> list[Tensor]:
    from ..kernels import sweep

    return sweep.gated_sweep(states, weights, topology, cutoff, keep)


@gated_sweep_op.register_fake
def _(states: Tensor, weights: list[Tensor], topology: list[Tensor], cutoff: int, keep: bool) -> list[Tensor]:
    nodes, hid = states.shape
    final = states.new_empty(nodes, hid)
    if not keep or backend_for(states) != "triton":
        return [final]
    heads, width = (2 if len(weights) == 12 else 1), weights[0].shape[0]
    shapes = (nodes, hid), (2, nodes, heads, hid), (2, nodes, 5, hid), (2, nodes, heads, width)
    return [final, *(states.new_empty(shape) for shape in shapes)]


@torch.library.custom_op(
    "ghnfast::gated_sweep_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor grad, Tensor states, Tensor[] kept, Tensor[] weights, Tensor[] topology, SymInt cutoff) "
    "-> Tensor[]",
)
def gated_sweep_backward_op(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
) -> list[Tensor]:
    """The gradients of the states and of each weight; `kept` is everything that the forward pass returned."""
    if backend_for(states) == "triton":
        return triton_gated_sweep_backward(grad, states, kept, weights, topology, cutoff)
    arrays = native_topology(topology, cutoff)
    grad_final, initial = as_arrays(grad, states)
    grad_states, grad_weights = _C.gated_sweep_backward(
        grad_final, initial, as_arrays(*weights), arrays, torch.get_num_threads()
    )
    return [torch.from_numpy(array) for array in (grad_states, *grad_weights)]


@gated_sweep_backward_op.register_kernel("cuda")
def triton_gated_sweep_backward(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
) -> list[Tensor]:
    from ..kernels import sweep

    return sweep.gated_sweep_backward(grad, states, kept, weights, topology, cutoff)


@gated_sweep_backward_op.register_fake
def _(
    grad: Tensor,
    states: Tensor,
    kept: list[Tensor],
    weights: list[Tensor],
    topology: list[Tensor],
    cutoff: int,
) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (states, *weights)]


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    states, weights, topology, ctx.cutoff, _ = inputs
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
    found = gated_sweep_backward_op(grad, states, kept, weights, topology, ctx.cutoff)
    return found[0], found[1:], [None] * len(topology), None, None


gated_sweep_op.register_autograd(sweep_backward, setup_context=keep_for_backward)
