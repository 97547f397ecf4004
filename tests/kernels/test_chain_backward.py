"""kernels/chain_backward.cu and chain_gradients.cu: their sources, lane by lane on the CPU, against autograd of the
definition; their launcher's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import emulation
from helpers.graphs import DEGENERATE, graph_of, random_graph, sweep_weights, tensors_of, topology_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.errors import BackendError
from ghnfast.graph import Topology
from ghnfast.kernels import chain, chain_backward, driver, sweep
from ghnfast.kernels.sweep_gradients import gru_gradients, mlp_gradients
from ghnfast.ops.sweep import SweepWeights, naive_gated_sweep, triton_tables

CPU = torch.device("cpu")
H100 = 227 * 1024  # bytes of shared memory that a block may ask for


class Problem:
    """A sweep that has been computed, and the gradient of its result."""

    def __init__(self, topology: Topology, weights: SweepWeights, seed: int = 0) -> None:
        self.topology, self.weights, self.cutoff = topology, weights, topology.cutoff
        hid, nodes = weights.gru.weight_input.shape[1], len(topology.levels)
        generator = torch.Generator().manual_seed(seed)
        self.states, self.grad = (torch.randn(nodes, hid, generator=generator) for _ in range(2))
        self.flat = [weight.detach() for weight in tensors_of(weights)]
        self.tables = triton_tables(topology, CPU)
        self.kept = emulation.gated_sweep(self.states, self.flat, self.tables, self.cutoff, True, seed)

    def arguments(self) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], int]:
        return self.grad, self.states, self.kept, self.flat, self.tables, self.cutoff

    def walked_back(self, seed: int = 0) -> list[Tensor]:
        return emulation.walked_back(*self.arguments(), seed)

    def wanted(self) -> list[Tensor]:
        """Gradients of states and weights by autograd."""
        states = self.states.clone().requires_grad_()
        inputs = [states, *(weight.requires_grad_() for weight in tensors_of(self.weights))]
        result = naive_gated_sweep(states, self.topology, self.weights)
        grads = torch.autograd.grad(result, inputs, self.grad, allow_unused=True, materialize_grads=True)
        return list(grads)


def products_of(problem: Problem, outputs: list[Tensor]) -> list[Tensor]:
    """The gradients of weights, by torch."""
    final, middle, _, gates, hidden = problem.kept
    _, _, grad_gates, grad_hidden, grad_messages = outputs
    after, before = torch.cat([middle, final]), torch.cat([problem.states, middle])
    direct, *virtual = (
        mlp_gradients(after, *(part[:, :, head].flatten(0, 1) for part in (hidden, grad_hidden, grad_messages)))
        for head in range(hidden.shape[2])
    )
    gru = gru_gradients(before, gates[:, :, 0].flatten(0, 1), grad_gates.flatten(0, 1))
    return [*direct, *gru, *(grad for mlp in virtual for grad in mlp)]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, float(theirs.abs().max())))


def assert_right(problem: Problem, seed: int = 0) -> None:
    outputs = problem.walked_back(seed)
    assert_close([outputs[1], *products_of(problem, outputs)], problem.wanted())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3),
    case=st.sampled_from([(32, True), (32, False), (12, True)]),
    cutoff=st.sampled_from([1, 2, 3, 50]),
)
def test_random_batches(seed: int, shapes: list[tuple[int, int, int]], case: tuple[int, bool], cutoff: int) -> None:
    graphs = [random_graph(seed + index, *shape) for index, shape in enumerate(shapes)]
    assert_right(Problem(topology_of(*graphs, cutoff=cutoff), sweep_weights(*case, seed=seed), seed), seed)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize(("nodes", "edges"), DEGENERATE)
def test_degenerate_graphs(nodes: int, edges: list[tuple[int, int]], virtual: bool) -> None:
    weights = sweep_weights(32, virtual)
    with torch.no_grad():
        for weight in tensors_of(weights):
            weight /= 1 + len(edges) / 200  # sums of many messages saturate the gates
    assert_right(Problem(topology_of(graph_of(nodes, edges)), weights))


@pytest.mark.parametrize(("hid", "virtual"), [(32, True), (30, False), (7, True), (1, False)])
def test_graphs_about_as_long_as_the_ring(hid: int, virtual: bool) -> None:
    """Of one node to some more than there are slots: chains, and nodes without edges."""
    sizes = range(1, 20)
    chains = [graph_of(nodes, [(i, i + 1) for i in range(nodes - 1)]) for nodes in sizes]
    topology = topology_of(*chains, *(graph_of(nodes, []) for nodes in sizes), cutoff=hid)
    assert_right(Problem(topology, sweep_weights(hid, virtual)), hid)


def test_more_receivers_than_are_loaded_at_once() -> None:
    nodes = 300
    chained = [(i, i + 1) for i in range(nodes - 1)]
    skips = [(i, i + 6) for i in range(0, nodes - 6, 6)]
    topology = topology_of(graph_of(nodes, sorted(chained + skips)))
    assert np.diff(topology.band_offsets).max() > 200
    assert_right(Problem(topology, sweep_weights(32, True)))


@pytest.mark.parametrize(("hid", "virtual"), [(32, True), (32, False), (12, True), (6, False), (7, True)])
def test_gradients_of_weights(hid: int, virtual: bool) -> None:
    """In one launch, for nodes that fill the rounds of the warps and for those that are left."""
    chained = [(i, i + 1) for i in range(299)]
    problem = Problem(topology_of(graph_of(300, chained), random_graph(1, 4, 3, 2)), sweep_weights(hid, virtual))
    outputs = problem.walked_back()
    found = emulation.weight_gradients(problem.states, problem.kept, outputs, problem.flat, 1)
    assert_close(found, products_of(problem, outputs))
    assert_close(found, problem.wanted()[1:])
    again = emulation.weight_gradients(problem.states, problem.kept, outputs, problem.flat, 2)
    assert all(map(torch.equal, found, again))


@pytest.mark.parametrize("virtual", [True, False])
def test_gradients_are_those_of_the_triton_kernel(virtual: bool) -> None:
    problem = Problem(topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), sweep_weights(32, virtual))
    outputs = problem.walked_back(5)
    assert_close([outputs[1], *products_of(problem, outputs)], sweep.gated_sweep_backward(*problem.arguments()))


def test_results_depend_neither_on_the_order_of_threads_nor_on_the_batch() -> None:
    graphs = [random_graph(seed, 5, 3, 2) for seed in range(3)]
    problem = Problem(topology_of(*graphs), sweep_weights(32, True))
    first, *others = (problem.walked_back(seed) for seed in range(3))
    for other in others:
        assert all(map(torch.equal, first, other))
    sizes, alone = list(map(len, graphs)), []
    for graph, states, grad in zip(graphs, problem.states.split(sizes), problem.grad.split(sizes), strict=True):
        part = Problem(topology_of(graph), problem.weights)
        part.states, part.grad = states, grad
        part.kept = emulation.gated_sweep(states, part.flat, part.tables, part.cutoff, True, 0)
        alone.append(part.walked_back(7)[1])
    assert torch.equal(torch.cat(alone), first[1])


def test_gradients_that_are_not_finite_reach_whatever_sent_and_nothing_else() -> None:
    problem = Problem(topology_of(graph_of(5, [(0, 2), (1, 3), (2, 4)])), sweep_weights(32, True))
    problem.grad[4, 3] = float("nan")
    assert problem.walked_back()[1].isnan().any(1).tolist() == [True, False, True, False, True]


def test_launching(monkeypatch: pytest.MonkeyPatch) -> None:
    """From tensors through NVRTC and the driver to the kernels."""
    problem = Problem(topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), sweep_weights(32, True))
    defined, largest = chain_backward.macros(2, 32, 16), problem.topology.largest
    kernels = {name: emulation.emulated(defined, name) for name in (chain_backward.BACKWARD, chain_backward.GRADIENTS)}
    with emulation.gpu(monkeypatch, kernels[chain_backward.BACKWARD]):
        for name, library in kernels.items():
            monkeypatch.setattr(driver, "library", lambda library=library: library)
            assert chain.trouble(CPU, defined, name) == ""
        assert chain_backward.trouble(CPU, defined) == ""
        found = chain_backward.gated_sweep_backward(*problem.arguments(), largest)
        assert_close(found, problem.wanted())
        strided = problem.grad.T.contiguous().T, *problem.arguments()[1:]
        assert all(map(torch.equal, found, chain_backward.gated_sweep_backward(*strided, largest)))
        with pytest.raises(BackendError, match="NVIDIA's driver: invalid argument"):
            chain_backward.gated_sweep_backward(*problem.arguments(), 10_000)
        monkeypatch.setattr(chain, "source_of", lambda name: "no C++")
        chain.trouble.cache_clear()
        chain.function.cache_clear()
        assert chain_backward.trouble(CPU, defined).startswith("NVRTC does not compile chain_backward.cu for sm_90: ")


def test_what_it_does_not_take() -> None:
    assert chain_backward.refusal(2, 32, 16, 300, H100) == chain_backward.refusal(1, 32, 32, 300, H100) == ""
    assert chain_backward.refusal(2, 64, 32, 300, H100).startswith("states are 64 wide")
    largest = int(chain_backward.refusal(2, 32, 16, 10_000, H100).split(";")[1].split()[0])
    assert chain_backward.refusal(2, 32, 16, largest, H100) == ""
    assert chain_backward.shared_bytes(largest) <= H100 < chain_backward.shared_bytes(largest + 1)
    # Whatever virtual edges let the forward pass take, this takes.
    assert int(chain.refusal(2, 32, 16, 10_000, H100).split(";")[1].split()[0]) <= largest
