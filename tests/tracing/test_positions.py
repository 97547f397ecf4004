"""Position encodings and biases."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import A, C, TokenNet, check, conv, linear, trace, weight
from torch import Tensor, nn

POSITIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "(1, n, d)": (lambda m, x: x + m.pos, (1, 16, 8)),
    "first": (lambda m, x: m.pos + x, (1, 16, 8)),
    "in place": (lambda m, x: x.add_(m.pos), (1, 16, 8)),
    "augmented": (lambda m, x: functools.reduce(lambda a, b: a.__iadd__(b), [x, m.pos]), (1, 16, 8)),
    "(n, d)": (lambda m, x: x + m.pos, (16, 8)),
    "(n, d) unsqueezed": (lambda m, x: x + m.pos.unsqueeze(0), (16, 8)),
    "sliced": (lambda m, x: x + m.pos[:, : x.shape[1]], (1, 20, 8)),
    "sliced (n, d)": (lambda m, x: x + m.pos[: x.shape[1]], (20, 8)),
    "resampled": (
        lambda m, x: x + F.interpolate(m.pos.view(1, 2, 2, 8).permute(0, 3, 1, 2), (4, 4)).flatten(2).mT,
        (1, 4, 8),
    ),
    "expanded": (lambda m, x: x + m.pos.expand_as(x), (1, 16, 8)),
    "in another's shape": (lambda m, x: x + m.pos.view_as(x[0]).reshape_as(x[:1]), (128, 1)),
    "broadcast": (lambda m, x: functools.reduce(torch.add, torch.broadcast_tensors(x, m.pos)), (1, 16, 8)),
    "with dropout": (lambda m, x: x + F.dropout(m.pos, 0.1), (1, 16, 8)),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_position_encoding_that_is_added_to_tokens(name: str) -> None:
    function, shape = POSITIONS[name]
    graph = trace(TokenNet(lambda m, x: m.c(function(m, x)), c=linear(8, 5), pos=weight(*shape)))
    check(graph, f"input > conv:patch.weight > sum > {C}", "pos_enc:pos > sum")


def test_position_encoding_of_an_image() -> None:
    graph = trace(Net(lambda m, x: m.c(m.a(x) + m.pos), a=conv(3, 8), c=conv(8, 5), pos=weight(1, 8, 16, 16)))
    check(graph, f"input > {A} > sum > {C}", "pos_enc:pos > sum")


def test_class_token_and_position_encoding() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.pos
        return m.c(x[:, 0])

    graph = trace(TokenNet(forward, c=linear(8, 5), pos=weight(1, 17, 8), token=weight(1, 1, 8)))
    check(graph, f"input > conv:patch.weight > sum > {C}", "pos_enc:pos > sum")
    assert list(graph.skipped) == ["token"]


def test_positions_looked_up_in_an_embedding() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(x + m.pos(torch.arange(x.shape[1], device=x.device)))

    graph = trace(TokenNet(forward, c=linear(8, 5), pos=nn.Embedding(16, 8)))
    check(graph, f"input > conv:patch.weight > sum > {C}", "pos_enc > sum")
    assert list(graph.skipped) == ["pos.weight"]


def test_words_and_positions_of_a_language_model() -> None:
    def forward(m: Any, ids: Tensor) -> Tensor:
        return m.c(m.words(ids) + m.pos(m.index[:, : ids.shape[1]]))

    model = Net(
        forward, words=nn.Embedding(50, 8), pos=nn.Embedding(16, 8), index=torch.arange(16)[None], c=linear(8, 5)
    )
    graph = trace(model, example_inputs=(torch.zeros(2, 7, dtype=torch.long),))
    check(graph, f"input > sum > {C}", "pos_enc > sum")
    assert set(graph.skipped) == {"words.weight", "pos.weight"}


@pytest.mark.parametrize(
    ("shape", "look_up"),
    [
        ((16, 16), lambda m: m.table),
        ((1, 16, 16), lambda m: m.table),
        ((31, 1), lambda m: m.table[m.index.view(-1)].view(1, 16, 16)),
    ],
)
def test_relative_position_bias_is_no_position_encoding(
    shape: tuple[int, ...], look_up: Callable[[Any], Tensor]
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.c((q @ k.transpose(-2, -1) + look_up(m)).softmax(-1) @ v)

    index = torch.arange(16)[:, None] - torch.arange(16)[None] + 15
    graph = trace(TokenNet(forward, qkv=linear(8, 24), c=linear(8, 5), table=weight(*shape), index=index))
    check(graph, f"input > conv:patch.weight > conv:qkv.weight > msa > {C}")
    assert list(graph.skipped) == ["table"]


def test_relative_position_bias_of_the_fused_attention() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(F.scaled_dot_product_attention(*m.qkv(x).chunk(3, -1), attn_mask=m.table))  # type: ignore[misc]

    graph = trace(TokenNet(forward, qkv=linear(8, 24), c=linear(8, 5), table=weight(1, 16, 16)))
    check(graph, f"input > conv:patch.weight > conv:qkv.weight > msa > {C}")
    assert list(graph.skipped) == ["table"]


def test_vector_that_is_added_behind_an_activation_is_no_bias() -> None:
    graph = trace(Net(lambda m, x: m.c(F.relu(m.a(x)) + m.b[:, None, None]), a=conv(3, 8), b=weight(8), c=conv(8, 5)))
    check(graph, f"input > {A} > {C}")
    assert list(graph.skipped) == ["b"]


def test_vector_along_another_dimension_than_the_channels_is_no_bias() -> None:
    """(16,) is added along the image's width here, though the convolution has 16 channels as well."""
    graph = trace(Net(lambda m, x: m.c(m.a(x) + m.b), a=conv(3, 16), b=weight(16), c=conv(16, 5)))
    check(graph, f"input > {A} > {C}")
    assert list(graph.skipped) == ["b"]


def test_number_that_is_added_to_many_channels_is_no_bias() -> None:
    model = Net(lambda m, x: m.c(m.a(x) + m.b), a=conv(1, 16), b=weight(1), c=conv(16, 5))
    graph = trace(model, input_shape=(1, 16, 16))
    check(graph, f"input > {A} > {C}")
    assert list(graph.skipped) == ["b"]
