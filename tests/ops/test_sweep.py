"""ghnfast/ops/sweep: what runs against what defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.graphs import assert_same_sweep, graph_of, random_graph, sweep_weights, tensors_of, topology_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.errors import BackendError
from ghnfast.graph import Topology
from ghnfast.ops.sweep import SweepWeights, gated_sweep, gated_sweep_op, naive_gated_sweep


def operator_arguments(states: Tensor, topology: Topology, weights: SweepWeights) -> tuple[Any, ...]:
    arrays = (
        topology.graph_offsets,
        topology.edge_offsets,
        topology.edge_sources,
        topology.band_starts,
        topology.band_offsets,
        topology.closeness,
    )
    tables = [torch.from_numpy(array) for array in arrays]
    return states, tensors_of(weights), tables, topology.cutoff, True, topology.largest


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=4),
    hid=st.sampled_from([4, 8, 20, 32, 128]),
    virtual=st.booleans(),
)
def test_random_batches(seed: int, shapes: list[tuple[int, int, int]], hid: int, virtual: bool) -> None:
    graphs = [random_graph(seed + index, *shape) for index, shape in enumerate(shapes)]
    topology = topology_of(*graphs, cutoff=50 if virtual else 1)
    assert_same_sweep(topology, sweep_weights(hid, virtual, seed=seed), hid, seed)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        (1, []),
        (5, []),  # one level
        (3, [(0, 2)]),
        (60, [(i, i + 1) for i in range(59)]),  # ends that are more than 50 hops apart
        (20, [(i, j) for j in range(20) for i in range(j)]),
        (41, [(0, i) for i in range(1, 40)] + [(i, 40) for i in range(1, 40)]),
    ],
)
def test_degenerate_graphs(nodes: int, edges: list[tuple[int, int]], virtual: bool) -> None:
    topology = topology_of(graph_of(nodes, edges), cutoff=50 if virtual else 1)
    assert_same_sweep(topology, sweep_weights(32, virtual), 32)


@pytest.mark.parametrize("cutoff", [1, 2, 3])
def test_virtual_edges_of_a_shorter_reach(cutoff: int) -> None:
    topology = topology_of(random_graph(0, 15, 3, 2), cutoff=cutoff)
    assert_same_sweep(topology, sweep_weights(16, True), 16)


def chain(nodes: int) -> np.ndarray:
    return np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)


@pytest.mark.parametrize("edges", [chain(500), np.stack(np.triu_indices(400, 1), axis=1)], ids=["chain", "dense"])
def test_large_graphs(edges: np.ndarray) -> None:
    """In double precision: what rounding does to hundreds of steps is not the question."""
    topology = topology_of(graph_of(int(edges.max()) + 1, edges))
    weights = sweep_weights(8, True, torch.float64)
    for weight in tensors_of(weights):
        weight.data /= 1 + len(edges) / 5000  # sums of hundreds of messages saturate the gates
    assert_same_sweep(topology, weights, 8)


def test_a_chain_of_ten_thousand_nodes() -> None:
    topology, weights = topology_of(graph_of(10_000, chain(10_000))), sweep_weights(4, True, torch.float64)
    states = torch.randn(10_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(gated_sweep(states, topology, weights), naive_gated_sweep(states, topology, weights))


def test_the_order_of_graphs_does_not_matter() -> None:
    graphs = [random_graph(seed, 9, 3, 1) for seed in range(5)]
    weights = sweep_weights(32, True)
    states = [torch.randn(len(graph), 32, generator=torch.Generator().manual_seed(len(graph))) for graph in graphs]
    with torch.no_grad():
        together = gated_sweep(torch.cat(states), topology_of(*graphs), weights).split([len(g) for g in graphs])
        alone = [gated_sweep(x, topology_of(graph), weights) for x, graph in zip(states, graphs, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("virtual", [True, False])
def test_operator(virtual: bool) -> None:
    """Schema, fake implementation, autograd registration and torch.compile's view of the operator."""
    topology = topology_of(random_graph(1, 6, 3, 1), random_graph(2, 3, 2, 1), cutoff=50 if virtual else 1)
    states = torch.randn(len(topology.levels), 8, requires_grad=True)
    torch.library.opcheck(gated_sweep_op, operator_arguments(states, topology, sweep_weights(8, virtual)))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("virtual", [True, False])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, backend: str, virtual: bool) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    topology = topology_of(random_graph(3, 5, 2, 1), cutoff=50 if virtual else 1)
    weights = sweep_weights(4, virtual, torch.float64)
    states = torch.randn(len(topology.levels), 4, dtype=torch.float64, requires_grad=True)

    def run(states: Tensor, *flat: Tensor) -> Tensor:
        direct, gru, far = (type(weights.direct)(*flat[:4]), type(weights.gru)(*flat[4:8]), flat[8:])
        return gated_sweep(states, topology, SweepWeights(direct, type(direct)(*far) if far else None, gru))

    assert torch.autograd.gradcheck(run, (states, *tensors_of(weights)))


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    topology, weights = topology_of(random_graph(1, 6, 3, 1)), sweep_weights(8, True)
    states = torch.randn(len(topology.levels), 8)
    naive = naive_gated_sweep(states, topology, weights)
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    assert torch.equal(gated_sweep(states, topology, weights), naive)
    monkeypatch.setenv("GHNFAST_BACKEND", "cpp")
    assert gated_sweep(states, topology, weights).grad_fn is not None
    torch.testing.assert_close(gated_sweep(states, topology, weights), naive)
    with pytest.raises(BackendError, match=r"the GHN is torch\.bfloat16 on cpu; float32 and float64 on the CPU are"):
        gated_sweep(states.bfloat16(), topology, weights)
    monkeypatch.setenv("GHNFAST_BACKEND", "cuda")
    with pytest.raises(BackendError, match="GHNFAST_BACKEND is 'cuda'; 'torch', 'cpp', 'triton' are accepted"):
        gated_sweep(states, topology, weights)


def test_nodes_out_of_order_are_rejected() -> None:
    graph = graph_of(3, [(0, 1), (1, 2)])
    graph.edges[1] = [2, 1]
    with pytest.raises(ValueError, match=r"edge \(2, 1\) does not come from an earlier node"):
        topology_of(graph)
