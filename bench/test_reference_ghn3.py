"""GHN-3-T beside its published code (ghn3, and what it needs), where the caller's PYTHONPATH has it.

The same weights and models. The published code is run as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.graphs import graph_of
from sizes import size
from turns import versus

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.nn.names import with_published_names

pytest.importorskip("ppuda", reason="what the published code needs (ppuda) is not on PYTHONPATH")
pytest.importorskip("ghn3", reason="the published code of GHN-3 (ghn3) is not on PYTHONPATH")
from ghn3.nn import GHN3
from test_reference import make, quietly

# The torchvision models that the published code predicts, of those that the tests hold to its numbers.
MODELS = """
    resnet18 resnet50 resnext50_32x4d vgg11 vgg16_bn alexnet densenet121 mobilenet_v2 mobilenet_v3_small mnasnet0_5
    shufflenet_v2_x1_0 squeezenet1_0 googlenet regnet_x_400mf regnet_y_400mf efficientnet_b0 convnext_tiny
    vit_b_16 swin_t
""".split()


@pytest.fixture(scope="session")
def reference(ghn3: ghnfast.GHN) -> Any:
    """The published GHN with the weights of ours."""
    made = GHN3(**{**ghn3.config, "hypernet": "gatedgnn"}, debug_level=0).eval()
    made.load_state_dict(with_published_names(ghn3.state_dict()))
    return made


@pytest.mark.parametrize("name", size(MODELS, MODELS[:1]))
def test_model(benchmark: Any, ghn3: ghnfast.GHN, reference: Any, name: str) -> None:
    ours, theirs = make(name), make(name)
    theirs.eval()

    def published() -> None:
        with torch.no_grad():
            quietly(reference, theirs)

    benchmark.extra_info.update(model=name)
    medians = versus(benchmark, lambda: ghn3.predict(ours), {"reference": published}, 5)
    benchmark.extra_info["times_faster"] = medians["reference"] / medians["main"]


def test_xl(benchmark: Any, ghn3_xl: ghnfast.GHN) -> None:
    reference = GHN3(**{**ghn3_xl.config, "hypernet": "gatedgnn"}, debug_level=0).eval()
    reference.load_state_dict(with_published_names(ghn3_xl.state_dict()))
    ours, theirs = make("resnet50"), make("resnet50").eval()

    def published() -> None:
        with torch.no_grad():
            quietly(reference, theirs)

    benchmark.extra_info.update(model="resnet50")
    medians = versus(benchmark, lambda: ghn3_xl.predict(ours), {"reference": published}, 3)
    benchmark.extra_info["times_faster"] = medians["reference"] / medians["main"]


@pytest.mark.parametrize("nodes", [127, 307, 1000])
def test_node_states(benchmark: Any, ghn3: ghnfast.GHN, reference: Any, nodes: int) -> None:
    """Of a chain with skips: ours from primitives and shapes on, theirs from the embedding on."""
    edges = [(node - 1, node) for node in range(1, nodes)] + [(node - 4, node) for node in range(4, nodes, 3)]
    batch = GraphBatch([graph_of(nodes, edges)])
    sources, targets, distances = batch.topology(ghn3.gnn.cutoff).pairs()
    matrix = np.zeros((1, nodes, nodes), dtype=np.int64)
    matrix[0, sources, targets] = distances
    paths, mask = torch.from_numpy(matrix), torch.ones(1, nodes, nodes, dtype=torch.bool)
    with torch.no_grad():
        initial, native = ghn3.initial_states(batch), ghn3.native()

        def published() -> torch.Tensor:
            states: torch.Tensor = reference.ln(reference.gnn(initial[None].clone(), paths, mask)[0])
            return states

        torch.testing.assert_close(ghn3.node_states(batch, native), published(), rtol=1e-4, atol=1e-4)
        medians = versus(benchmark, lambda: ghn3.node_states(batch, native), {"reference": published}, 21)
    benchmark.extra_info.update(nodes=nodes, times_faster=medians["reference"] / medians["main"])
