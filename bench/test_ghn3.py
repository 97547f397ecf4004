"""GHN-3-T: predictions beside the least they could take and beside its published code, and its layers alone."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from helpers.graphs import graph_of
from helpers.models import torchvision_model
from sizes import size
from torch import Tensor
from turns import versus

import ghnfast
from ghnfast.graph import MAX_DISTANCE, GraphBatch
from ghnfast.nn.graphormer import NO_PATH, Graphormer, GraphormerLayer
from ghnfast.nn.names import with_published_names
from ghnfast.ops.attention import naive_attention, relations_of
from ghnfast.profiling import Stage, stages

SETTINGS: dict[str, Any] = {"max_shape": (64, 64, 16, 16), "hid": 64, "layers": 3, "heads": 8}
MODELS = ("resnet50", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "squeezenet1_1")
# The torchvision models that the published code predicts, of those that the tests hold to its numbers.
PUBLISHED = """
    resnet18 resnet50 resnext50_32x4d vgg11 vgg16_bn alexnet densenet121 mobilenet_v2 mobilenet_v3_small mnasnet0_5
    shufflenet_v2_x1_0 squeezenet1_0 googlenet regnet_x_400mf regnet_y_400mf efficientnet_b0 convnext_tiny
    vit_b_16 swin_t
""".split()


@pytest.fixture(scope="session")
def ghn3() -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(hypernet="graphormer", **SETTINGS).eval()


@pytest.mark.parametrize("name", MODELS)
def test_model(benchmark: Any, ghn3: ghnfast.GHN, name: str) -> None:
    functions = stages(torchvision_model(name), ghn3)
    benchmark.extra_info.update(model=name)
    versus(benchmark, functions.pop("given"), functions, 15)


def biases_of_pairs(layer: GraphormerLayer, codes: Tensor) -> Tensor:
    """(heads, n, n): the bias of every pair by the MLP, as the published code computes it."""
    forward = torch.where(codes <= MAX_DISTANCE, codes, 0) + NO_PATH
    backward = torch.where(codes > MAX_DISTANCE, codes - MAX_DISTANCE, 0) + NO_PATH
    rows = layer.attn.edge_embed.embed.weight[torch.stack([forward, backward], -1)]
    return layer.attn.proj_e(rows.flatten(2)).permute(2, 0, 1)


@pytest.mark.parametrize("nodes", [127, 307, 1000])
def test_node_states(benchmark: Any, ghn3: ghnfast.GHN, nodes: int) -> None:
    """The layers, of a chain with skips: with the table of biases in C++ and in plain PyTorch, and without it."""
    edges = [(node - 1, node) for node in range(1, nodes)] + [(node - 4, node) for node in range(4, nodes, 3)]
    batch = GraphBatch([graph_of(nodes, edges)])
    hypernet = ghn3.gnn
    assert isinstance(hypernet, Graphormer)
    states = torch.randn(nodes, SETTINGS["hid"])
    layers: list[Any] = list(hypernet.children())
    relations = relations_of(batch.topology())
    codes = torch.from_numpy(relations.matrices()[0]).long()

    def attended(layer: Any, x: Tensor, table: Tensor) -> Tensor:
        x = x + layer.attn.to_out(naive_attention(layer.attn.to_qkv(layer.ln1(x)), table, relations))
        result: Tensor = x + layer.ff(layer.ln2(x))
        return result

    def with_table() -> Tensor:
        x, table = states + layers[0].positions(batch, hypernet.cutoff), layers[0].attn.bias_table()
        for layer in layers:
            x = attended(layer, x, table)
        return x

    def with_pairs() -> Tensor:
        x, bias = states + layers[0].positions(batch, hypernet.cutoff), biases_of_pairs(layers[0], codes)
        for layer in layers:
            query, key, value = (
                layer.attn.to_qkv(layer.ln1(x)).view(nodes, 3, SETTINGS["heads"], -1).permute(1, 2, 0, 3)
            )
            share = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5 + bias, -1)
            x = x + layer.attn.to_out((share @ value).permute(1, 0, 2).flatten(1))
            x = x + layer.ff(layer.ln2(x))
        return x

    functions: dict[str, Stage] = {"table in PyTorch": with_table, "every pair in PyTorch": with_pairs}
    with torch.no_grad():
        for other in functions.values():
            torch.testing.assert_close(hypernet(states, batch), other(), rtol=1e-4, atol=1e-4)
        medians = versus(benchmark, lambda: hypernet(states, batch), functions, 9)
    benchmark.extra_info.update(
        nodes=nodes, times_faster={name: value / medians["main"] for name, value in medians.items() if name != "main"}
    )


@pytest.mark.parametrize("name", size(PUBLISHED, PUBLISHED[:1]))
def test_reference(benchmark: Any, ghn3: ghnfast.GHN, name: str) -> None:
    """Beside the published code of GHN-3, where PYTHONPATH has it and what it needs."""
    if not all(map(importlib.util.find_spec, ("ghn3", "ppuda"))):
        pytest.skip("the published code of GHN-3 is not on PYTHONPATH")
    from ghn3.nn import GHN3
    from test_reference import make, quietly

    reference = GHN3(num_classes=1000, weight_norm=True, ve=True, layernorm=True, debug_level=0, **SETTINGS).eval()
    reference.load_state_dict(with_published_names(ghn3.state_dict()))
    ours, theirs = make(name), make(name)
    theirs.eval()

    def published() -> None:
        with torch.no_grad():
            quietly(reference, theirs)

    benchmark.extra_info.update(model=name)
    medians = versus(benchmark, lambda: ghn3.predict(ours), {"reference": published}, 5)
    benchmark.extra_info["times_faster"] = medians["reference"] / medians["main"]
