"""kernels/chain.cu: its source, lane by lane on the CPU, against the definition; its launcher's arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from helpers import emulation
from helpers.golden_data import golden_ghn
from helpers.golden_models import sized_model
from helpers.graphs import graph_of, random_graph, sweep_weights, tensors_of, topology_of
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast.errors import BackendError
from ghnfast.graph import GraphBatch, Topology
from ghnfast.kernels import chain, driver, nvrtc, sweep
from ghnfast.nn.sweep import GatedSweep
from ghnfast.ops.sweep import SweepWeights, naive_gated_sweep, triton_tables

CPU = torch.device("cpu")
H100 = 227 * 1024  # bytes of shared memory that a block may ask for


def fixed_weights(hid: int, virtual: bool, seed: int = 0) -> SweepWeights:
    weights = sweep_weights(hid, virtual, seed=seed)
    for weight in tensors_of(weights):
        weight.detach_()
    return weights


def states_of(topology: Topology, hid: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(topology.levels), hid, generator=torch.Generator().manual_seed(seed))


def swept(topology: Topology, weights: SweepWeights, states: torch.Tensor, seed: int, keep: bool) -> list[torch.Tensor]:
    tables = triton_tables(topology, CPU)
    return emulation.gated_sweep(states, tensors_of(weights), tables, topology.cutoff, keep, seed)


def assert_right(topology: Topology, weights: SweepWeights, seed: int = 0, keep: bool = True) -> None:
    hid = weights.gru.weight_input.shape[1]
    states = states_of(topology, hid, seed)
    found, *_ = swept(topology, weights, states, seed, keep)
    torch.testing.assert_close(found, naive_gated_sweep(states, topology, weights), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3),
    case=st.sampled_from([(32, True), (32, False), (12, True)]),
    cutoff=st.sampled_from([1, 2, 3, 50]),
)
def test_random_batches(seed: int, shapes: list[tuple[int, int, int]], case: tuple[int, bool], cutoff: int) -> None:
    graphs = [random_graph(seed + index, *shape) for index, shape in enumerate(shapes)]
    assert_right(topology_of(*graphs, cutoff=cutoff), fixed_weights(*case, seed=seed), seed)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        (1, []),
        (2, []),
        (2, [(0, 1)]),
        (5, []),  # one level
        (3, [(0, 2)]),
        (40, [(i, j) for j in range(40) for i in range(j)]),  # everybody sends to all that follow
        (21, [(0, i) for i in range(1, 20)] + [(i, 20) for i in range(1, 20)]),
    ],
)
def test_degenerate_graphs(nodes: int, edges: list[tuple[int, int]], virtual: bool) -> None:
    weights = fixed_weights(32, virtual)
    for weight in tensors_of(weights):
        weight /= 1 + len(edges) / 200  # sums of many messages saturate the gates
    assert_right(topology_of(graph_of(nodes, edges)), weights)


def test_a_thousand_nodes() -> None:
    nodes = 1000
    chained = [(i, i + 1) for i in range(nodes - 1)]
    skips = [(i, i + 4) for i in range(0, nodes - 4, 4)]
    assert_right(topology_of(graph_of(nodes, sorted(chained + skips)), cutoff=12), fixed_weights(32, True), keep=False)


def test_more_senders_than_are_loaded_at_once() -> None:
    nodes = 300
    chained = [(i, i + 1) for i in range(nodes - 1)]
    skips = [(i, i + 6) for i in range(0, nodes - 6, 6)]
    topology = topology_of(graph_of(nodes, sorted(chained + skips)))
    assert np.diff(topology.band_offsets).max() > 200
    assert_right(topology, fixed_weights(32, True))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_node_states_of_the_golden_ghn(name: str) -> None:
    """Those of the C++ sweep, which the golden numbers are compared with (tests/test_golden.py)."""
    ghn, graph = golden_ghn("ghn2-imagenet"), ghnfast.trace(sized_model(name, "imagenet")[0])
    batch = GraphBatch([graph])
    with torch.no_grad():
        assert isinstance(ghn.gnn, GatedSweep)
        found, *_ = swept(batch.topology(), ghn.gnn.weights, ghn.initial_states(batch), 0, True)
        torch.testing.assert_close(ghn.ln(found), ghn.node_states(batch, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("virtual", [True, False])
def test_what_is_kept_is_what_the_triton_kernel_keeps(virtual: bool) -> None:
    """The backward pass is one for both."""
    topology, weights = topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), fixed_weights(32, virtual)
    states = states_of(topology, 32)
    found = swept(topology, weights, states, 5, True)
    wanted = sweep.gated_sweep(states, tensors_of(weights), triton_tables(topology, CPU), topology.cutoff, True)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_results_depend_neither_on_the_order_of_threads_nor_on_the_batch() -> None:
    graphs = [random_graph(seed, 5, 3, 2) for seed in range(3)]
    topology, weights = topology_of(*graphs), fixed_weights(32, True)
    states = states_of(topology, 32)
    first, *others = (swept(topology, weights, states, seed, True) for seed in range(3))
    for other in others:
        assert all(map(torch.equal, first, other))
    parts = states.split(list(map(len, graphs)))
    alone = [swept(topology_of(graph), weights, x, 7, True)[0] for graph, x in zip(graphs, parts, strict=True)]
    assert torch.equal(torch.cat(alone), first[0])


def test_nan_reaches_whatever_it_is_sent_to_and_nothing_else() -> None:
    topology, weights = topology_of(graph_of(5, [(0, 2), (1, 3), (2, 4)]), cutoff=50), fixed_weights(32, True)
    states = states_of(topology, 32)
    states[0, 3] = float("nan")
    found, *_ = swept(topology, weights, states, 0, True)
    assert found.isnan().any(1).tolist() == [True, False, True, False, True]


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch has a GPU, and its driver runs the kernel on the CPU, whatever binary it is given."""
    library = emulation.emulated(chain.macros(2, 32, 16, True))
    with emulation.gpu(monkeypatch, library):
        yield


