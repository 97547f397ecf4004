"""On a GPU: no waiting, CUDA graphs, models and GHNs on different devices, large graphs, rounding."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.attention import assert_same_attention, attention_inputs
from helpers.children import environment
from helpers.decoding import TARGETS, make
from helpers.graphs import assert_same_sweep, graph_of, random_graph, sweep_weights, tensors_of, topology_of
from torch import nn

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.ops.attention import attention, naive_attention, relations_of
from ghnfast.ops.decode import DecodeSource, decode, decode_into
from ghnfast.ops.sweep import GruWeights, MlpWeights, SweepWeights, gated_sweep, naive_gated_sweep
from ghnfast.prediction import prepare

DEVICE = torch.device("cuda")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever waits for the GPU raises an error."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def leaves(source: DecodeSource) -> DecodeSource:
    return DecodeSource(*(tensor.detach().requires_grad_() for tensor in source))


def sweep_problem() -> tuple[torch.Tensor, Any, Any]:
    topology = topology_of(*(random_graph(seed, 12, 4, 2) for seed in range(4)))
    weights = sweep_weights(32, True, device="cuda")
    for weight in tensors_of(weights):
        weight.detach_().requires_grad_()
    return torch.randn(len(topology.levels), 32, device=DEVICE), topology, weights


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_operators_do_not_wait(no_waiting: None) -> None:
    states, topology, weights = sweep_problem()
    states.requires_grad_()
    source, targets = make(TARGETS, device="cuda")
    source = leaves(source)
    relations = relations_of(topology)
    qkv, table, _ = attention_inputs(relations, 8, 8, device="cuda")
    qkv, table = (tensor.detach().requires_grad_() for tensor in (qkv, table))

    def run() -> None:
        attention(qkv, table, relations).sum().backward()
        gated_sweep(states, topology, weights).sum().backward()
        sum(value.sum() for value in decode(source, targets)).backward()

    run()  # brings the tables to the device
    torch.cuda.set_sync_debug_mode("error")
    run()


@pytest.mark.parametrize("kind", ["cuda", "triton"])
@pytest.mark.parametrize("virtual", [True, False])
def test_kinds_of_sweeps(monkeypatch: pytest.MonkeyPatch, kind: str, virtual: bool) -> None:
    monkeypatch.setenv("GHNFAST_SWEEP", kind)
    graphs = [random_graph(seed, 12, 4, 2) for seed in range(4)]
    graphs += [graph_of(1, []), graph_of(60, [(i, j) for j in range(60) for i in range(max(j - 9, 0), j)])]
    topology = topology_of(*graphs, cutoff=50 if virtual else 1)
    for hid in (8, 20, 32):
        assert_same_sweep(topology, sweep_weights(hid, virtual, device="cuda"), hid)


@pytest.mark.parametrize("kinds", [("cuda", "cuda"), ("cuda", "triton"), ("triton", "cuda")])
@pytest.mark.parametrize("virtual", [True, False])
def test_gradients_are_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, str], virtual: bool
) -> None:
    """Of a forward and a backward pass of kinds of their own: what is not ordered would show, sooner or later."""
    graphs = [random_graph(seed, 12, 4, 2) for seed in range(20)]
    chain = [(i, i + 1) for i in range(119)]
    graphs += [graph_of(size, []) for size in range(1, 12)] + [graph_of(120, chain)]
    topology, weights = topology_of(*graphs), sweep_weights(32, virtual, device="cuda")
    # With these numbers no input of a ReLU is as near to zero as rounding reaches: there, gradients jump.
    generator = torch.Generator().manual_seed(0)
    states, grad = (torch.randn(len(topology.levels), 32, generator=generator).to(DEVICE) for _ in range(2))
    inputs = [states.requires_grad_(), *tensors_of(weights)]

    def gradients() -> list[torch.Tensor]:
        monkeypatch.setenv("GHNFAST_SWEEP", kinds[0])
        found = gated_sweep(inputs[0], topology, weights)
        monkeypatch.setenv("GHNFAST_SWEEP", kinds[1])
        return list(torch.autograd.grad(found, inputs, grad))

    first = gradients()
    wanted = torch.autograd.grad(naive_gated_sweep(inputs[0], topology, weights), inputs, grad)
    for ours, theirs in zip(first, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * max(1, float(theirs.abs().max())))
    for _ in range(200):
        assert all(map(torch.equal, first, gradients()))


NEW_THREADS = """
import threading, torch
from helpers.graphs import random_graph, sweep_weights, topology_of
from ghnfast.ops.sweep import gated_sweep

