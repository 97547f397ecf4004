"""Tracing, as a hostile but fair user would try it: what is in the graph, and what is left of the model afterwards.

Expected graphs are written as paths: "input > conv:a.weight > sum" are three nodes and two edges. A token is a
primitive, or a primitive and its parameter; `#1`, `#2` tell nodes apart that look alike. Graphs are compared up to node
order.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import pickle
import random
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_comparison import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Net
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import ghnfast
from ghnfast import ArchGraph, TraceError
from ghnfast.graph import PRIMITIVES
from ghnfast.tracing.leaves import LEAVES

IMAGE = (3, 16, 16)
Build = Callable[[], nn.Module]

# Helper models ----------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image's size; without a bias, so that graphs stay short."""
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, "bias": False, **options})


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, 0.5))


class TokenNet(Net):
    """An image model whose function sees 16 tokens of width 8, from patches of 4 x 4 pixels."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__(function, patch=nn.Conv2d(3, 8, 4, 4, bias=False), **parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.patch(x).flatten(2).transpose(1, 2))


class Squeeze(nn.Module):
    """The excitation's two layers, on (N, C, 1, 1) or (N, C)."""

    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.r, self.e = layer(8, 4), layer(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.e(F.relu(self.r(x)))


# Helpers ----------------------------------------------------------------------------------------------------------


def trace(model: nn.Module, **options: Any) -> ArchGraph:
    if not options:
        options = {"input_shape": IMAGE}
    return ghnfast.trace(model, **options)


def labels(graph: ArchGraph) -> list[tuple[str, str | None]]:
    return list(zip(graph.ops, graph.params, strict=True))


def label_of(token: str) -> tuple[str, str | None]:
    op, _, parameter = token.partition("#")[0].partition(":")
    return op, parameter or None


def check(graph: ArchGraph, *paths: str) -> None:
    """The graph is exactly the one of `paths`."""
    chains = [[token.strip() for token in path.split(">")] for path in paths]
    tokens = list(dict.fromkeys(token for chain in chains for token in chain))
    edges = list(dict.fromkeys((tokens.index(a), tokens.index(b)) for chain in chains for a, b in pairwise(chain)))
    found = difference(labels(graph), graph.edges.tolist(), [label_of(token) for token in tokens], edges)
    assert not found, f"{found}\ntraced: {arrows(graph)}"


def arrows(graph: ArchGraph) -> list[str]:
    names = [f"{op}:{parameter}" if parameter else op for op, parameter in labels(graph)]
    return [f"{names[a]} > {names[b]}" for a, b in graph.edges.tolist()]


def same(left: ArchGraph, right: ArchGraph) -> bool:
    return (
        labels(left) == labels(right)
        and left.shapes == right.shapes
        and np.array_equal(left.edges, right.edges)
        and np.array_equal(left.level_offsets, right.level_offsets)
        and left.norm_biases == right.norm_biases
        and left.skipped == right.skipped
        and (left.classifier_weight, left.classifier_bias) == (right.classifier_weight, right.classifier_bias)
    )


class Snapshot:
    """Everything about a model that a trace must not change."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [*model.parameters(), *model.buffers()]
        self.values = [None if tensor.is_meta else tensor.detach().clone() for tensor in self.tensors]
        self.before = self.facts(model)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            facts[name] = (
                id(tensor),
                tensor.device,
                tensor.dtype,
                tensor.stride(),
                None if tensor.is_meta else tensor.data_ptr(),
                tensor.requires_grad,
                id(tensor.grad),
                sorted(tensor.__dict__),
            )
        for name, module in model.named_modules():
            for key, item in module.__dict__.items():
                facts[f"{name}.__dict__[{key}]"] = item if isinstance(item, bool) else id(item)
            for key in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
                facts[f"{name}.{key}"] = [(entry, id(item)) for entry, item in getattr(module, key).items()]
        return facts

    def check(self, model: nn.Module) -> None:
        after = self.facts(model)
        changed = {key for key in self.before.keys() | after.keys() if self.before.get(key) != after.get(key)}
        assert not changed, f"changed: {sorted(changed)}"
        for tensor, value in zip(self.tensors, self.values, strict=True):
            assert value is None or torch.equal(tensor, value), f"a tensor of shape {tuple(tensor.shape)} changed"


# Control flow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "taken", "other"), [(16, "big", "small"), (8, "small", "big")])
def test_branch_on_shape_takes_the_branch_of_the_given_shape(size: int, taken: str, other: str) -> None:
    model = Net(lambda m, x: m.big(x) if x.shape[-1] > 8 else m.small(x), big=conv(3, 8), small=conv(3, 8))
    graph = trace(model, input_shape=(3, size, size))
    check(graph, f"input > conv:{taken}.weight")
    assert graph.skipped == {f"{other}.weight": "the forward does not use it"}


def test_loop_until_the_image_is_small_repeats_the_layer() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        while x.shape[-1] > 4:
            x = F.max_pool2d(m.conv(x), 2)
        return x

    check(
        trace(Net(forward, conv=conv(3, 3))),
        "input > conv:conv.weight#1 > max_pool#1 > conv:conv.weight#2 > max_pool#2",
    )


def test_branch_on_a_buffer_value_is_taken() -> None:
    model = Net(lambda m, x: m.a(x) if m.mode.item() > 0 else m.b(x), a=conv(3, 8), b=conv(3, 8), mode=torch.tensor(1))
    check(trace(model), "input > conv:a.weight")


def test_branch_on_training_mode_follows_the_mode() -> None:
    model = Net(lambda m, x: (m.a(x), m.b(x)) if m.training else m.a(x), a=conv(3, 8), b=conv(3, 8))
    check(trace(model.train()), "input > conv:a.weight", "input > conv:b.weight")
    check(trace(model.eval()), "input > conv:a.weight")


# In-place operations ----------------------------------------------------------------------------------------------

ABC = {"a": lambda: conv(3, 8), "b": lambda: conv(8, 8), "c": lambda: conv(8, 5)}
A, B, C, D = "conv:a.weight", "conv:b.weight", "conv:c.weight", "conv:d.weight"


def abc(function: Callable[..., Any], **parts: Any) -> Net:
    return Net(function, **{name: part() for name, part in ABC.items()}, **parts)


def sum_in_place(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    y = m.b(x)
    x += y
    return m.c(x)


def sum_by_method(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    x.add_(m.b(x))
    return m.c(x)


def alias_of_sum(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    identity = x
    x += m.b(x)
    return m.c(identity)


@pytest.mark.parametrize("function", [sum_in_place, sum_by_method, alias_of_sum])
def test_in_place_sum_is_a_sum(function: Callable[..., Any]) -> None:
    check(trace(abc(function)), f"input > {A} > {B} > sum > {C}", f"{A} > sum")


def test_clone_keeps_the_earlier_value() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        out = x.clone()
        out += m.b(x)
        return m.d(torch.cat([x, out], 1))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(8, 8), d=conv(16, 5)))
    check(graph, f"input > {A} > {B} > sum > concat > {D}", f"{A} > sum", f"{A} > concat")


@pytest.mark.parametrize(
    "activate",
    [
        lambda y: F.relu(y, inplace=True),
        lambda y: F.relu(y, True),
        torch.relu_,
        Tensor.relu_,
        nn.ReLU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.Hardswish(inplace=True),
        nn.SiLU(inplace=True),
        lambda y: F.leaky_relu(y, 0.1, True),
        lambda y: F.dropout(y, 0.5, True, True),
        lambda y: y.clamp_(0, 6),
        lambda y: y.mul_(2),
        lambda y: y.div_(2).sub_(1),
    ],
)
def test_residual_use_after_an_in_place_activation(activate: Callable[[Tensor], Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        z = activate(y)
        return m.c(m.b(z) + y)

    check(trace(abc(forward)), f"input > {A} > {B} > sum > {C}", f"{A} > sum")


def test_assignment_to_a_slice_joins_both_values() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, :3] = m.b(x)[:, :3]
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {B} > {C}", f"{A} > {C}")


def test_addition_to_a_slice_is_a_sum_within_the_whole() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, :3] += m.b(x)[:, :3]
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {B} > sum > {C}", f"{A} > sum", f"{A} > {C}")


def test_assignment_of_a_constant_to_a_slice_changes_nothing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, 0] = 0
        x[x > 1] = 1
        x.masked_fill_(x < 0, 0.0)
        return m.c(x)

    check(trace(abc(forward)), f"input > {A} > {C}")


def assign(out: Tensor, first: Tensor, second: Tensor) -> None:
    out[:, :4], out[:, 4:] = first, second


def copy_into_parts(out: Tensor, first: Tensor, second: Tensor) -> None:
    out[:, :4].copy_(first)
    out.narrow(1, 4, 4).copy_(second)


def index_add(out: Tensor, first: Tensor, second: Tensor) -> None:
    out.index_add_(1, torch.arange(4), first)
    out.index_copy_(1, torch.arange(4, 8), second)


MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "new_zeros": lambda x: x.new_zeros(2, 8, 16, 16),
    "device": lambda x: torch.zeros(2, 8, 16, 16, device=x.device, dtype=x.dtype),
    "default_device": lambda x: torch.zeros(2, 8, 16, 16),
    "zeros_like": lambda x: torch.zeros_like(x[:, :1]).repeat(1, 8, 1, 1),
}


@pytest.mark.parametrize("fill", [assign, copy_into_parts, index_add])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_tensor_that_is_filled_in_pieces_comes_from_all_of_them(
    fill: Callable[..., None], make: Callable[[Tensor], Tensor]
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = make(x)
        fill(out, m.a(x), m.b(x))
        return m.c(out)

    check(trace(Net(forward, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5))), f"input > {A} > {C}", f"input > {B} > {C}")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_additions_to_parts_of_a_constant_are_not_lost(make: Callable[[Tensor], Tensor]) -> None:
    """Which parts overlap is not the graph's business: whether there is a sum is left open."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out = make(x)
        out[:, :4].add_(m.a(x))
        out[:, 4:] += m.b(x)
        return m.c(out)

    graph = trace(Net(forward, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5)))
    assert {label_of(token) for token in (A, B, C)} <= set(labels(graph))


