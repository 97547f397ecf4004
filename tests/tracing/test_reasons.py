"""Why parameters are kept: what is said of one that the outputs depend on is true of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from torch import Tensor, nn

import ghnfast

EYE = torch.eye(8)


def attend(x: Tensor, query: Tensor | None = None, key: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """torch's attention layer, of weights that are no parameters; of one query and three keys."""
    query = x[:, None] if query is None else query.expand(2, 1, 8)
    key = (x[:, None] * EYE[:3] if key is None else key).expand(2, 3, 8)
    given: Any = (
        query.transpose(0, 1),
        key.transpose(0, 1),
        key.transpose(0, 1),
        8,
        2,
        EYE.repeat(3, 1),
        torch.zeros(24),
    )
    given += None, None, False, 0.0, EYE, torch.zeros(8), True, None, True, mask
    found = F.multi_head_attention_forward(*given)[0]
    return found.transpose(0, 1).mean(1)


# The shape of a parameter, what a forward makes of features (2, 8) and it, and what is said of it.
Function = Callable[[Tensor, Tensor], Tensor]
SHAPE, WEIGHTLESS = "a weight of shape", "the bias of a layer whose weight is no parameter"
SEVERAL, OFFSET = "one of several factors", "an offset of a product of features"
LIMIT, NOTHING = "torch's clamp", "a query, key or value of an attention that comes from no features"
USES: dict[str, tuple[tuple[int, ...], Function, str]] = {
    "the bias of a fixed layer": ((8,), lambda x, p: F.linear(x, EYE, p), WEIGHTLESS),
    "the bias of a fixed product": ((8,), lambda x, p: torch.addmm(p, x, EYE), WEIGHTLESS),
    "the bias of a fixed convolution": (
        (8,),
        lambda x, p: F.conv2d(x[..., None, None], EYE[..., None, None], p),
        WEIGHTLESS,
    ),
    "the bias of a computed layer": ((8,), lambda x, p: F.linear(x, x.t() @ x, p), WEIGHTLESS),
    "a vector": ((8,), lambda x, p: x * (x @ p)[:, None], SHAPE),
    "a layer of a vector": ((8,), lambda x, p: x * F.linear(x, p)[:, None], SHAPE),
    "a batch of weights": ((2, 8, 8), lambda x, p: (x[:, None] @ p)[:, 0], SHAPE),
    "a sum over weights": ((2, 8, 8), lambda x, p: torch.einsum("bi,hio->bo", x, p), SHAPE),
    "a form": ((8, 8), lambda x, p: x * torch.einsum("bi,ij,bj->b", x, p, x)[:, None], SEVERAL),
    "a form, itself first": ((8, 8), lambda x, p: x * torch.einsum("ij,bi,bj->b", p, x, x)[:, None], SEVERAL),
    "factors": ((8, 8), lambda x, p: torch.einsum("bi,ij,kj->bk", x, p, p), SEVERAL),
    "addmm": ((2, 2), lambda x, p: torch.addmm(p, x, x.t()) @ x, OFFSET),
    "addmv": ((2,), lambda x, p: torch.addmv(p, x, x[0])[:, None] * x, OFFSET),
    "baddbmm": ((2, 1, 1), lambda x, p: torch.baddbmm(p, x[:, None], x[..., None])[:, 0] * x, OFFSET),
    "clamp": ((8,), lambda x, p: x.clamp(min=p), LIMIT),
    "clamp by position": ((8,), lambda x, p: torch.clamp(x, p - 1, p + 1), LIMIT),
    "clamp in place": ((8,), lambda x, p: (2 * x).clamp_(max=p), LIMIT),
    "clamp_min": ((8,), torch.clamp_min, LIMIT),
    "a query": ((1, 1, 8), lambda x, p: attend(x, query=p), NOTHING),
    "a key and value": ((1, 3, 8), lambda x, p: attend(x, key=p), NOTHING),
    "a mask": ((1, 3), lambda x, p: attend(x, mask=p), "an offset of attention scores"),
    "a normalized token": ((1, 8), lambda x, p: torch.cat([x, F.normalize(p)]), "a token"),
    "the scale of a token": (
        (8,),
        lambda x, p: torch.cat([x, F.layer_norm(EYE[:1], (8,), p)]),
        "its layer has no path",
    ),
    "the scale of an offset": ((8,), lambda x, p: x + F.group_norm(EYE[:1, :], 2, p), "its layer has no path"),
}