topology, weights = topology_of(random_graph(0, 12, 4, 2)), sweep_weights(32, True, device="cuda")
states = torch.randn(len(topology.levels), 32, device="cuda", requires_grad=True)
grad = torch.randn_like(states)
# The first that autograd's thread does.
torch.autograd.backward(gated_sweep(states, topology, weights), grad)
found = []
thread = threading.Thread(target=lambda: found.append(gated_sweep(states.detach(), topology, weights)))
thread.start()
thread.join()
torch.cuda.synchronize()
assert found and states.grad is not None
"""


def test_threads_that_have_called_nothing_of_cuda() -> None:
    settings = environment(GHNFAST_SWEEP="cuda")
    run = subprocess.run([sys.executable, "-c", NEW_THREADS], env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_one_graph_from_the_cpu(ghn_imagenet: ghnfast.GHN, monkeypatch: pytest.MonkeyPatch) -> None:
    ghn, batch = copy.deepcopy(ghn_imagenet).cuda(), GraphBatch([ghnfast.trace(network())])
    found = {}
    with torch.no_grad():
        for kind in ("cpp", "cuda", "triton"):
            monkeypatch.setenv("GHNFAST_SWEEP", kind)
            found[kind] = ghn.node_states(batch, None)
        wanted = ghn_imagenet.node_states(batch, None)
    for states in found.values():
        torch.testing.assert_close(states.cpu(), wanted, rtol=1e-5, atol=1e-5)
    assert ghn.host_form.known is not None


def test_cuda_graph_of_a_sweep() -> None:
    states, topology, weights = sweep_problem()
    with torch.no_grad():
        gated_sweep(states, topology, weights)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = gated_sweep(states, topology, weights)
        states.copy_(torch.randn_like(states))
        weights.gru.weight_input.mul_(0.5)
        graph.replay()
        torch.testing.assert_close(captured, naive_gated_sweep(states, topology, weights), rtol=1e-5, atol=1e-5)


def test_cuda_graph_of_attention() -> None:
    relations = relations_of(sweep_problem()[1])
    qkv, table = (tensor.detach() for tensor in attention_inputs(relations, 8, 8, device="cuda")[:2])
    attention(qkv, table, relations)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attention(qkv, table, relations)
    qkv.copy_(torch.randn_like(qkv))
    table.mul_(-0.5)
    graph.replay()
    torch.testing.assert_close(captured, naive_attention(qkv, table, relations), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("heads", "width"), [(8, 8), (16, 24)])
def test_attention_in_a_large_graph(heads: int, width: int) -> None:
    size = 1000
    relations = relations_of(topology_of(graph_of(size, [(i, i + 1) for i in range(size - 1)]), graph_of(1, [])))
    qkv, table, grad = attention_inputs(relations, heads, width, device="cuda")
    assert_same_attention(relations, qkv, table, grad)
    first, again = (torch.autograd.grad(attention(qkv, table, relations), [qkv, table], grad) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_cuda_graph_of_decoding() -> None:
    source, targets = make(TARGETS, device="cuda")
    source = DecodeSource(*(tensor.detach() for tensor in source))
    outputs = [torch.zeros(t.out, t.in_, t.cells, 1, device=DEVICE) for t in targets]
    with torch.no_grad():
        decode_into(source, targets, outputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decode_into(source, targets, outputs)
        source.hidden.mul_(-0.5)
        graph.replay()
        for output, wanted in zip(outputs, decode(source, targets), strict=True):
            torch.testing.assert_close(output[..., 0], wanted, rtol=1e-5, atol=1e-5)
        before = [output.clone() for output in outputs]
        source.hidden[0, 0] = float("nan")
        graph.replay()
    assert all(map(torch.equal, outputs, before))


def network() -> nn.Module:
    convolutions = nn.Conv2d(3, 70, 7), nn.BatchNorm2d(70), nn.ReLU(), nn.Conv2d(70, 130, 1), nn.Conv2d(130, 8, 3)
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000))


@pytest.mark.parametrize("model_device", ["cpu", "cuda"])
@pytest.mark.parametrize("ghn_device", ["cpu", "cuda"])
def test_devices(ghn_imagenet: ghnfast.GHN, ghn_device: str, model_device: str) -> None:
    expected = ghn_imagenet.predict(network())
    model = copy.deepcopy(ghn_imagenet).to(ghn_device).predict(network().to(model_device))
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6, msg=partial("{}: {}".format, name))


def test_gradients_of_a_whole_ghn(ghn_imagenet: ghnfast.GHN) -> None:
    batch = GraphBatch([ghnfast.trace(network())])

    def gradients(device: str) -> dict[str, torch.Tensor]:
        ghn = copy.deepcopy(ghn_imagenet).to(device)
        job = prepare([network().to(device)], [ghnfast.tracing.members.members_of(network())], batch, True, ghn.request)
        source = ghn.decode_source(ghn.node_states(batch, None), job.layout, None)
        sum(value.square().sum() for value in decode(source, job.layout.targets)).backward()
        return {name: p.grad.cpu() for name, p in ghn.named_parameters() if p.grad is not None}

    ours, wanted = gradients("cuda"), gradients("cpu")
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))


@pytest.mark.parametrize("kind", ["chain", "dense"])
def test_large_graphs(kind: str) -> None:
    size = 10_000 if kind == "chain" else 400
    chain = np.stack([np.arange(size - 1), np.arange(1, size)], axis=1)
    edges = chain if kind == "chain" else np.stack(np.triu_indices(size, 1), axis=1)
    topology = topology_of(graph_of(size, edges))
    weights = sweep_weights(32, True, device="cuda")
    with torch.no_grad():
        for weight in tensors_of(weights):
            weight /= 1 + len(edges) / 5000  # sums of hundreds of messages saturate the gates
        states = torch.randn(size, 32, device=DEVICE)
        found = gated_sweep(states, topology, weights)
        virtual = None if weights.virtual is None else MlpWeights(*(w.double() for w in weights.virtual))
        direct, gru = MlpWeights(*(w.double() for w in weights.direct)), GruWeights(*(w.double() for w in weights.gru))
        wanted = naive_gated_sweep(states.double(), topology, SweepWeights(direct, virtual, gru))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_second_gpu(ghn_imagenet: ghnfast.GHN) -> None:
    expected = ghn_imagenet.predict(network())
    model = copy.deepcopy(ghn_imagenet).to("cuda:1").predict(network().to("cuda:1"))
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6)