def test_results_that_are_written_to_an_out_argument() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        out = torch.empty_like(y)
        torch.mul(y, 2, out=out)
        return m.c(out)

    with torch.no_grad():
        check(trace(abc(forward)), f"input > {A} > {C}")


def test_copy_into_an_empty_tensor_is_the_copied_value() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(torch.empty_like(y).copy_(y))

    check(trace(abc(forward)), f"input > {A} > {C}")


@pytest.mark.parametrize(
    "alias",
    [lambda x: x.view_as(x), lambda x: x.transpose(2, 3), lambda x: x[:], lambda x: x.detach(), lambda x: x.data],
)
def test_write_through_a_view_reaches_what_it_is_a_view_of(alias: Callable[[Tensor], Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        view = alias(x)
        view += m.b(x)
        return m.c(x)

    edges = arrows(trace(abc(forward)))
    assert {f"{A} > sum", f"{B} > sum", f"sum > {C}"} <= set(edges)


def test_view_that_was_taken_before_a_write_sees_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        tokens = x.flatten(2)
        x += m.b(x)
        return m.head(tokens.mean(2))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(8, 8), head=linear(8, 5)))
    check(graph, f"input > {A} > {B} > sum > glob_avg > conv:head.weight", f"{A} > sum")


def test_write_to_one_chunk_does_not_reach_the_other() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = m.a(x).chunk(2, 1)
        left = left + m.b(right)
        return m.c(left), m.d(right)

    graph = trace(Net(forward, a=conv(3, 8), b=conv(4, 4), c=conv(4, 5), d=conv(4, 5)))
    check(graph, f"input > {A} > {B} > sum > {C}", f"{A} > sum", f"{A} > {D}")


def test_chunks_that_are_updated_in_turn() -> None:
    """A reversible block: each half is added to in place from the other one."""

    def forward(m: Any, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, 1)
        left += m.b(right)
        right += m.c(left)
        return m.d(torch.cat([left, right], 1))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(4, 4), c=conv(4, 4), d=conv(8, 5)))
    check(
        graph,
        f"input > {A} > {B} > sum#1 > {C} > sum#2 > concat > {D}",
        f"{A} > sum#1 > concat",
        f"{A} > sum#2",
    )


# Attention --------------------------------------------------------------------------------------------------------

PACKED = "conv:att.in_proj_weight > bias:att.in_proj_bias > msa > conv:att.out_proj.weight > bias:att.out_proj.bias"


def torch_attention(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, **options)


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


ATTENTIONS = [
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


def test_softmax_without_a_matrix_product_behind_is_no_attention() -> None:
    model = TokenNet(lambda m, x: m.b(m.a(x).softmax(-1) * x), a=linear(8, 8), b=linear(8, 5))
    check(trace(model), f"input > conv:patch.weight > {A} > {B}", f"conv:patch.weight > {B}")


# Functional use of parameters -------------------------------------------------------------------------------------

MATRIX = {"w": lambda: weight(6, 8), "b": lambda: weight(6)}
TURNED = {"w": lambda: weight(8, 6), "b": lambda: weight(6)}
KERNEL = {"w": lambda: weight(6, 8, 3, 3), "b": lambda: weight(6)}

FUNCTIONAL: dict[str, tuple[Callable[..., Tensor], dict[str, Callable[[], nn.Parameter]]]] = {
    "F.linear": (lambda m, x: F.linear(x.mean((2, 3)), m.w, m.b), MATRIX),
    "F.linear by keyword": (lambda m, x: F.linear(input=x.mean((2, 3)), weight=m.w, bias=m.b), MATRIX),
    "@ and +": (lambda m, x: x.mean((2, 3)) @ m.w + m.b, TURNED),
    "b + w": (lambda m, x: m.b + torch.matmul(x.mean((2, 3)), m.w), TURNED),
    "@ transposed": (lambda m, x: x.mean((2, 3)) @ m.w.t() + m.b, MATRIX),
    "addmm": (lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w), TURNED),
    "addmm method": (lambda m, x: m.b.addmm(x.mean((2, 3)), m.w), TURNED),
    "addmm by keyword": (lambda m, x: torch.addmm(input=m.b, mat1=x.mean((2, 3)), mat2=m.w), TURNED),
    "mm and in place": (lambda m, x: torch.mm(x.mean((2, 3)), m.w).add_(m.b), TURNED),
    "einsum": (lambda m, x: torch.einsum("nc,cd->nd", x.mean((2, 3)), m.w) + m.b, TURNED),
    "w @ x": (lambda m, x: (m.w @ x.mean((2, 3)).t()).t() + m.b, MATRIX),
    "scaled": (lambda m, x: F.linear(x.mean((2, 3)), m.w * 0.3, m.b * 0.1), MATRIX),
    "detached": (lambda m, x: F.linear(x.mean((2, 3)), m.w.detach(), m.b.data), MATRIX),
    "cast": (lambda m, x: F.linear(x.mean((2, 3)), m.w.to(x.dtype), m.b.float()), MATRIX),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_parameters_that_are_used_functionally(name: str) -> None:
    function, parts = FUNCTIONAL[name]
    model = Net(lambda m, x: function(m, m.a(x)), a=conv(3, 8), **{name: part() for name, part in parts.items()})
    check(trace(model), f"input > {A} > glob_avg > conv:w > bias:b")


FUNCTIONAL_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "F.conv2d": lambda m, x: F.conv2d(x, m.w, m.b, padding=1),
    "F.conv2d by keyword": lambda m, x: F.conv2d(input=x, weight=m.w, bias=m.b, padding=1),
    "F.conv2d same": lambda m, x: F.conv2d(x, m.w, m.b, 1, "same"),
    "torch.conv2d": lambda m, x: torch.conv2d(x, m.w, m.b, (1, 1), (1, 1)),
    "bias view": lambda m, x: F.conv2d(x, m.w, padding=1) + m.b.view(1, -1, 1, 1),
    "bias index": lambda m, x: F.conv2d(x, m.w, padding=1) + m.b[:, None, None],
    "bias in place": lambda m, x: F.conv2d(x, m.w, padding=1).add_(m.b[None, :, None, None]),
    "torch.add by keyword": lambda m, x: torch.add(input=F.conv2d(x, m.w, padding=1), other=m.b[:, None, None]),
    "standardized": lambda m, x: F.conv2d(x, (m.w - m.w.mean((1, 2, 3), True)) / m.w.std((1, 2, 3), keepdim=True), m.b),
    "standardized by batch norm": lambda m, x: F.conv2d(
        x, F.batch_norm(m.w.reshape(1, 6, -1), None, None, training=True).reshape_as(m.w), m.b
    ),
}


@pytest.mark.parametrize("name", FUNCTIONAL_CONVOLUTIONS)
def test_kernels_that_are_used_functionally(name: str) -> None:
    function = FUNCTIONAL_CONVOLUTIONS[name]
    model = Net(lambda m, x: function(m, m.a(x)), a=conv(3, 8), w=weight(6, 8, 3, 3), b=weight(6))
    graph = trace(model)
    check(graph, f"input > {A} > conv:w > bias:b")
    assert graph.shapes[2:] == [(6, 8, 3, 3), (6, 1, 1, 1)]


def test_sum_inside_a_matrix_product_is_a_sum() -> None:
    """As in low-rank adaptation: addmm(x, y, w) is x + y @ w."""
    model = Net(
        lambda m, x: m.c(torch.addmm(m.a(y := x.mean((2, 3))), m.b(y), m.w)),
        a=linear(3, 8),
        b=linear(3, 4),
        c=linear(8, 5),
        w=weight(4, 8),
    )
    check(trace(model), f"input > glob_avg > {A} > sum > {C}", f"glob_avg > {B} > conv:w > sum")


def test_pointwise_convolution_by_einsum_keeps_the_image() -> None:
    model = Net(
        lambda m, x: m.fc(torch.einsum("nchw,dc->ndhw", m.a(x), m.w).mean((2, 3))),
        a=conv(3, 8),
        w=weight(6, 8),
        fc=linear(6, 5),
    )
    check(trace(model), f"input > {A} > conv:w > glob_avg > conv:fc.weight")


def test_parameters_that_are_added_up_are_not_called_unused() -> None:
    model = Net(
        lambda m, x: F.layer_norm(F.conv2d(m.a(x), m.w, m.b + m.b2, padding=1), (16,), m.g * m.g2),
        a=conv(3, 8),
        w=weight(6, 8, 3, 3),
        b=weight(6),
        b2=weight(6),
        g=weight(16),
        g2=weight(16),
    )
    assert not [name for name, reason in trace(model).skipped.items() if "not use" in reason]


def test_functional_call_with_the_own_parameters() -> None:
    model = Net(lambda m, x: torch.func.functional_call(m.a, dict(m.a.named_parameters()), x), a=conv(3, 8))
    check(trace(model), f"input > {A}")


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_predicts_the_original_weight(training: bool) -> None:
    model = Net(lambda m, x: m.a(x), a=parametrizations.spectral_norm(conv(3, 8))).train(training)
    check(trace(model), "input > conv:a.parametrizations.weight.original")