# What is computed from it is a layer's weight, with a matrix `w` that is predicted.
SCALES: dict[str, Function] = {
    "a mask": lambda w, p: w * p,
    "a shift": lambda w, p: w + p,
    "a product": lambda w, p: w + p[:, None] * p,
    "a normalization": lambda w, p: F.batch_norm(w.reshape(1, 8, -1), None, None, p, training=True).reshape_as(w),
    "another": lambda w, p: F.layer_norm(w, (8,), None, p),
}


@pytest.mark.parametrize("name", SCALES)
def test_what_scales_a_weight_says_so(name: str) -> None:
    model = Net(
        lambda m, x: F.linear(x, SCALES[name](m.w, m.p)),
        w=nn.Parameter(torch.rand(8, 8)),
        p=nn.Parameter(torch.rand(8)),
    )
    graph = ghnfast.trace(model, example_inputs=(torch.randn(2, 8),))
    assert graph.skipped == {"p": "it masks, scales or shifts another parameter, which is predicted"}


@pytest.mark.parametrize("on_numbers", [False, True])
@pytest.mark.parametrize("name", USES)
def test_a_parameter_that_has_a_gradient_is_used(name: str, on_numbers: bool) -> None:
    shape, function, said = USES[name]

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        if on_numbers:
            bool((x == x).all())
        result: Tensor = m.b(function(x, m.p).reshape(-1, 8))
        return result

    model = Net(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 3), p=nn.Parameter(torch.rand(shape)))
    x = torch.randn(2, 8)
    model(x).square().sum().backward()
    assert model.p.grad.abs().sum() > 0
    graph = ghnfast.trace(model, example_inputs=(x,))
    assert graph.skipped["p"].startswith(said)
    assert {"a.weight", "b.weight"} <= set(graph.params)


def test_what_limits_features_is_part_of_the_graph() -> None:
    model = Net(lambda m, x: m.c(m.a(x).clamp(max=m.b(x))), **{name: nn.Linear(8, 8) for name in "abc"})
    graph = ghnfast.trace(model, example_inputs=(torch.randn(2, 8),))
    assert not graph.skipped


def test_the_result_of_a_limit_has_the_shape_of_both() -> None:
    model = Net(lambda m, x: m.b(m.a(x).clamp(max=(x * m.a(x).sum()))), a=nn.Linear(8, 1), b=nn.Linear(8, 8))
    assert ghnfast.trace(model, example_inputs=(torch.randn(2, 8),)).ran_on_numbers is None


def test_biases_that_torch_keeps_apart() -> None:
    """As in the attention pool of CLIP's ResNets."""

    def forward(m: Any, x: Tensor) -> Tensor:
        separate: Any = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), EYE)
        bias: Any = torch.cat([m.q, m.k, m.v])
        given: Any = 8, 2, None, bias, None, None, False, 0.0, m.o.weight, m.o.bias, True, None, True, None, True
        return F.multi_head_attention_forward(*(x[:, None],) * 3, *given, **separate)[0]

    parts = {name: nn.Parameter(torch.rand(8)) for name in "qkv"}
    graph = ghnfast.trace(Net(forward, o=nn.Linear(8, 8), **parts), example_inputs=(torch.randn(2, 8),))
    assert set(graph.skipped.values()) == {"a bias that is put together from several parameters"}
