"""Random topologies and weights for the tests of sweeps, and their comparison with the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghnfast import ArchGraph
from ghnfast.graph import MAX_DISTANCE, GraphBatch, Topology
from ghnfast.ops.sweep import GruWeights, MlpWeights, SweepWeights, gated_sweep, naive_gated_sweep

# Nodes and edges of graphs at the edges of what there is.
DEGENERATE: list[tuple[int, list[tuple[int, int]]]] = [
    (1, []),
    (2, []),
    (2, [(0, 1)]),
    (5, []),  # one level
    (3, [(0, 2)]),
    (40, [(i, j) for j in range(40) for i in range(j)]),  # everybody sends to all that follow
    (21, [(0, i) for i in range(1, 20)] + [(i, 20) for i in range(1, 20)]),
]


def graph_of(nodes: int, pairs: Sequence[tuple[int, int]] | NDArray[Any]) -> ArchGraph:
    """A graph of sums; its nodes must be in order of level."""
    edges = np.asarray(pairs, dtype=np.int32).reshape(-1, 2)
    edges = edges[np.lexsort((edges[:, 0], edges[:, 1]))]
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in edges.tolist():
        level[target] = max(level[target], level[source] + 1)
    assert (np.diff(level) >= 0).all()
    offsets = np.searchsorted(level, np.arange(level.max() + 2)).astype(np.int32)
    none = [None] * nodes
    return ArchGraph(np.full(nodes, 7, dtype=np.int8), edges, offsets, list(none), list(none), list(none))


def random_graph(seed: int, levels: int, width: int, per_node: int) -> ArchGraph:
    """Levels of 1 to `width` nodes; each node has an edge from the level before, and others from anywhere before."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, width + 1, levels)
    starts = np.cumsum([0, *sizes])
    edges = set()
    for level in range(1, levels):
        for node in range(starts[level], starts[level + 1]):
            edges.add((int(random.integers(starts[level - 1], starts[level])), node))
            edges |= {(int(source), node) for source in random.integers(0, starts[level], per_node)}
    return graph_of(int(starts[-1]), sorted(edges))


def topology_of(*graphs: ArchGraph, cutoff: int = MAX_DISTANCE) -> Topology:
    return GraphBatch(graphs).topology(cutoff)


def sweep_weights(
    hid: int, virtual: bool, dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cpu"
) -> SweepWeights:
    """Random weights that require gradients, in the proportions of a GHN's."""
    generator = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
        return values.to(device, dtype).requires_grad_()

    def mlp(hidden: int) -> MlpWeights:
        return MlpWeights(made(hidden, hid), made(hidden), made(hid, hidden), made(hid))

    hidden = hid // 2 if virtual else hid
    gru = GruWeights(made(3 * hid, hid), made(3 * hid, hid), made(3 * hid), made(3 * hid))
    return SweepWeights(mlp(hidden), mlp(hidden) if virtual else None, gru)


def tensors_of(weights: SweepWeights) -> list[Tensor]:
    return [*weights.direct, *weights.gru, *(weights.virtual or ())]


def assert_same_sweep(topology: Topology, weights: SweepWeights, hid: int, seed: int = 0) -> None:
    """Values within 1e-5, gradients within 1e-5 of their largest."""
    nodes = len(topology.levels)
    generator = torch.Generator().manual_seed(seed)
    like = weights.gru.bias_input
    states, grad = (torch.randn(nodes, hid, generator=generator, dtype=torch.float64).to(like) for _ in range(2))
    states = states.detach().requires_grad_()
    ours, naive = gated_sweep(states, topology, weights), naive_gated_sweep(states, topology, weights)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-5)
    inputs = [states, *tensors_of(weights)]
    found_grads = torch.autograd.grad(ours, inputs, grad)
    # Where there is no message, the naive version does not use the weights that make them.
    wanted_grads = torch.autograd.grad(naive, inputs, grad, allow_unused=True, materialize_grads=True)
    for found, wanted in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1, float(wanted.detach().abs().max())))