def test_weight_norm_is_one_node_for_length_and_direction() -> None:
    model = Net(lambda m, x: m.a(x), a=parametrizations.weight_norm(conv(3, 8)))
    graph = trace(model)
    check(graph, "input > conv:a.parametrizations.weight.original1")
    assert not graph.skipped


def test_older_weight_norm_and_spectral_norm() -> None:
    with pytest.warns(FutureWarning):
        a = torch.nn.utils.weight_norm(conv(3, 8))
    model = Net(lambda m, x: m.b(m.a(x)), a=a, b=torch.nn.utils.spectral_norm(conv(8, 5)))
    check(trace(model), "input > conv:a.weight_v > conv:b.weight_orig")


def test_module_that_is_called_twice_is_two_nodes_with_one_parameter() -> None:
    graph = trace(Net(lambda m, x: m.b(m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8)))
    check(graph, f"input > {A} > {B}#1 > {B}#2")
    assert not graph.skipped


def test_tied_weights_go_by_their_first_name() -> None:
    model = Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8), c=conv(8, 8))
    model.c.weight = model.b.weight
    check(trace(model), f"input > {A} > {B}#1 > {B}#2")


def test_parameters_in_lists_and_dictionaries() -> None:
    model = Net(
        lambda m, x: F.linear(F.linear(x.mean((2, 3)), m.w[0]), m.d["last"]),
        w=nn.ParameterList([weight(8, 3)]),
        d=nn.ParameterDict({"last": weight(5, 8)}),
    )
    check(trace(model), "input > glob_avg > conv:w.0 > conv:d.last")


def test_kernel_mixed_from_several_parameters_is_reported() -> None:
    model = Net(
        lambda m, x: F.conv2d(m.a(x), 0.5 * m.w + 0.5 * m.v), a=conv(3, 8), w=weight(6, 8, 3, 3), v=weight(6, 8, 3, 3)
    )
    graph = trace(model)
    assert graph.ops == ["input", "conv", "conv"]
    assert {"w", "v"} == set(graph.skipped) | ({"w", "v"} & set(graph.params))


KEYWORDS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(input=x),
    "torch.relu": lambda x: torch.relu(input=x),
    "flatten": lambda x: torch.flatten(input=x, start_dim=2),
    "permute": lambda x: torch.permute(input=x, dims=(0, 2, 3, 1)),
    "pad": lambda x: F.pad(input=x, pad=(1, 1)),
    "cat": lambda x: torch.cat(tensors=[x, x], dim=1),
    "softmax": lambda x: F.softmax(input=x, dim=1),
    "zeros_like": lambda x: x * torch.zeros_like(input=x),
    "mul": lambda x: torch.mul(input=x, other=2),
    "sub": lambda x: torch.sub(input=x, other=x),
    "dropout": lambda x: F.dropout(input=x, p=0.1),
    "layer_norm": lambda x: F.layer_norm(input=x, normalized_shape=(16,)),
    "batch_norm": lambda x: F.batch_norm(input=x, running_mean=None, running_var=None, training=True),
    "interpolate": lambda x: F.interpolate(input=x, scale_factor=2),
    "normalize": lambda x: F.normalize(input=x, dim=1),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_functions_whose_arguments_all_have_keywords(name: str) -> None:
    check(trace(Net(lambda m, x: KEYWORDS[name](m.a(x)), a=conv(3, 8))), f"input > {A}")


KEYWORD_POOLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "max_pool2d": (lambda x: F.max_pool2d(input=x, kernel_size=2), "max_pool"),
    "avg_pool2d": (lambda x: F.avg_pool2d(input=x, kernel_size=2), "avg_pool"),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(input=x, output_size=1), "glob_avg"),
    "mean": (lambda x: torch.mean(input=x, dim=(2, 3)), "glob_avg"),
    "method mean": (lambda x: x.mean(dim=(2, 3)), "glob_avg"),
    "max_pool2d with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool"),
}


@pytest.mark.parametrize("name", KEYWORD_POOLS)
def test_pools_however_they_are_called(name: str) -> None:
    function, op = KEYWORD_POOLS[name]
    check(trace(Net(lambda m, x: function(m.a(x)), a=conv(3, 8))), f"input > {A} > {op}")


# Outputs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Output:
    logits: Any
    extra: Any = None


Pair = namedtuple("Pair", "logits extra")

OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda main, side: (main, side),
    "list": lambda main, side: [main, side],
    "dict": lambda main, side: {"out": main, "aux": side},
    "ordered dict": lambda main, side: OrderedDict(out=main, aux=side),
    "named tuple": Pair,
    "dataclass": Output,
    "nested": lambda main, side: {"a": [(main, None)], "b": Output((side,), {"loss": None, "n": 3})},
    "None first": lambda main, side: (None, main, [None, side]),
    "twice": lambda main, side: (main, main, side, side),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_several_outputs(name: str) -> None:
    model = Net(
        lambda m, x: OUTPUTS[name](m.fc(m.a(x).mean((2, 3))), m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8), fc=linear(8, 5)
    )
    graph = trace(model)
    check(graph, f"input > {A}#1 > glob_avg > conv:fc.weight", f"input > {A}#2 > {B}")
    assert graph.params[-1] == "fc.weight"


def test_output_that_does_not_depend_on_the_input_is_ignored() -> None:
    model = Net(lambda m, x: (m.a(x), m.w, torch.ones(3)), a=conv(3, 8), w=weight(3))
    graph = trace(model)
    check(graph, f"input > {A}")
    assert list(graph.skipped) == ["w"]


# Side effects -----------------------------------------------------------------------------------------------------


