"""Attention, by torch's layers and spelled out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import PACKED, A, B, TokenNet, check, linear, torch_attention, trace
from torch import Tensor, nn

import ghnfast


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention(batch_first: bool, need_weights: bool, training: bool) -> None:
    """Evaluation mode without gradients is where torch takes a fast path of its own."""

    def forward(m: Any, x: Tensor) -> Any:
        found = m.att(x, x, x, need_weights=need_weights)
        assert found[0].shape == x.shape
        assert not need_weights or found[1].shape == (
            x.shape[1 - batch_first],
            x.shape[batch_first],
            x.shape[batch_first],
        )
        return found

    model = TokenNet(forward, att=torch_attention(batch_first=batch_first)).train(training)
    with torch.no_grad():
        check(trace(model), f"input > conv:patch.weight > {PACKED}")


def test_multi_head_attention_with_masks() -> None:
    mask = torch.triu(torch.ones(16, 16, dtype=torch.bool), 1)
    model = TokenNet(lambda m, x: m.att(x, x, x, attn_mask=m.mask)[0], att=torch_attention(batch_first=True), mask=mask)
    check(trace(model.eval()), f"input > conv:patch.weight > {PACKED}")


def test_multi_head_attention_with_keys_of_another_width() -> None:
    model = Net(lambda m, q, k, v: m.att(q, k, v)[0], att=torch_attention(kdim=6, vdim=4, batch_first=True))
    graph = trace(model, example_inputs=(torch.zeros(2, 5, 8), torch.zeros(2, 7, 6), torch.zeros(2, 7, 4)))
    out = "msa > conv:att.out_proj.weight > bias:att.out_proj.bias"
    check(graph, *(f"input > conv:att.{name}_proj_weight > {out}" for name in "qkv"))
    assert list(graph.skipped) == ["att.in_proj_bias"]


def test_cross_attention_reads_both_sources() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        context = m.b(x)
        return m.att(m.a(x), context, context)[0]

    graph = trace(TokenNet(forward, a=linear(8, 8), b=linear(8, 8), att=torch_attention(batch_first=True)))
    check(graph, f"input > conv:patch.weight > {A} > {PACKED}", f"conv:patch.weight > {B} > {PACKED}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_layer(norm_first: bool, training: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = TokenNet(lambda m, x: m.layer(x), layer=layer).train(training)
    x, att = "conv:patch.weight", PACKED.replace("att.", "layer.self_attn.")
    first, second = (f"ln:layer.norm{i}.weight" for i in (1, 2))
    mlp = " > ".join(f"conv:layer.linear{i}.weight > bias:layer.linear{i}.bias" for i in (1, 2))
    with torch.no_grad():
        graph = trace(model)
    if norm_first:
        check(graph, f"input > {x} > {first} > {att} > sum#1 > {second} > {mlp} > sum#2", f"{x} > sum#1 > sum#2")
    else:
        check(
            graph,
            f"input > {x} > {att} > sum#1 > {first} > {mlp} > sum#2 > {second}",
            f"{x} > sum#1",
            f"{first} > sum#2",
        )


def test_transformer_encoder_in_evaluation_mode_with_nested_tensors_enabled() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = TokenNet(lambda m, x: m.encoder(x), encoder=nn.TransformerEncoder(layer, 3)).eval()
    assert trace(model).ops.count("msa") == 3


def attend_fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def attend_fused_by_keyword(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=True)


def attend_operator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v


def attend_matmul_by_keyword(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(input=q, other=k.mT)
    return torch.matmul(F.softmax(input=scores, dim=-1), other=v)


def attend_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(F.dropout(F.softmax(torch.bmm(q, k.transpose(1, 2)), -1), 0.1), v)


def attend_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bqk,bkc->bqc", torch.softmax(torch.einsum("bqc,bkc->bqk", q, k), -1), v)


def attend_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    empty = torch.empty(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
    return torch.softmax(torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=0.5), -1).bmm(v)


def attend_masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    causal = torch.ones(scores.shape[-2:], device=q.device, dtype=torch.bool).tril()
    scores = scores.masked_fill(~causal, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def attend_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores *= 0.1
    scores -= scores.amax(-1, keepdim=True)
    return scores.softmax(-1) @ v


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(q.shape[0], -1, 8)


def attend_safely(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rows that are masked whole give zeros, as torch has it where it takes its own attention apart."""
    scores = q @ k.transpose(-2, -1)
    masked = (scores == float("-inf")).all(-1, keepdim=True)
    return torch.where(masked, torch.zeros_like(scores), scores.softmax(-1)) @ v


