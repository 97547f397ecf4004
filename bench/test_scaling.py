"""How prediction grows with nodes and with parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.graphs import graph_of
from numpy.typing import NDArray
from sizes import size
from torch import nn
from turns import versus

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.profiling import stages

NODES = {"chain": size((20, 100, 1000, 10_000), (20, 100)), "dense": size((20, 100, 500, 2000), (20, 100))}
MILLIONS = size((1, 10, 100, 600), (1,))


def chain(nodes: int) -> NDArray[Any]:
    return np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)


def dense(nodes: int) -> NDArray[Any]:
    return np.stack(np.triu_indices(nodes, 1), axis=1)


@pytest.mark.parametrize(
    ("kind", "nodes"),
    [*(("chain", nodes) for nodes in NODES["chain"]), *(("dense", nodes) for nodes in NODES["dense"])],
)
def test_nodes(benchmark: Any, ghn: ghnfast.GHN, kind: str, nodes: int) -> None:
    """Shortest paths and the sweep over them; `backward` is the sweep with its gradients."""
    graph = graph_of(nodes, (chain if kind == "chain" else dense)(nodes))
    states = torch.randn(nodes, 32)
    batch = GraphBatch([graph])
    weights = [parameter for name, parameter in ghn.gnn.named_parameters()]

    def both() -> None:
        with torch.no_grad():
            ghn.gnn(states, GraphBatch([graph]))

    def sweep() -> None:
        with torch.no_grad():
            ghn.gnn(states, batch)

    def backward() -> None:
        torch.autograd.grad(ghn.gnn(states, batch).sum(), weights)

    benchmark.extra_info.update(kind=kind, nodes=nodes, edges=len(graph.edges))
    versus(benchmark, both, {"sweep": sweep, "backward": backward}, 15)


@pytest.mark.parametrize("layers", MILLIONS, ids=lambda layers: f"{layers}M")
def test_parameters(benchmark: Any, ghn: ghnfast.GHN, layers: int) -> None:
    """Linear layers of a million parameters each."""
    model = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(layers)))
    run(benchmark, ghn, model)


@pytest.mark.parametrize("width", [32, 100], ids=lambda width: f"{8 * width * width / 1e6:.2f}M")
def test_few_parameters(benchmark: Any, ghn: ghnfast.GHN, width: int) -> None:
    """Eight small layers."""
    run(benchmark, ghn, nn.Sequential(*(nn.Linear(width, width) for _ in range(8))))


def run(benchmark: Any, ghn: ghnfast.GHN, model: nn.Sequential) -> None:
    first = model[0]
    assert isinstance(first, nn.Linear)
    functions = stages(model, ghn, (first.in_features,))
    total = functions.pop("total")
    benchmark.extra_info["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    versus(benchmark, total, functions, 7 if benchmark.extra_info["parameters"] > 10**8 else 15)