def add_to_count(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return m.a(x)


def replace_running_mean(m: Any, x: Tensor) -> Tensor:
    m.running = 0.9 * m.running + 0.1 * x.mean((0, 2, 3))
    return m.a(x - m.running[:, None, None])


def update_running_mean(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.running.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
    return m.a(x)


def copy_into_buffer(m: Any, x: Tensor) -> Tensor:
    m.running.copy_(x.mean((0, 2, 3)))
    m.running.data = x.mean((0, 2, 3))
    return m.a(x)


def write_by_index(m: Any, x: Tensor) -> Tensor:
    m.running[0] = 7
    m.running[1] += 1
    return m.a(x)


def write_through_view(m: Any, x: Tensor) -> Tensor:
    m.running.view(-1).mul_(0.5)
    return m.a(x)


def write_through_index(m: Any, x: Tensor) -> Tensor:
    m.running[0].add_(1)
    return m.a(x)


def write_through_data(m: Any, x: Tensor) -> Tensor:
    m.count.data += 1
    return m.a(x)


def write_through_detach(m: Any, x: Tensor) -> Tensor:
    m.running.detach().zero_()
    return m.a(x)


def write_through_numpy(m: Any, x: Tensor) -> Tensor:
    m.running.numpy()[:] = 3
    return m.a(x)


def write_through_out(m: Any, x: Tensor) -> Tensor:
    torch.add(m.running, 1, out=m.running)
    return m.a(x)


def write_from_queue(m: Any, x: Tensor) -> Tensor:
    """As the momentum encoders' queues do."""
    at = int(m.count)
    m.queue[:, at : at + 2] = x.mean((2, 3)).T
    m.count[...] = (at + 2) % 8
    return m.a(x)


def normalize_constant(m: Any, x: Tensor) -> Tensor:
    m.bn(torch.ones(2, 3, 4, 4))
    return m.a(x)


def write_parameter(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.a.weight.mul_(0.5)
        m.a.weight.data.clamp_(-0.1, 0.1)
        m.a.weight[0] = 0
        m.a.weight.data = m.a.weight.data * 2
        m.a.weight.view(-1).zero_()
    return m.a(x)


def write_other_parameter_from_parameter(m: Any, x: Tensor) -> Tensor:
    """As momentum (teacher) copies of a network are updated."""
    for teacher, student in zip(m.teacher.parameters(), m.a.parameters(), strict=True):
        teacher.data.mul_(0.9).add_(student.data, alpha=0.1)
    return m.a(x) + m.teacher(x)


def change_settings(m: Any, x: Tensor) -> Tensor:
    m.a.weight.requires_grad_(False)
    m.a.weight.requires_grad = False
    m.a.weight.grad = None
    m.bn.eval()
    m.train(False)
    return m.a(m.bn(x))


def set_attributes(m: Any, x: Tensor) -> Tensor:
    m.cache, m.calls, m.shape = x, m.calls + 1, x.shape
    return m.a(m.cache)


def register_new_buffer(m: Any, x: Tensor) -> Tensor:
    m.register_buffer("late", torch.zeros(3))
    return m.a(x)


def build_module_late(m: Any, x: Tensor) -> Tensor:
    if not hasattr(m, "late"):
        m.late = nn.Conv2d(8, 4, 1)
    return m.late(m.a(x))


def replace_module(m: Any, x: Tensor) -> Tensor:
    m.bn = nn.Identity()
    return m.a(m.bn(x))


MISCHIEF = [
    add_to_count,
    replace_running_mean,
    update_running_mean,
    copy_into_buffer,
    write_by_index,
    write_through_view,
    write_through_index,
    write_through_data,
    write_through_detach,
    write_through_numpy,
    write_through_out,
    write_from_queue,
    normalize_constant,
    write_parameter,
    write_other_parameter_from_parameter,
    change_settings,
    set_attributes,
    register_new_buffer,
    build_module_late,
    replace_module,
]


def restless(function: Callable[..., Any]) -> Net:
    return Net(
        function,
        a=conv(3, 8),
        teacher=conv(3, 8),
        bn=nn.BatchNorm2d(3, affine=False),
        count=torch.tensor(0),
        running=torch.ones(3),
        queue=torch.ones(3, 8),
        calls=0,
    )


@pytest.mark.parametrize("function", MISCHIEF)
def test_what_the_forward_writes_does_not_reach_the_model(function: Callable[..., Any]) -> None:
    model = restless(function)
    before = Snapshot(model)
    graph = trace(model)
    before.check(model)
    assert A in {f"{op}:{parameter}" for op, parameter in labels(graph)}


def test_written_buffer_is_read_back_within_the_trace() -> None:
    """Control flow may depend on it, as it would in a real forward."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.count += 1
        m.count.add_(1)
        assert m.count.item() == 2
        return m.a(x) if int(m.count) == 2 else x

    check(trace(Net(forward, a=conv(3, 8), count=torch.tensor(0))), f"input > {A}")


def test_plain_tensor_attribute_is_left_alone() -> None:
    """Not a buffer, but as much a part of the model."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.table.contiguous()
        m.table.add_(1)
        return m.a(x)

    model = Net(forward, a=conv(3, 8))
    model.table = torch.zeros(3)
    for _ in range(2):
        trace(model)
        assert torch.equal(model.table, torch.zeros(3))
        assert not model.table.__dict__


@pytest.mark.parametrize("container", [dict, list])
def test_model_that_caches_tensors_still_runs_after_a_trace(container: type) -> None:
    """A cache that the trace filled would hold tensors without data, and the next real forward would fail on them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        if not len(m.cache):
            grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
            if isinstance(m.cache, dict):
                m.cache[x.shape[-1]] = grid
            else:
                m.cache.append(grid)
        grid = m.cache[x.shape[-1]] if isinstance(m.cache, dict) else m.cache[0]
        return m.a(x + grid)

    model = Net(forward, a=conv(3, 8), cache=container())
    trace(model)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 8, 16, 16)


def test_lists_that_the_forward_appends_to_do_not_disturb_the_next_trace() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.seen.append(m.a(x))
        return m.b(m.seen[-1])

    model = Net(forward, a=conv(3, 8), b=conv(8, 8), seen=[])
    assert same(trace(model), trace(model))


def test_training_leaves_batch_statistics_alone() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Sequential(nn.BatchNorm2d(8, momentum=None))).train()
    before = Snapshot(model)
    check(trace(model), "input > conv:0.weight > bn:1.weight > bn:2.0.weight")
    before.check(model)
    assert model[1].num_batches_tracked == 0


def test_mixed_modes_and_frozen_parameters_stay() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8).eval(), nn.Dropout().eval()).train()
    model[1].eval()
    model[0].requires_grad_(False)
    before = Snapshot(model)
    trace(model)
    before.check(model)


def test_gradients_stay() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 5))
    model[0].weight.grad = torch.full((8, 3, 3, 3), 3.0)
    before = Snapshot(model)
    trace(model)
    before.check(model)
    assert bool((model[0].weight.grad == 3).all())
    assert model[1].weight.grad is None


def test_trace_within_a_training_step_keeps_its_graph() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 5))
    loss = model(torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))).square().mean()
    trace(model)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_hooks_run_and_stay() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    extra = conv(8, 8)
    model.add_module("extra", extra)
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append("hook"))
    model[1].register_forward_pre_hook(lambda module, args: seen.append("pre"))
    model[1].register_forward_hook(lambda module, args, output: output + args[0])
    before = Snapshot(model)
    check(
        trace(model),
        "input > conv:0.weight > conv:1.weight > sum > conv:extra.weight",
        "conv:0.weight > sum",
    )
    before.check(model)
    assert seen == ["hook", "pre"]


def test_random_states_stay() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        random.random(), np.random.rand(), torch.rand(3), torch.randperm(4)
        return m.a(F.dropout(x + torch.randn_like(x) + torch.rand(3, 1, 1), 0.5))

    model = Net(forward, a=conv(3, 8))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    trace(model)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])


def test_normal_number_that_numpy_has_left_over_stays() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        np.random.standard_normal()
        return m.a(x)

    np.random.seed(0)
    np.random.standard_normal()  # numpy makes them in pairs
    state: Any = np.random.get_state()
    trace(Net(forward, a=conv(3, 8)))
    assert state[3] == 1
    assert np.random.get_state(legacy=True)[2:] == state[2:]


def test_failed_trace_leaves_the_model_and_the_random_state_alone() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.count += 1
        m.cache = torch.rand(3)
        m.eval()
        m.running.add_(x.mean((0, 2, 3)))
        raise ValueError("broken on purpose")

    model = restless(forward)
    before, state = Snapshot(model), torch.get_rng_state()
    with pytest.raises(TraceError, match="broken on purpose"):
        trace(model)
    before.check(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_trace_leaves_no_mode_behind() -> None:
    with pytest.raises(TraceError):
        trace(Net(lambda m, x: 1 / 0, a=conv(3, 8)))
    assert torch.is_grad_enabled()
    assert torch.overrides._get_current_function_mode() is None
    assert not torch.ones(1).add(1).is_meta


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_trace_under_gradient_modes(context: Callable[[], Any]) -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 5))
    with context():
        graph = trace(model)
    assert same(graph, trace(model))
    model(torch.zeros(2, *IMAGE)).sum().backward()  # nothing in the model became an inference tensor


def test_trace_under_autocast() -> None:
    model = attention_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        graph = trace(model)
    assert same(graph, trace(model))


def test_second_trace_gives_the_same_graph() -> None:
    model = restless(update_running_mean)
    assert same(trace(model), trace(model))


# Dtypes and devices -----------------------------------------------------------------------------------------------


def plain_network() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, bias=True),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        conv(8, 8, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_does_not_change_the_graph(dtype: torch.dtype) -> None:
    assert same(trace(plain_network().to(dtype)), trace(plain_network()))


def test_mixed_dtypes_trace() -> None:
    model = Net(lambda m, x: m.b(m.a(x).float()), a=conv(3, 8).half(), b=conv(8, 5))
    check(trace(model), f"input > {A} > {B}")


def test_meta_parameters_trace() -> None:
    with torch.device("meta"):
        model = plain_network()
    before = Snapshot(model)
    assert same(trace(model), trace(plain_network()))
    before.check(model)


def test_default_device_does_not_matter() -> None:
    model = plain_network()
    with torch.device("meta"):
        assert same(trace(model), trace(plain_network()))


# Size -------------------------------------------------------------------------------------------------------------


def test_chain_of_ten_thousand_layers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(linear(4, 4) for _ in range(10_000)))
    graph = trace(model, input_shape=(4,))
    assert len(graph) == 10_001
    assert graph.depth == 10_001
    assert graph.edges.tolist() == [[i, i + 1] for i in range(10_000)]


def test_distances_in_a_graph_of_ten_thousand_nodes() -> None:
    graph = chain(10_000)
    distances = graph.distances()
    assert int(np.count_nonzero(distances)) == sum(10_000 - d for d in range(1, 51))
    assert distances[9_000, 9_000:9_060].tolist() == [*range(51), *(0,) * 9]


def chain(nodes: int) -> ArchGraph:
    return graph_of(nodes, [(i, i + 1) for i in range(nodes - 1)])


def graph_of(nodes: int, edges: list[tuple[int, int]]) -> ArchGraph:
    """A graph without parameters; its nodes must be numbered in the order of their levels."""
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        level[target] = max(level[target], level[source] + 1)
    order = np.argsort(level, kind="stable")
    place = np.argsort(order)
    moved = np.array(sorted((int(place[b]), int(place[a])) for a, b in edges), dtype=np.int32).reshape(-1, 2)[:, ::-1]
    return ArchGraph(
        primitives=np.full(nodes, PRIMITIVES.index("sum"), dtype=np.int8),
        edges=np.ascontiguousarray(moved),
        level_offsets=np.searchsorted(np.sort(level), np.arange(level.max() + 2)).astype(np.int32),
        shapes=[None] * nodes,
        weights=[None] * nodes,
        norm_biases=[None] * nodes,
    )


# Inputs -----------------------------------------------------------------------------------------------------------


def test_two_images_as_a_tuple() -> None:
    model = Net(lambda m, left, right: m.a(left) + m.b(right), a=conv(3, 8), b=conv(1, 8))
    graph = trace(model, example_inputs=(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)))
    check(graph, f"input > {A} > sum", f"input > {B} > sum")


def test_keyword_only_inputs_as_a_dict() -> None:
    def forward(m: Any, *, image: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
        assert mask is None
        return m.a(image * scale)

    check(
        trace(
            Net(forward, a=conv(3, 8)), example_inputs={"image": torch.zeros(1, 3, 8, 8), "scale": 0.5, "mask": None}
        ),
        f"input > {A}",
    )


def test_token_ids() -> None:
    model = Net(
        lambda m, ids: m.fc(m.att(x := m.words(ids), x, x)[0][:, 0]),
        words=nn.Embedding(50, 8),
        att=torch_attention(batch_first=True),
        fc=linear(8, 5),
    )
    graph = trace(model, example_inputs=(torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0)),))
    check(graph, f"input > {PACKED} > conv:fc.weight")
    assert list(graph.skipped) == ["words.weight"]


def test_nested_inputs() -> None:
    model = Net(lambda m, images, more: m.a(images[0]) + m.b(more["image"][0]), a=conv(3, 8), b=conv(3, 8))
    image = torch.zeros(2, 3, 8, 8)
    graph = trace(model, example_inputs=([image], {"image": (image,)}))
    check(graph, f"input > {A} > sum", f"input > {B} > sum")


def test_example_inputs_are_neither_changed_nor_read() -> None:
    image = torch.zeros(2, 3, 8, 8)
    trace(Net(lambda m, x: m.a(x.add_(1)), a=conv(3, 8)), example_inputs=(image,))
    assert torch.equal(image, torch.zeros(2, 3, 8, 8))
    assert not image.__dict__


@pytest.mark.parametrize("shape", [[3, 8, 8], torch.Size((3, 8, 8)), tuple(np.array([3, 8, 8]))])
def test_input_shape_of_any_integer_sequence(shape: Any) -> None:
    check(trace(Net(lambda m, x: m.a(x), a=conv(3, 8)), input_shape=shape), f"input > {A}")


def test_vector_input() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5))
    check(
        trace(model, input_shape=(12,)),
        "input > conv:0.weight > bias:0.bias > ln:1.weight > conv:3.weight > bias:3.bias",
    )


# Wrappers and unusual callables -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(x + checkpoint(m.b, x, use_reentrant=reentrant))

    check(trace(abc(forward)), f"input > {A} > {B} > sum > {C}", f"{A} > sum")


def test_sequential_checkpointing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint_sequential([m.a, m.b, m.c], 2, x, use_reentrant=False)

    check(trace(abc(forward)), f"input > {A} > {B} > {C}")


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * 2


class PassThrough(torch.autograd.Function):
    """Returns its input itself, as gradient reversal layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x


class ViewThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.clamp_(min=0)


class SeparateContext(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        return torch.where(x > 0, x, slope * x), x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])


def beside(function: Callable[..., Tensor], **parts: Any) -> Net:
    """c(function(a(x)) + b(x)): whatever the function hides, the network still has a path past it."""
    parts.setdefault("a", conv(3, 8))
    return Net(lambda m, x: m.c(function(m, m.a(x)) + m.b(x)), b=conv(3, 8), c=conv(8, 5), **parts)


BESIDE = (f"input > {A} > sum > {C}", f"input > {B} > sum")


@pytest.mark.parametrize("function", [Double, PassThrough, ViewThrough, InPlace])
def test_custom_autograd_function(function: type[torch.autograd.Function]) -> None:
    check(trace(beside(lambda m, y: function.apply(y))), *BESIDE)


def test_custom_autograd_function_with_two_outputs() -> None:
    check(trace(beside(lambda m, y: sum(SeparateContext.apply(y, 0.1)))), *BESIDE)


def test_operators_by_their_full_name() -> None:
    check(trace(beside(lambda m, y: torch.ops.aten.relu(torch.ops.aten.mul.Tensor(y, 2)))), *BESIDE)


def test_custom_operator() -> None:
    name = "ghnfast_test::halve"
    if not hasattr(torch.ops.ghnfast_test, "halve"):
        operator = torch.library.custom_op(name, lambda x: x / 2, mutates_args=(), schema="(Tensor x) -> Tensor")
        operator.register_fake(lambda x: torch.empty_like(x))
    check(trace(beside(lambda m, y: torch.ops.ghnfast_test.halve(y))), *BESIDE)


def scripted_function() -> nn.Module:
    swish = torch.jit.script(nn.functional.silu)
    return beside(lambda m, y: swish(y))


def scripted_activation() -> nn.Module:
    return beside(lambda m, y: m.act(y), act=torch.jit.script(nn.SiLU()))


def scripted_layer() -> nn.Module:
    return beside(lambda m, y: y, a=torch.jit.script(conv(3, 8)))


def jit_traced_layer() -> nn.Module:
    return beside(lambda m, y: y, a=torch.jit.trace(conv(3, 8), torch.zeros(1, 3, 8, 8)))


def mapped_function() -> nn.Module:
    return beside(lambda m, y: torch.vmap(torch.tanh)(y))


def mapped_layer() -> nn.Module:
    class Mapped(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(super().forward)(x[:, None]).squeeze(1)

    return beside(lambda m, y: y, a=Mapped(3, 8, 3, padding=1, bias=False))


def differentiated_function() -> nn.Module:
    """A jvp wraps its inputs in tensors of its own."""
    return beside(lambda m, y: torch.func.jvp(torch.tanh, (y,), (torch.ones_like(y),))[0])


HIDDEN = [
    scripted_function,
    scripted_activation,
    scripted_layer,
    jit_traced_layer,
    mapped_function,
    mapped_layer,
    differentiated_function,
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("build", HIDDEN)
def test_what_cannot_be_seen_into_is_an_error_and_never_a_wrong_graph(build: Build) -> None:
    try:
        graph = trace(build())
    except TraceError:
        return
    check(graph, *BESIDE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_model_is_a_clear_error_or_traces() -> None:
    model = torch.jit.script(nn.Sequential(OrderedDict(a=conv(3, 8), b=conv(8, 8))))
    try:
        graph = trace(model)
    except TraceError:
        return
    check(graph, f"input > {A} > {B}")


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_model_that_never_ran(backend: str) -> None:
    model: Any = torch.compile(abc(lambda m, x: m.b(m.a(x))), backend=backend)
    graph = trace(model)
    check(graph, f"input > {A.replace(':', ':_orig_mod.')} > {B.replace(':', ':_orig_mod.')}")


def test_compiled_submodule() -> None:
    model = abc(lambda m, x: m.b(m.a(x)))
    model.a.compile()
    check(trace(model), f"input > {A} > {B}")


def test_data_parallel_wrapper() -> None:
    model = nn.DataParallel(abc(lambda m, x: m.b(m.a(x))))
    check(trace(model), "input > conv:module.a.weight > conv:module.b.weight")


# Functions that the graph does not show ---------------------------------------------------------------------------

CONTRACTED: dict[str, Callable[[Tensor], Tensor]] = {
    "data": lambda x: x.data * 2,
    "detach": lambda x: x.detach(),
    "dropout": lambda x: F.dropout2d(F.dropout(x, 0.2), 0.2),
    "mask": lambda x: x * torch.zeros_like(x) + x.new_ones(x.shape),
    "stochastic depth": lambda x: x.div(0.9) * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.9),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "host mask": lambda x: x * (torch.rand(x.shape[0], 1, 1, 1) > 0.5),
    "pad": lambda x: F.pad(x, (0, 1, 0, 1), "reflect"),
    "roll": lambda x: torch.roll(x, (1, 1), (2, 3)),
    "channel shuffle": lambda x: x.view(2, 2, 4, 16, 16).transpose(1, 2).flatten(1, 2),
    "split and join": lambda x: torch.cat(x.split(4, 1), 1),
    "flips": lambda x: torch.stack([x, x.flip(-1)]).mean(0),
    "own swish": lambda x: x * x.sigmoid(),
    "GLU": lambda x: F.glu(x, 1),
    "own GLU": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(),
    "GELU by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "where": lambda x: torch.where(x > 0, x, torch.zeros((), device=x.device)),
    "sort": lambda x: torch.sort(x, 1).values,
    "cumsum": lambda x: x.cumsum(1),
    "fft": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "gram": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "out of chunks": lambda x: sum(x.unbind(1)),  # type: ignore[dict-item,return-value]
    "layer norm without weights": lambda x: F.layer_norm(x, x.shape[1:]),
    "numeric attributes": lambda x: x / x.size(1) * x.numel() / x.element_size(),
}


@pytest.mark.parametrize("name", CONTRACTED)
def test_functions_without_weights_are_contracted(name: str) -> None:
    """Among them products and sums of a tensor with itself, which are no gates and no sums."""
    check(trace(Net(lambda m, x: CONTRACTED[name](m.a(x)), a=conv(3, 8))), f"input > {A}")


def test_channel_split_with_a_branch_and_shuffle() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, dim=1)
        x = torch.cat((left, m.b(right)), dim=1)
        return m.c(x.view(2, 2, 4, 16, 16).transpose(1, 2).reshape(2, 8, 16, 16))

    graph = trace(Net(forward, a=conv(3, 8), b=conv(4, 4), c=conv(8, 5)))
    check(graph, f"input > {A} > {B} > concat > {C}", f"{A} > concat")


@pytest.mark.parametrize(
    "join",
    [
        lambda y: torch.cat([y, y], 1),
        lambda y: torch.cat([y, F.relu(y)], 1),
        lambda y: torch.cat([y[:, :4], y[:, 4:], y], 1),
        lambda y: y + y,
        lambda y: y + F.relu(y),
        lambda y: y.view(2, -1) + y.flatten(1),
        lambda y: y.add_(y),
        lambda y: torch.stack([y, y]),
    ],
)
def test_sum_or_concatenation_of_one_value_is_no_node(join: Callable[[Tensor], Tensor]) -> None:
    check(trace(Net(lambda m, x: join(m.a(x)), a=conv(3, 8))), f"input > {A}")


# Squeeze-and-excitation -------------------------------------------------------------------------------------------


def pointwise(inputs: int, outputs: int) -> nn.Module:
    return conv(inputs, outputs, 1)


SQUEEZES: dict[str, tuple[Callable[..., Tensor], Callable[[int, int], nn.Module]]] = {
    "adaptive pool and convolutions": (lambda m, x: x * m.se(F.adaptive_avg_pool2d(x, 1)).sigmoid(), pointwise),
    "gate first": (lambda m, x: m.se(F.adaptive_avg_pool2d(x, 1)).sigmoid() * x, pointwise),
    "mean, linear and view": (lambda m, x: x * m.se(x.mean((2, 3))).sigmoid().view(2, 8, 1, 1), linear),
    "expand_as": (
        lambda m, x: x * torch.sigmoid(m.se(x.mean((2, 3), keepdim=True))).expand_as(x),
        pointwise,
    ),
    "average pool of the image's size": (lambda m, x: x * m.se(F.avg_pool2d(x, x.shape[2:])).sigmoid(), pointwise),
    "flattened pool": (
        lambda m, x: x * m.se(F.adaptive_avg_pool2d(x, 1).flatten(1)).sigmoid()[:, :, None, None],
        linear,
    ),
    "two means": (lambda m, x: x * m.se(x.mean(3, True).mean(2, True)).clamp(0, 1), pointwise),
    "in place": (lambda m, x: x.mul_(m.se(F.adaptive_avg_pool2d(x, 1)).sigmoid_()), pointwise),
    "torch.mul by keyword": (lambda m, x: torch.mul(input=x, other=m.se(x.mean((2, 3), True)).sigmoid()), pointwise),
}


@pytest.mark.parametrize("name", SQUEEZES)
def test_squeeze_and_excitation_is_a_gate_without_its_pool(name: str) -> None:
    function, layer = SQUEEZES[name]
    model = Net(lambda m, x: m.c(function(m, m.a(x))), a=conv(3, 8), c=conv(8, 5), se=Squeeze(layer))
    check(trace(model), f"input > {A} > conv:se.r.weight > conv:se.e.weight > cse > {C}", f"{A} > cse")


def test_gate_from_an_average_and_a_maximum() -> None:
    """The channel attention of CBAM: both pools belong to the gate."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        gate = m.se(F.adaptive_avg_pool2d(x, 1)) + m.se(F.adaptive_max_pool2d(x, 1))
        return m.c(x * gate.sigmoid())

    branch = [f"{A} > conv:se.r.weight#{i} > conv:se.e.weight#{i} > sum > cse > {C}" for i in (1, 2)]
    check(trace(Net(forward, a=conv(3, 8), c=conv(8, 5), se=Squeeze(pointwise))), *branch, f"input > {A} > cse")


def test_gate_inside_which_an_activation_is_spelled_out() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        gate = m.r(x.mean((2, 3), keepdim=True))
        gate = gate * gate.sigmoid()
        return m.c(x * m.e(gate).sigmoid())

    model = Net(forward, a=conv(3, 8), c=conv(8, 5), r=conv(8, 4, 1), e=conv(4, 8, 1))
    check(trace(model), f"input > {A} > conv:r.weight > conv:e.weight > cse > {C}", f"{A} > cse")


def test_gate_by_a_convolution_over_channels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        gate = m.mix(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1).sigmoid()
        return m.c(x * gate)

    graph = trace(Net(forward, a=conv(3, 8), c=conv(8, 5), mix=nn.Conv1d(1, 1, 3, padding=1, bias=False)))
    check(graph, f"input > {A} > cse > {C}")
    assert list(graph.skipped) == ["mix.weight"]


def test_gate_of_every_pixel_is_no_cse() -> None:
    check(trace(abc(lambda m, x: m.c((y := m.a(x)) * m.b(y).sigmoid()))), f"input > {A} > {B} > {C}", f"{A} > {C}")


def test_spatial_gate_is_no_cse() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        plane = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return m.c(x * m.b(plane).sigmoid())

    check(trace(Net(forward, a=conv(3, 8), b=conv(2, 1), c=conv(8, 5))), f"input > {A} > {B} > {C}", f"{A} > {C}")


def test_gate_between_pooled_features_keeps_the_pool() -> None:
    model = Net(
        lambda m, x: m.fc((y := m.a(x).mean((2, 3))) * m.g(y).sigmoid()), a=conv(3, 8), g=linear(8, 8), fc=linear(8, 5)
    )
    check(trace(model), f"input > {A} > glob_avg > conv:g.weight > conv:fc.weight", "glob_avg > conv:fc.weight")


# Pools and normalization ------------------------------------------------------------------------------------------

GLOBAL_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean([2, 3]),
    "mean of negative dimensions": lambda x: torch.mean(x, (-1, -2)),
    "mean then mean": lambda x: x.mean(3).mean(2),
    "mean of the last, twice": lambda x: x.mean(-1).mean(-1),
    "kept dimensions": lambda x: x.mean((2, 3), True)[:, :, 0, 0],
    "flatten then mean": lambda x: x.flatten(2).mean(-1),
    "view then mean": lambda x: x.view(2, 8, -1).mean(2),
    "tokens then mean": lambda x: x.flatten(2).transpose(1, 2).mean(1),
    "channels last": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "adaptive pair": lambda x: nn.AdaptiveAvgPool2d((1, 1))(x).squeeze(-1).squeeze(-1),
    "adaptive 1-D": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 1)[..., 0],
}


@pytest.mark.parametrize("name", GLOBAL_POOLS)
def test_global_pool_is_one_node(name: str) -> None:
    model = Net(lambda m, x: m.fc(GLOBAL_POOLS[name](m.a(x))), a=conv(3, 8), fc=linear(8, 5))
    check(trace(model), f"input > {A} > glob_avg > conv:fc.weight")


def test_adaptive_pool_to_a_grid_is_a_global_average_too() -> None:
    model = Net(lambda m, x: m.fc(F.adaptive_avg_pool2d(m.a(x), (2, None)).flatten(1)), a=conv(3, 8), fc=linear(256, 5))
    check(trace(model), f"input > {A} > glob_avg > conv:fc.weight")


def channel_norm(x: Tensor, dim: int) -> Tensor:
    mean = x.mean(dim, keepdim=True)
    variance = (x - mean).pow(2).mean(dim, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6)


NORMS: dict[str, Callable[..., Tensor]] = {
    "channels first": lambda m, x: m.w[:, None, None] * channel_norm(x, 1) + m.b[:, None, None],
    "channels last": lambda m, x: (channel_norm(x.permute(0, 2, 3, 1), -1) * m.w + m.b).permute(0, 3, 1, 2),
    "tokens": lambda m, x: (
        (m.w * channel_norm(x.flatten(2).transpose(1, 2), -1) + m.b).transpose(1, 2).view(2, 8, 16, 16)
    ),
    "root mean square": lambda m, x: x * (x * x).mean(1, True).rsqrt() * m.w[:, None, None] + m.b[:, None, None],
}


@pytest.mark.parametrize("name", NORMS)
def test_spelled_out_layer_norm_is_no_pool_and_reports_its_weights(name: str) -> None:
    model = Net(lambda m, x: m.c(NORMS[name](m, m.a(x))), a=conv(3, 8), c=conv(8, 5), w=weight(8), b=weight(8))
    graph = trace(model)
    check(graph, f"input > {A} > {C}")
    assert set(graph.skipped) == {"w", "b"}


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (nn.BatchNorm2d(8), "bn"),
        (nn.GroupNorm(2, 8), "ln"),
        (nn.LayerNorm(16), "ln"),
        (nn.InstanceNorm2d(8, affine=True), "ln"),
        (nn.RMSNorm(16), "ln"),
    ],
)
def test_normalization_layer_is_one_node(layer: nn.Module, op: str) -> None:
    graph = trace(Net(lambda m, x: m.c(m.norm(m.a(x))), a=conv(3, 8), norm=layer, c=conv(8, 5)))
    check(graph, f"input > {A} > {op}:norm.weight > {C}")
    assert not graph.skipped


def test_normalization_by_function_with_parameters() -> None:
    model = Net(
        lambda m, x: F.group_norm(F.batch_norm(m.a(x), None, None, m.w, m.b, training=True), 2, weight=m.v, bias=m.u),
        a=conv(3, 8),
        w=weight(8),
        b=weight(8),
        v=weight(8),
        u=weight(8),
    )
    graph = trace(model)
    check(graph, f"input > {A} > bn:w > ln:v")
    assert [name for name in graph.norm_biases if name] == ["b", "u"]


def test_normalization_without_parameters_is_no_node() -> None:
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8), nn.LocalResponseNorm(2), conv(8, 5)
    )
    check(trace(model), "input > conv:0.weight > conv:4.weight")


@pytest.mark.parametrize(
    ("options", "op"),
    [
        ({"groups": 2}, "sep_conv"),
        ({"groups": 8}, "sep_conv"),
        ({"groups": 8, "dilation": 2, "padding": 2}, "dil_conv"),
        ({"dilation": 2, "padding": 2}, "conv"),
        ({"stride": 2}, "conv"),
        ({"padding_mode": "circular"}, "conv"),
        ({"padding": "same"}, "conv"),
    ],
)
def test_kinds_of_convolution(options: dict[str, Any], op: str) -> None:
    model = Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8, **options), c=conv(8, 5))
    check(trace(model), f"input > {A} > {op}:b.weight > {C}")


# Position encodings and biases ------------------------------------------------------------------------------------

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


# Branches without a path ------------------------------------------------------------------------------------------


def test_branch_that_no_output_needs_is_dropped_and_reported() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.norm(m.b(m.a(x)))
        return m.c(m.a(x))

    graph = trace(abc(forward, norm=nn.BatchNorm2d(8)))
    check(graph, f"input > {A} > {C}")
    assert set(graph.skipped) == {"b.weight", "norm.weight", "norm.bias"}
    assert all("output" in reason for reason in graph.skipped.values())


def test_branch_fed_by_constants_is_dropped_and_reported() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(m.a(x) + m.norm(m.k(torch.ones(2, 3, 16, 16))))

    graph = trace(abc(forward, k=conv(3, 8, bias=True), norm=nn.BatchNorm2d(8)))
    check(graph, f"input > {A} > {C}")
    assert set(graph.skipped) == {"b.weight", "k.weight", "k.bias", "norm.weight", "norm.bias"}
    assert "input" in graph.skipped["k.weight"]


def test_output_multiplied_by_zero_shapes_still_connects() -> None:
    """`zeros_like` takes the shape of its argument and nothing else: the branch is dead."""
    graph = trace(abc(lambda m, x: m.c(torch.zeros_like(m.b(m.a(x))) + m.a(x))))
    check(graph, f"input > {A} > {C}")
    assert list(graph.skipped) == ["b.weight"]


# The classification layer -----------------------------------------------------------------------------------------


def last(graph: ArchGraph) -> list[str | None]:
    assert graph.classifier_weight is not None
    return [graph.params[node] for node in range(graph.classifier_weight, len(graph))]


def test_classifier_comes_last_even_where_an_auxiliary_head_is_deeper() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.a(x)
        return m.fc(x.mean((2, 3))), m.aux(x).mean((2, 3))

    aux = nn.Sequential(*(conv(8, 8, bias=True) for _ in range(6)))
    graph = trace(Net(forward, a=conv(3, 8), fc=nn.Linear(8, 5), aux=aux))
    assert last(graph) == ["fc.weight", "fc.bias"]
    assert graph.classifier_bias == len(graph) - 1
    assert graph.levels[-1] > graph.levels[-2] > graph.levels[-3]


def test_classifier_of_the_first_output_is_the_classifier() -> None:
    model = Net(lambda m, x: {"cls": m.b(x.mean((2, 3))), "box": m.a(x.mean((2, 3)))}, a=linear(3, 4), b=linear(3, 5))
    assert last(trace(model)) == ["b.weight"]


@pytest.mark.parametrize("bias", [True, False])
def test_pool_behind_the_classifier_moves_in_front(bias: bool) -> None:
    head = nn.Sequential(
        nn.Dropout(), conv(8, 5, 1, bias=bias), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    graph = trace(Net(lambda m, x: m.head(m.a(x)), a=conv(3, 8), head=head))
    check(graph, f"input > {A} > glob_avg > conv:head.1.weight" + (" > bias:head.1.bias" if bias else ""))
    assert last(graph) == ["head.1.weight", "head.1.bias"][: 1 + bias]


def test_network_without_a_classifier() -> None:
    graph = trace(abc(lambda m, x: m.b(m.a(x))))
    assert graph.classifier_weight is None
    assert graph.classifier_bias is None


def test_network_that_ends_in_an_activation_or_a_softmax() -> None:
    graph = trace(Net(lambda m, x: m.fc(m.a(x).mean((2, 3))).log_softmax(-1), a=conv(3, 8), fc=nn.Linear(8, 5)))
    assert last(graph) == ["fc.weight", "fc.bias"]


def test_one_linear_layer() -> None:
    graph = trace(nn.Linear(7, 5), input_shape=(7,))
    check(graph, "input > conv:weight > bias:bias")
    assert last(graph) == ["weight", "bias"]


def test_one_convolution() -> None:
    graph = trace(conv(3, 8))
    check(graph, "input > conv:weight")
    assert graph.depth == 2


def test_one_linear_layer_without_bias_on_tokens() -> None:
    check(trace(linear(7, 5), input_shape=(4, 7)), "input > conv:weight")


# ArchGraph --------------------------------------------------------------------------------------------------------


def residual_network() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.fc((x + m.b(m.norm(x)) + m.c(x)).mean((2, 3)))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), norm=nn.BatchNorm2d(8), fc=nn.Linear(8, 5), unused=weight(3)
    )


def test_graph_pickles() -> None:
    graph = trace(residual_network())
    for made in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert same(made, graph)
        assert np.array_equal(made.distances(), graph.distances())


def test_networkx_graph_has_the_same_nodes_and_edges() -> None:
    graph = trace(residual_network())
    converted = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(converted)
    assert sorted(converted.edges) == sorted(map(tuple, graph.edges.tolist()))
    assert [(data["op"], data["param"]) for _, data in sorted(converted.nodes(data=True))] == labels(graph)
    assert [converted.nodes[node]["level"] for node in range(len(graph))] == graph.levels.tolist()


@pytest.mark.parametrize("build", [plain_network, residual_network])
def test_nodes_are_sorted_by_level_and_edges_go_up(build: Build) -> None:
    graph = trace(build())
    levels = graph.levels
    assert len(levels) == len(graph)
    assert bool((np.diff(levels) >= 0).all())
    assert levels.max() + 1 == graph.depth
    assert bool((levels[graph.edges[:, 0]] < levels[graph.edges[:, 1]]).all())
    assert bool((np.diff(graph.edges[:, 1]) >= 0).all())
    assert len(set(map(tuple, graph.edges.tolist()))) == len(graph.edges)


def test_every_parameter_is_in_the_graph_or_reported() -> None:
    model = residual_network()
    graph = trace(model)
    placed = {name for name in (*graph.weights, *graph.norm_biases) if name}
    names = [name for name, _ in model.named_parameters()]
    assert placed | set(graph.skipped) == set(names)
    assert not placed & set(graph.skipped)


@st.composite
def random_graphs(draw: st.DrawFn) -> ArchGraph:
    nodes = draw(st.integers(1, 70))
    # Long chains matter as much as dense graphs: a cutoff of 50 hops has to cut something off.
    reach = draw(st.sampled_from([1, 2, 5, 70]))
    edges = {
        (source, target)
        for target in range(1, nodes)
        for source in draw(st.lists(st.integers(max(0, target - reach), target - 1), max_size=3))
    }
    return graph_of(nodes, sorted(edges))


@settings(derandomize=True, max_examples=40, deadline=None, database=None)
@given(graph=random_graphs(), cutoff=st.sampled_from([1, 2, 50, 255]))
def test_distances_are_those_of_networkx(graph: ArchGraph, cutoff: int) -> None:
    expected = np.zeros((len(graph), len(graph)), dtype=np.uint8)
    for source, found in networkx.all_pairs_shortest_path_length(graph.to_networkx(), cutoff=cutoff):
        for target, hops in found.items():
            expected[source, target] = hops
    distances = graph.distances(cutoff)
    assert distances.dtype == np.uint8
    assert np.array_equal(distances, expected)


def test_cutoff_counts_hops_and_defaults_to_fifty() -> None:
    graph = chain(60)
    assert graph.distances().max() == 50
    assert graph.distances(2).max() == 2
    assert np.array_equal(np.argwhere(graph.distances(1)), graph.edges)


@pytest.mark.parametrize("cutoff", [0, -1, 256, 1000])
def test_cutoff_outside_its_range_is_an_error(cutoff: int) -> None:
    with pytest.raises(ValueError, match=f"{cutoff}.*1 to 255"):
        chain(3).distances(cutoff)


# Errors -----------------------------------------------------------------------------------------------------------


def test_model_without_parameters() -> None:
    with pytest.raises(TraceError, match="ReLU has no parameters"):
        trace(nn.ReLU())


def test_forward_that_raises() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise KeyError("my own mistake")

    with pytest.raises(TraceError, match=r"forward of Net failed.*KeyError.*my own mistake") as caught:
        trace(Net(forward, a=conv(3, 8)))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "output", [lambda x: torch.ones(3), lambda x: None, lambda x: torch.zeros_like(x), lambda x: {}]
)
def test_output_that_does_not_depend_on_the_input(output: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TraceError, match="no output of Net depends on its input"):
        trace(Net(lambda m, x: output(m.a(x)), a=conv(3, 8)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 16, 16), r"\(2, 4, 16, 16\)"),
        ((3, 1, 1), r"\(2, 3, 1, 1\)"),
        ((16, 16), r"\(2, 16, 16\)"),
        ((), "positive sizes"),
        ((3, -1, 16), "positive sizes"),
        ((3, 0, 16), "positive sizes"),
        ((3, 16.0, 16), "positive sizes"),
        (("3", 16, 16), "positive sizes"),
        (16, "positive sizes"),
    ],
)
def test_wrong_input_shape(shape: Any, message: str) -> None:
    model = nn.Sequential(conv(3, 8, padding=0), conv(8, 5))
    with pytest.raises(TraceError, match=message):
        trace(model, input_shape=shape)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True)]
)
def test_norm_of_the_wrong_width_is_an_error(layer: nn.Module) -> None:
    """A layer that could never run must not pass for one that is fine."""
    with pytest.raises(TraceError, match="forward of Sequential failed"):
        trace(nn.Sequential(conv(3, 6), layer))


def test_attention_of_the_wrong_width_is_an_error() -> None:
    with pytest.raises(TraceError, match="forward of TokenNet failed"):
        trace(TokenNet(lambda m, x: m.att(x, x, x)[0], att=nn.MultiheadAttention(6, 2, batch_first=True)))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.adaptive_avg_pool2d(m.a(x).mean((2, 3)), 1),
        lambda m, x: F.max_pool2d(m.a(x).mean((2, 3)), 2),
        lambda m, x: m.a(x) + m.a(x)[..., :3],
        lambda m, x: torch.cat([m.a(x), m.a(x)[:, :, :3]], 1),
        lambda m, x: m.a(x).view(2, 7, -1),
        lambda m, x: m.a(x).flatten(1) @ m.a(x).flatten(1),
        lambda m, x: F.scaled_dot_product_attention(m.a(x), m.a(x)[..., :3], m.a(x)),
        lambda m, x: m.a(x) * torch.ones(3),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(function: Callable[..., Any]) -> None:
    with pytest.raises(TraceError, match="forward of Net failed"):
        trace(Net(function, a=conv(3, 8)))


@pytest.mark.parametrize("model", ["resnet50", nn.Linear, None, lambda x: x])
def test_something_that_is_no_module(model: Any) -> None:
    with pytest.raises(TraceError, match=r"torch\.nn\.Module is accepted"):
        trace(model)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_model_that_never_ran() -> None:
    with pytest.raises(TraceError, match=r"fc\.weight is not initialized"):
        trace(Net(lambda m, x: m.fc(x.flatten(1)), fc=nn.LazyLinear(5)))


def test_input_shape_and_example_inputs_together() -> None:
    with pytest.raises(TraceError, match="both input_shape and example_inputs"):
        trace(conv(3, 8), input_shape=IMAGE, example_inputs=(torch.zeros(1, *IMAGE),))


@pytest.mark.parametrize("inputs", [torch.zeros(1, 3, 8, 8), 3, "image"])
def test_example_inputs_of_another_type(inputs: Any) -> None:
    with pytest.raises(TraceError, match="a tuple of positional arguments or a dict"):
        trace(conv(3, 8), example_inputs=inputs)


def test_too_many_example_inputs() -> None:
    with pytest.raises(TraceError, match="2 example_inputs"):
        trace(conv(3, 8), example_inputs=(torch.zeros(1, *IMAGE), 3))


# Layers that go straight to their rule ------------------------------------------------------------------------------


def changed(layer: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=2),
    "convolution with the same padding": lambda: nn.Conv2d(8, 8, 3, padding="same"),
    "convolution with other attributes": lambda: changed(nn.Conv2d(8, 8, 3), stride=[1, 1], padding=2, dilation=(2,)),
    "convolution with other padding": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "linear": lambda: nn.Linear(16, 16),
    "batch norm": lambda: nn.BatchNorm2d(8),
    "batch norm without momentum": lambda: nn.BatchNorm2d(8, momentum=None),
    "batch norm without statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "batch norm without parameters": lambda: nn.BatchNorm2d(8, affine=False),
    "layer norm": lambda: nn.LayerNorm((8, 16, 16)),
    "layer norm without bias": lambda: nn.LayerNorm(16, bias=False),
    "pool": lambda: nn.AdaptiveAvgPool2d((1, None)),
    "maximum pool": lambda: nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
    "maximum pool of the whole": lambda: nn.MaxPool2d([16, 16]),  # type: ignore[arg-type]
    "average pool": lambda: nn.AvgPool2d((2, 3), 2, count_include_pad=False),
    "average pool with other attributes": lambda: changed(nn.AvgPool2d(2), stride=(), padding=(1,)),
    "identity": nn.Identity,
    "dropout": lambda: nn.Dropout(inplace=True),
    **{kind.__name__: kind for kind in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid)},
    "relu in place": lambda: nn.ReLU(inplace=True),
}


def subclassed(layer: nn.Module) -> nn.Module:
    """The same layer of a class of its own, whose forward has to be run."""
    kind = type(layer)
    layer.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, x: kind.forward(self, x)})
    return layer


def test_every_such_layer_is_tested() -> None:
    assert {type(build()) for build in LAYERS.values()} == set(LEAVES)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_gives_the_graph_of_its_forward(name: str, training: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.last(m.layer(y) + y[:, :1, :1, :1])

    models = [
        Net(forward, a=conv(3, 8), layer=layer, last=conv(8, 5)).train(training)
        for layer in (LAYERS[name](), subclassed(LAYERS[name]()))
    ]
    before = Snapshot(models[0])
    assert same(*map(trace, models))
    before.check(models[0])


def test_maximum_pool_that_returns_indices_runs_its_forward() -> None:
    model = Net(
        lambda m, x: m.b(m.pool(m.a(x))[0]), a=conv(3, 8), b=conv(8, 8), pool=nn.MaxPool2d(2, return_indices=True)
    )
    check(trace(model), f"input > {A} > max_pool > {B}")


def doubled(layer: nn.Module) -> nn.Module:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x

    layer.__class__ = Doubled
    return layer


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: output + args[0])
    return layer


def replaced(layer: nn.Module) -> nn.Module:
    own = layer.forward
    layer.forward = lambda x: own(x) + x
    return layer


def compiled(layer: nn.Module) -> nn.Module:
    layer._compiled_call_impl = lambda x: layer.forward(x) + x
    return layer


@pytest.mark.parametrize("change", [doubled, hooked, replaced, compiled])
def test_layer_that_does_something_besides(change: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(conv(3, 8), change(conv(8, 8)), conv(8, 5))
    before = Snapshot(model)
    check(trace(model), "input > conv:0.weight > conv:1.weight > sum > conv:2.weight", "conv:0.weight > sum")
    before.check(model)


def test_forward_that_is_replaced_in_torch() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 5))
    with mock.patch.object(nn.ReLU, "forward", lambda self, x: x.mean((2, 3), keepdim=True)):
        check(trace(model), "input > conv:0.weight > glob_avg > conv:2.weight")


def test_hook_on_every_module() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        trace(nn.Sequential(conv(3, 8), nn.ReLU()))
    finally:
        handle.remove()
    assert seen == ["Conv2d", "ReLU", "Sequential"]


def by_list(m: Any) -> Any:
    m.parts = [m.b]
    return lambda model: model.parts[0]


def by_method(m: Any) -> Any:
    m.reach = m.get_submodule
    return lambda model: model.reach("b")


def by_closure(m: Any) -> Any:
    m.reach = lambda: m.b
    return lambda model: model.reach()


def by_default(m: Any) -> Any:
    m.reach = lambda b=m.b: b
    return lambda model: model.reach()


def by_partial(m: Any) -> Any:
    m.reach = functools.partial(getattr, m, "b")
    return lambda model: model.reach()


@pytest.mark.parametrize("link", [by_list, by_method, by_closure, by_default, by_partial])
def test_module_that_is_reached_by_another_way_is_the_same_module(link: Callable[[Any], Any]) -> None:
    """What the forward writes to it by that way, it reads by its name."""

    class Linked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.other = conv(3, 8), conv(8, 8, padding=1), conv(8, 5), conv(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            ways[0](self).stride = (2, 2)
            return self.other(x) if self.b.stride == (1, 1) else self.c(self.b(self.a(x)))

    model = Linked()
    ways = [link(model)]
    check(trace(model), "input > conv:a.weight > conv:b.weight > conv:c.weight")
    assert model.b.stride == (1, 1)


def test_modules_that_are_looked_up_by_identity() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 8)
            strides[self] = 2

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x[..., :: strides[self]])

    strides: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
    check(trace(Listed()), "input > conv:a.weight")


def test_layer_that_the_forward_changes_is_put_back() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.a.stride = (2, 2)
        m.add_module("late", nn.ReLU())
        y = m.late(m.a(x))
        return m.b(y) if y.shape[-1] == 8 else y

    model = Net(forward, a=conv(3, 8), b=conv(8, 5))
    before = Snapshot(model)
    check(trace(model), "input > conv:a.weight > conv:b.weight")
    before.check(model)


def test_batches_are_counted_for_those_who_ask() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.norm(m.norm(m.a(x)))
        return m.b(y) if m.norm.num_batches_tracked == 2 else y

    model = Net(forward, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 5))
    assert trace(model).params[-1] == "b.weight"
    assert model.norm.num_batches_tracked == 0


def test_counter_that_is_written_in_other_ways_too() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        view = m.count[:1]
        m.count.add_(1)
        m.count.mul_(3)
        m.count.add_(1)
        return m.b(m.a(x)) if int(m.count) == int(view) == 4 else m.a(x)

    model = Net(forward, a=conv(3, 8), b=conv(8, 5), count=torch.zeros(1, dtype=torch.int64))
    assert trace(model).params[-1] == "b.weight"
    assert model.count == 0


def test_view_of_a_constant_sees_the_last_write() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = torch.zeros(2, 8, 16, 16)
        view = out[:, :4]
        out.copy_(m.a(x))
        out += m.b(x)
        return m.c(view)

    model = Net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(4, 5))
    check(trace(model), "input > conv:a.weight > sum > conv:c.weight", "input > conv:b.weight > sum")


def test_trace_does_not_keep_the_model() -> None:
    gc.collect()
    gc.disable()
    try:
        model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 5))
        trace(model)
        parameter = weakref.ref(model[0].weight)
        del model
        assert parameter() is None
    finally:
        gc.enable()


def test_image_of_too_few_dimensions_is_reported_by_the_layer() -> None:
    with pytest.raises(TraceError, match="expected 4D input"):
        trace(nn.Sequential(conv(3, 8), nn.Flatten(), nn.BatchNorm2d(8)))


# Threads ----------------------------------------------------------------------------------------------------------


def attention_network() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return TokenNet(
        lambda m, x: m.c(m.encoder(x + m.pos)[:, 0]),
        c=nn.Linear(8, 5),
        pos=weight(1, 16, 8),
        encoder=nn.TransformerEncoder(layer, 2),
    )


# Those that do not stand behind others.
UNFIT = {"convolution", "layer norm", *(name for name in LAYERS if name.startswith(("maximum pool", "average pool")))}


def models() -> Iterator[nn.Module]:
    yield plain_network()
    yield residual_network()
    yield attention_network()
    yield restless(update_running_mean)
    yield restless(set_attributes)
    yield abc(sum_in_place)
    yield Net(lambda m, x: m.c(SQUEEZES["in place"][0](m, m.a(x))), a=conv(3, 8), c=conv(8, 5), se=Squeeze(pointwise))
    yield nn.Sequential(*(conv(3, 3, bias=True) for _ in range(40)))
    yield nn.Sequential(conv(3, 8), *(build() for name, build in LAYERS.items() if name not in UNFIT))


def test_eight_threads_give_the_graphs_of_one() -> None:
    built = list(models())
    expected = [trace(model) for model in built]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert all(same(graph, one) for graph, one in zip(pool.map(trace, built), expected, strict=True))


def test_threads_share_one_model() -> None:
    model = plain_network()
    before, expected = Snapshot(model), trace(model)
    with ThreadPoolExecutor(8) as pool:
        assert all(same(graph, expected) for graph in pool.map(lambda _: trace(model), range(32)))
    before.check(model)