def attend_safely_by_method(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).clamp(-50, 50)
    return scores.softmax(-1).where(scores.isfinite(), torch.zeros(())) @ v


ATTENTIONS = [
    attend_safely,
    attend_safely_by_method,
    attend_fused,
    attend_fused_by_keyword,
    attend_operator,
    attend_matmul_by_keyword,
    attend_bmm,
    attend_einsum,
    attend_baddbmm,
    attend_masked,
    attend_in_place,
    attend_by_heads,
]


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_attention_with_separate_projections(attend: Callable[..., Tensor]) -> None:
    model = TokenNet(
        lambda m, x: m.o(attend(m.q(x), m.k(x), m.v(x))), **{name: linear(8, 8) for name in ("q", "k", "v", "o")}
    )
    check(trace(model), *(f"input > conv:patch.weight > conv:{name}.weight > msa > conv:o.weight" for name in "qkv"))


@pytest.mark.parametrize("attend", [attend_fused, attend_operator])
def test_attention_with_one_packed_projection(attend: Callable[..., Tensor]) -> None:
    model = TokenNet(lambda m, x: m.o(attend(*m.qkv(x).chunk(3, -1))), qkv=linear(8, 24), o=linear(8, 8))
    check(trace(model), "input > conv:patch.weight > conv:qkv.weight > msa > conv:o.weight")


def test_a_choice_by_something_else_reads_what_it_chooses_by() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(torch.where(m.g(x) > 0, m.a(x).softmax(-1), torch.zeros(())))

    model = TokenNet(forward, a=linear(8, 8), b=linear(8, 5), g=linear(8, 8))
    paths = f"input > conv:patch.weight > {A} > {B}", "conv:patch.weight > conv:g.weight > conv:b.weight"
    check(trace(model), *paths)


def test_softmax_without_a_matrix_product_behind_is_no_attention() -> None:
    model = TokenNet(lambda m, x: m.b(m.a(x).softmax(-1) * x), a=linear(8, 8), b=linear(8, 5))
    check(trace(model), f"input > conv:patch.weight > {A} > {B}", f"conv:patch.weight > {B}")


@pytest.mark.parametrize("heads", [(2, 2, 2), (1, 2, 2), (2, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_broadcasts(batch: int, heads: tuple[int, int, int]) -> None:
    """As with learned queries, and with one head of keys for all."""

    def forward(m: Any, x: Tensor) -> Tensor:
        query, key, value = (
            torch.zeros(first, count, 3, 4) + x.mean() for first, count in zip((1, batch, batch), heads, strict=True)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        assert found.shape == (batch, max(heads), 3, 4)
        return m.a(found.flatten(1))

    wide = batch, max(heads) * 12
    found = ghnfast.trace(Net(forward, a=nn.Linear(wide[1], 5)), example_inputs=(torch.randn(2, 3),))
    assert found.ops[-2:] == ["conv", "bias"]


@pytest.mark.parametrize("more", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_weights_of_attention_with_what_is_appended(more: dict[str, bool]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.a(m.att(x, x, x)[1])

    layer = nn.MultiheadAttention(8, 2, batch_first=True, **more)
    model, x = Net(forward, att=layer, a=nn.Linear(5 + len(more), 3)), (torch.randn(2, 5, 8),)
    model(*x)
    assert "msa" in ghnfast.trace(model, example_inputs=x).ops


@pytest.mark.filterwarnings("ignore:Sparse C")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_buffers(layout: str) -> None:
    model = Net(lambda m, x: torch.sparse.mm(m.links, m.a(x)), a=nn.Linear(8, 3))
    model.register_buffer("links", getattr(torch.eye(5), layout)())
    assert ghnfast.trace(model, example_inputs=(torch.randn(5, 8),)).ops == ["input", "conv", "bias"]
