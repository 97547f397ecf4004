"""Beside the published implementation (ppuda), where the caller's PYTHONPATH has it: the same weights and models.

The published code is run as it is. It changes the modules that it predicts, so each side has its own.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from helpers.graphs import graph_of
from numpy.typing import NDArray
from sizes import size
from torch import nn
from turns import versus

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.nn.names import with_published_names
from ghnfast.profiling import fill

pytest.importorskip("ppuda", reason="the published implementation (ppuda) is not on PYTHONPATH")
from ppuda.deepnets1m.graph import Graph
from ppuda.deepnets1m.graph import GraphBatch as ReferenceBatch
from ppuda.ghn.nn import GHN as ReferenceGHN

# The published code raises errors of its own on these: for shapes that its decoder cannot view, for torch's vision
# transformers, or for nodes that do not reach the end of its graph.
UNSUPPORTED = """
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m maxvit_t regnet_y_400mf swin_b swin_s
    swin_t swin_v2_b swin_v2_s swin_v2_t vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32
""".split()
SUPPORTED = [name for name in torchvision.models.list_models(torchvision.models) if name not in UNSUPPORTED]


@pytest.fixture(scope="session")
def reference(ghn: ghnfast.GHN) -> Any:
    """The published GHN with the weights of ours."""
    made = ReferenceGHN(**ghn.config, debug_level=0).eval()
    made.load_state_dict(with_published_names(ghn.state_dict()))
    return made


def make(name: str) -> nn.Module:
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **slow)
    # What the published code goes by.
    model.expected_input_sz = 299 if name == "inception_v3" else 224  # type: ignore[assignment]
    return model


def quietly(function: Any, *args: Any) -> Any:
    """The published code prints notices."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_sweep(benchmark: Any, ghn: ghnfast.GHN, reference: Any, name: str) -> None:
    """Message passing alone, over the published implementation's graph."""
    batch = quietly(lambda: ReferenceBatch([Graph(make(name), ve_cutoff=50)])).to_device("cpu")
    edges = batch.edges.numpy()
    adjacent = edges[edges[:, 2] == 1][:, :2]
    order = by_level(len(batch.node_feat), adjacent)
    position = np.argsort(order)
    graph = GraphBatch([graph_of(len(order), position[adjacent])])
    states = torch.randn(len(order), ghn.primitive_embedding.embedding_dim)
    sorted_states = states[order]

    def theirs() -> torch.Tensor:
        return reference.gnn(states, batch.edges, batch.node_feat[:, 1])

    def ours() -> torch.Tensor:
        return ghn.gnn(sorted_states, graph)

    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs()[order], rtol=1e-4, atol=1e-5)
        medians = versus(benchmark, ours, {"reference": theirs}, 41)
    benchmark.extra_info.update(model=name, times_faster=medians["reference"] / medians["main"])


def by_level(nodes: int, edges: NDArray[Any]) -> NDArray[Any]:
    """The nodes in order of the longest path to them, in the order they have."""
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in edges[np.argsort(edges[:, 1], kind="stable")].tolist():
        level[target] = max(level[target], level[source] + 1)
    return np.argsort(level, kind="stable")


@pytest.mark.parametrize("name", size(SUPPORTED, SUPPORTED[:1]))
def test_model(benchmark: Any, ghn: ghnfast.GHN, reference: Any, name: str) -> None:
    ours, theirs = make(name), make(name)
    theirs.eval()  # so that batch statistics are not estimated from the random image it runs
    others = {"reference": lambda: quietly(reference, theirs), "fill": fill(ours)}
    benchmark.extra_info.update(model=name, parameters=sum(parameter.numel() for parameter in ours.parameters()))
    medians = versus(benchmark, lambda: ghn.predict(ours), others, 7)
    benchmark.extra_info["times_faster"] = medians["reference"] / medians["main"]
