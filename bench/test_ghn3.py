"""GHN-3-T: predictions beside the least they could take, and its layers alone."""

from __future__ import annotations

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
from ghnfast.ops.attention import naive_attention, relations_of
from ghnfast.profiling import Stage, extra_memory, stages

MODELS = ("resnet50", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "squeezenet1_1")


@pytest.mark.parametrize("name", size(MODELS, ("mobilenet_v3_large", "squeezenet1_1")))
def test_model(benchmark: Any, ghn3: ghnfast.GHN, name: str) -> None:
    functions = stages(torchvision_model(name), ghn3)
    benchmark.extra_info.update(model=name)
    versus(benchmark, functions.pop("given"), functions, 15)


# What products predict ResNet-50 with GHN-3-XL: of the decoder, 71.5e9; a number of the model, not a measurement.
XL_OPERATIONS = 72e9


def product_of_matrices(rows: int = 2048) -> Stage:
    matrix = torch.randn(rows, rows)
    return lambda: matrix @ matrix


def test_xl(benchmark: Any, ghn3_xl: ghnfast.GHN) -> None:
    """ResNet-50 beside what torch takes for as many operations in products of square matrices; and its memory."""
    model = torchvision_model("resnet50")
    product = product_of_matrices()
    medians = versus(benchmark, lambda: ghn3_xl.predict(model), {"product": product}, 9)
    operations = XL_OPERATIONS / (2 * 2048**3) * medians["product"]
    memory = extra_memory(lambda: ghn3_xl.predict(model))
    benchmark.extra_info.update(
        model="resnet50", weights=sum(weight.nbytes for weight in ghn3_xl.parameters()), extra_memory=memory,
        share_of_product=operations / medians["main"],
    )  # fmt: skip


def biases_of_pairs(layer: GraphormerLayer, codes: Tensor) -> Tensor:
    """(heads, n, n): the bias of every pair by the MLP, as the published code computes it."""
    forward = torch.where(codes <= MAX_DISTANCE, codes, 0) + NO_PATH
    backward = torch.where(codes > MAX_DISTANCE, codes - MAX_DISTANCE, 0) + NO_PATH
    rows = layer.attn.edge_embed.embed.weight[torch.stack([forward, backward], -1)]
    return layer.attn.proj_e(rows.flatten(2)).permute(2, 0, 1)


@pytest.mark.parametrize("nodes", size((127, 307, 1000), (127,)))
def test_node_states(benchmark: Any, ghn3: ghnfast.GHN, nodes: int) -> None:
    """Of a chain with skips; beside the layers with the table of biases in plain PyTorch, and without it."""
    edges = [(node - 1, node) for node in range(1, nodes)] + [(node - 4, node) for node in range(4, nodes, 3)]
    batch = GraphBatch([graph_of(nodes, edges)])
    hypernet = ghn3.gnn
    assert isinstance(hypernet, Graphormer)
    with torch.no_grad():
        states, native = ghn3.initial_states(batch), ghn3.native()
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
                layer.attn.to_qkv(layer.ln1(x)).view(nodes, 3, ghn3.settings.heads, -1).permute(1, 2, 0, 3)
            )
            share = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5 + bias, -1)
            x = x + layer.attn.to_out((share @ value).permute(1, 0, 2).flatten(1))
            x = x + layer.ff(layer.ln2(x))
        return x

    functions: dict[str, Stage] = {"table in PyTorch": with_table, "every pair in PyTorch": with_pairs}
    with torch.no_grad():
        for other in functions.values():
            torch.testing.assert_close(ghn3.node_states(batch, native), ghn3.ln(other()), rtol=1e-4, atol=1e-4)
        medians = versus(benchmark, lambda: ghn3.node_states(batch, native), functions, 9)
    benchmark.extra_info.update(
        nodes=nodes, times_faster={name: value / medians["main"] for name, value in medians.items() if name != "main"}
    )