@pytest.mark.usefixtures("emulated_gpu")
def test_launching(monkeypatch: pytest.MonkeyPatch) -> None:
    """From tensors through NVRTC and the driver to the kernel."""
    topology, weights = topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), fixed_weights(32, True)
    states, tables = states_of(topology, 32), triton_tables(topology, CPU)
    assert driver.shared_memory(CPU) == H100
    arguments = states, tensors_of(weights), tables, topology.cutoff, True, topology.largest
    found = chain.gated_sweep(*arguments)
    assert all(map(torch.equal, found, swept(topology, weights, states, 0, True)))
    torch.testing.assert_close(found[0], naive_gated_sweep(states, topology, weights), rtol=1e-5, atol=1e-5)
    too_large = (*arguments[:-1], 10_000)
    with pytest.raises(BackendError, match="NVIDIA's driver: invalid argument"):
        chain.gated_sweep(*too_large)
    defined = chain.macros(2, 32, 16, False)
    assert chain.trouble(CPU, defined) == ""
    for function in (chain.function, chain.trouble):
        function.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compiled", lambda *arguments: nvrtc.Compiled(b"not a binary", ""))
        assert chain.trouble(CPU, defined) == "NVIDIA's driver: invalid argument"
    chain.trouble.cache_clear()
    monkeypatch.setattr(chain, "source_of", lambda name: "no C++")
    assert re.match(r"NVRTC does not compile chain\.cu for sm_90: .*error", chain.trouble(CPU, defined), re.DOTALL)


@pytest.mark.usefixtures("emulated_gpu")
@pytest.mark.parametrize("loads", [True, False])
def test_threads_that_have_called_nothing_of_cuda(loads: bool) -> None:
    """Such as autograd's: the driver has no context there, whether kernels have been loaded elsewhere or not."""
    topology, weights = topology_of(random_graph(3, 4, 3, 2)), fixed_weights(32, True)
    states, tables = states_of(topology, 32), triton_tables(topology, CPU)
    arguments = states, tensors_of(weights), tables, topology.cutoff, True, topology.largest
    if not loads:
        chain.gated_sweep(*arguments)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(chain.trouble, CPU, chain.macros(2, 32, 16, True)).result() == ""
        found = thread.submit(chain.gated_sweep, *arguments).result()
    assert all(map(torch.equal, found, swept(topology, weights, states, 0, True)))


@pytest.mark.usefixtures("emulated_gpu")
def test_launching_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch and weights, other states."""
    library = emulation.emulated(chain.macros(2, 32, 16, False))
    monkeypatch.setattr(driver, "library", lambda: library)
    topology, weights = topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), fixed_weights(32, True)
    tables = triton_tables(topology, CPU)
    walk = chain.Walk(tensors_of(weights), tables, topology.cutoff, topology.largest, 32)
    for states in (states_of(topology, 32), states_of(topology, 32).flip(0)):
        wanted = naive_gated_sweep(states, topology, weights)
        middle, final = torch.empty_like(states), torch.empty_like(states)
        walk(states, middle, final)
        torch.testing.assert_close(final, wanted, rtol=1e-5, atol=1e-5)
    assert walk.tables is tables


def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = partial(chain.refusal, largest=300, shared=H100)
    assert refusal(2, 32, 16) == refusal(1, 32, 32) == refusal(2, 8, 4) == refusal(2, 30, 15) == ""
    assert refusal(2, 64, 32) == "states are 64 wide and the MLPs' hidden layers 2 times 32; 32 each are accepted"
    assert refusal(2, 32, 32).startswith("states are 32 wide and the MLPs' hidden layers 2 times 32")
    largest = int(chain.refusal(2, 32, 16, 10_000, H100).split(";")[1].split()[0])
    assert 800 < largest < 900
    assert chain.refusal(2, 32, 16, largest, H100) == ""
    assert chain.shared_bytes(2, largest) <= H100 < chain.shared_bytes(2, largest + 1)
    assert chain.refusal(2, 32, 16, largest + 1, H100) == (
        f"a graph has {largest + 1} nodes; {largest} are accepted, whose messages fit into shared memory"
    )
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    assert refusal(2, 32, 16) == "NVRTC is not installed; pip install nvidia-cuda-nvrtc"
