"""The definition of the operation, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...graph import Topology
from .weights import MlpWeights, SweepWeights


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
