"""kernels/chain.cu: its source, lane by lane on the CPU, against the definition; its launcher's arithmetic."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import emulation
from helpers.golden_data import golden_ghn
from helpers.golden_models import sized_model
from helpers.graphs import DEGENERATE, graph_of, random_graph, sweep_weights, tensors_of, topology_of
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
@pytest.mark.parametrize(("nodes", "edges"), DEGENERATE)
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


@pytest.mark.usefixtures("emulated_gpu")
def test_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches of other states, one after the other, by one launch of the driver's; nothing of them stays."""
    library = emulation.emulated(chain.macros(2, 32, 16, False))
    monkeypatch.setattr(driver, "library", lambda: library)
    topology, weights = topology_of(random_graph(3, 4, 3, 2), graph_of(1, [])), fixed_weights(32, True)
    walk = chain.Walk(tensors_of(weights), triton_tables(topology, CPU), topology.cutoff, topology.largest, 32)
    first = states_of(topology, 32)
    middle, final, after = (torch.empty_like(first) for _ in range(3))
    nodes = [walk.node(first, middle, final), walk.node(final, middle, after)]
    assert library.emulated_graphs() == 0
    recording = driver.Recording(torch.device("cuda", 0), nodes)
    for states in (first.clone(), first.flip(0)):
        first.copy_(states)
        recording.launch()
        wanted = naive_gated_sweep(states, topology, weights)
        torch.testing.assert_close(final, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after, naive_gated_sweep(wanted, topology, weights), rtol=1e-5, atol=1e-5)
    assert library.emulated_graphs() == 1
    too_much = nodes[1]._replace(shared=1 << 20)
    with pytest.raises(BackendError, match="NVIDIA's driver: invalid argument"):
        driver.Recording(torch.device("cuda", 0), [nodes[0], too_much])
    assert library.emulated_graphs() == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # as after a fork
        driver.forget(library, recording.handle, 1)
        assert library.emulated_graphs() == 1
    del recording
    assert library.emulated_graphs() == 0


@pytest.mark.usefixtures("emulated_gpu")
@pytest.mark.parametrize("first", ["compile", "record", "launch", "launch a recording"])
def test_a_thread_that_has_not_used_the_gpu_before(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """It has no context: NVIDIA's driver does not make up for that, as the runtime does."""
    library = emulation.emulated(chain.macros(2, 32, 16, False))
    monkeypatch.setattr(driver, "library", lambda: library)
    topology, weights = topology_of(random_graph(3, 4, 3, 2)), fixed_weights(32, True)
    tables, states = triton_tables(topology, CPU), states_of(topology, 32)
    middle, final = torch.empty_like(states), torch.empty_like(states)

    def in_thread(name: str, function: Callable[[], Any]) -> Any:
        found: list[Any] = []
        if name != first:
            return function()
        thread = threading.Thread(target=lambda: found.append(function()))
        thread.start()
        thread.join()
        return found[0]

    walk = in_thread("compile", lambda: chain.Walk(tensors_of(weights), tables, topology.cutoff, topology.largest, 32))
    nodes = [walk.node(states, middle, final)]
    recording = in_thread("record", lambda: driver.Recording(torch.device("cuda", 0), nodes))
    in_thread("launch", lambda: walk(states, middle, final))
    wanted = naive_gated_sweep(states, topology, weights)
    torch.testing.assert_close(final, wanted, rtol=1e-5, atol=1e-5)
    final.zero_()
    in_thread("launch a recording", recording.launch)
    torch.testing.assert_close(final, wanted, rtol=1e-5, atol=1e-5)


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
