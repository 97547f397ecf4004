"""kernels/sweep.py against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.graphs import assert_same_sweep, graph_of, random_graph, sweep_weights, tensors_of, topology_of
from helpers.kernel_device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st

from ghnfast.errors import BackendError
from ghnfast.graph import Topology
from ghnfast.kernels import sweep
from ghnfast.ops.sweep import SweepWeights, gated_sweep, gated_sweep_op, naive_gated_sweep, triton_tables


def weights_on_device(hid: int, virtual: bool, seed: int = 0) -> SweepWeights:
    weights = sweep_weights(hid, virtual, seed=seed, device=DEVICE)
    for weight in tensors_of(weights):
        weight.detach_().requires_grad_()
    return weights


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3),
    hid=st.sampled_from([8, 12, 32]),
    virtual=st.booleans(),
)
def test_random_batches(seed: int, shapes: list[tuple[int, int, int]], hid: int, virtual: bool) -> None:
    graphs = [random_graph(seed + index, *shape) for index, shape in enumerate(shapes)]
    topology = topology_of(*graphs, cutoff=50 if virtual else 1)
    assert_same_sweep(topology, weights_on_device(hid, virtual, seed), hid, seed)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("hid", [8, 16, 20, 32, 64, 100, 128])
def test_widths(monkeypatch: pytest.MonkeyPatch, hid: int, virtual: bool) -> None:
    """Weights that stay in registers, and those that do not; powers of two, and others."""
    if DEVICE == "cpu" and hid > 64:  # interpreted, a large product takes as long as a small one
        monkeypatch.setattr(sweep, "BLOCK", 128)
        monkeypatch.setattr(sweep, "CHUNK", 8192)
    topology = topology_of(random_graph(5, 4, 2, 1), graph_of(1, []), cutoff=50 if virtual else 1)
    assert_same_sweep(topology, weights_on_device(hid, virtual), hid)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        (1, []),
        (5, []),  # one level
        (3, [(0, 2)]),
        (12, [(i, j) for j in range(12) for i in range(j)]),
        (21, [(0, i) for i in range(1, 20)] + [(i, 20) for i in range(1, 20)]),
    ],
)
def test_degenerate_graphs(nodes: int, edges: list[tuple[int, int]], virtual: bool) -> None:
    topology = topology_of(graph_of(nodes, edges), cutoff=50 if virtual else 1)
    assert_same_sweep(topology, weights_on_device(8, virtual), 8)


def test_more_senders_than_are_gathered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain whose ends are more than 50 hops apart, with messages from more than two blocks of senders."""
    share = 4 if DEVICE == "cpu" else 1  # interpreted, each node takes long: blocks are smaller
    monkeypatch.setattr(sweep, "GATHERED", sweep.GATHERED // share)
    nodes = max(64, 128 // share + 12)
    chain = [(i, i + 1) for i in range(nodes - 1)]
    skips = [(i, i + 4) for i in range(0, nodes - 4, 4)]
    topology = topology_of(graph_of(nodes, sorted(chain + skips)))
    assert np.diff(topology.band_offsets).max() > 128 // share
    assert_same_sweep(topology, weights_on_device(32, True), 32)


@pytest.mark.parametrize("cutoff", [1, 2, 3])
def test_virtual_edges_of_a_shorter_reach(cutoff: int) -> None:
    topology = topology_of(random_graph(0, 7, 2, 2), cutoff=cutoff)
    assert_same_sweep(topology, weights_on_device(16, True), 16)


def test_results_are_the_same_in_every_run_and_in_every_batch() -> None:
    graphs = [random_graph(seed, 4, 3, 1) for seed in range(3)]
    weights = weights_on_device(16, True)
    states = [torch.randn(len(graph), 16, generator=torch.Generator().manual_seed(len(graph))) for graph in graphs]

    def swept(topology: Topology, states: torch.Tensor) -> list[torch.Tensor]:
        states = states.to(DEVICE).requires_grad_()
        final = gated_sweep(states, topology, weights)
        return [final.detach(), *torch.autograd.grad(final.square().sum(), [states, *tensors_of(weights)])]

    first, second = (swept(topology_of(*graphs), torch.cat(states)) for _ in range(2))
    assert all(map(torch.equal, first, second))
    alone = [swept(topology_of(graph), x)[0] for graph, x in zip(graphs, states, strict=True)]
    assert torch.equal(torch.cat(alone), first[0])


def test_without_gradients_nothing_is_kept() -> None:
    topology, weights = topology_of(random_graph(1, 3, 2, 1)), weights_on_device(8, True)
    states = torch.randn(len(topology.levels), 8, device=DEVICE)
    arguments = states, tensors_of(weights), triton_tables(topology, states.device), topology.cutoff
    with torch.no_grad():
        (final,) = gated_sweep_op(*arguments, False, topology.largest)
        assert torch.equal(gated_sweep(states, topology, weights), final)
        kept = gated_sweep_op(*arguments, True, topology.largest)
    assert len(kept) == 5
    assert torch.equal(kept[0], final)


def test_operator() -> None:
    """Schema, fake implementation, autograd registration and torch.compile's view of the operator."""
    topology, weights = topology_of(random_graph(1, 3, 2, 1), random_graph(2, 2, 2, 1)), weights_on_device(8, True)
    states = torch.randn(len(topology.levels), 8, device=DEVICE, requires_grad=True)
    tables = triton_tables(topology, states.device)
    arguments = states, tensors_of(weights), tables, topology.cutoff, True, topology.largest
    torch.library.opcheck(gated_sweep_op, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round(dtype: torch.dtype) -> None:
    """States may come rounded; everything in the sweep, and its gradients, are float32."""
    topology, weights = topology_of(random_graph(1, 3, 2, 1)), weights_on_device(8, True)
    rounded = torch.randn(len(topology.levels), 8, device=DEVICE).to(dtype).requires_grad_()
    with torch.autocast(DEVICE, dtype=dtype):
        found = gated_sweep(rounded, topology, weights)
        grads = torch.autograd.grad(found.square().sum(), [rounded, *tensors_of(weights)])
    assert found.dtype == torch.float32
    assert [grad.dtype for grad in grads] == [dtype] + [torch.float32] * 12
    wanted = naive_gated_sweep(rounded.float(), topology, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(wanted.square().sum(), tensors_of(weights))
    for grad, other in zip(grads[1:], expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5 * max(1, float(other.abs().max())))


def test_what_triton_does_not_take() -> None:
    topology = topology_of(random_graph(1, 3, 2, 1))
    states = torch.randn(len(topology.levels), 8, dtype=torch.float64, device=DEVICE)
    with pytest.raises(BackendError, match=r"'triton', and the GHN is torch\.float64; float32 is accepted"):
        gated_sweep(states, topology, sweep_weights(8, True, torch.float64, device=DEVICE))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_nan_reaches_whatever_it_is_sent_to() -> None:
    topology, weights = topology_of(graph_of(4, [(0, 1), (1, 2), (2, 3)])), weights_on_device(8, True)
    states = torch.randn(4, 8, device=DEVICE)
    states[0, 3] = float("nan")
    with torch.no_grad():
        assert gated_sweep(states, topology, weights).isnan().any(1).all()


def test_tables_that_inference_made_serve_training() -> None:
    topology, weights = topology_of(random_graph(1, 3, 2, 1)), weights_on_device(8, True)
    states = torch.randn(len(topology.levels), 8, device=DEVICE)
    with torch.inference_mode():
        gated_sweep(states, topology, weights)
    gated_sweep(states.clone().requires_grad_(), topology, weights).sum().backward()
