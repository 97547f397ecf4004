"""Parameters that a forward uses by function, several times, or as what torch computes from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import A, B, C, check, conv, linear, trace, weight
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ghnfast


def tokens(x: Tensor) -> Tensor:
    """(images, length, channels), of an image of one pixel."""
    return x.mean((2, 3), keepdim=True).flatten(2).transpose(1, 2)


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
    "bmm expanded": (lambda m, x: torch.bmm(tokens(x), m.w.expand(2, 8, 6))[:, 0] + m.b, TURNED),
    "bmm of a transposed": (lambda m, x: torch.bmm(tokens(x), m.w.t().expand(2, 8, 6))[:, 0] + m.b, MATRIX),
    "matmul unsqueezed": (lambda m, x: torch.linalg.matmul(tokens(x), m.w[None])[:, 0] + m.b, TURNED),
    "bmm of two dimensions": (
        lambda m, x: torch.bmm(tokens(x), m.w.expand(2, 1, 8, 6).reshape(2, 8, 6))[:, 0] + m.b,
        TURNED,
    ),
    "baddbmm": (lambda m, x: torch.baddbmm(m.b, tokens(x), m.w.expand(2, 8, 6))[:, 0], TURNED),
    "tensordot": (lambda m, x: torch.tensordot(x.mean((2, 3)), m.w, ([1], [0])) + m.b, TURNED),
    "tensordot by keyword": (lambda m, x: torch.tensordot(a=x.mean((2, 3)), b=m.w, dims=1) + m.b, TURNED),
    "inner": (lambda m, x: torch.inner(x.mean((2, 3)), m.w) + m.b, MATRIX),
    "addmm and an activation": (lambda m, x: torch._addmm_activation(m.b, x.mean((2, 3)), m.w), TURNED),
    "C's linear": (lambda m, x: torch._C._nn.linear(x.mean((2, 3)), m.w, m.b), MATRIX),
    "mv": (lambda m, x: torch.mv(m.w, x.mean((2, 3))[0]) + m.b, MATRIX),
    "addmv": (lambda m, x: torch.addmv(m.b, m.w, x.mean((2, 3))[0]), MATRIX),
    "einsum of an image": (
        lambda m, x: (torch.einsum("bchw, cd -> bdhw", x, m.w) + m.b[:, None, None]).mean((2, 3)),
        TURNED,
    ),
    "einsum with dots": (lambda m, x: (torch.einsum("dc,...c->...d", m.w, tokens(x)) + m.b)[:, 0], MATRIX),
    "w @ x": (lambda m, x: (m.w @ x.mean((2, 3)).t()).t() + m.b, MATRIX),
    "scaled": (lambda m, x: F.linear(x.mean((2, 3)), m.w * 0.3, m.b * 0.1), MATRIX),
    "detached": (lambda m, x: F.linear(x.mean((2, 3)), m.w.detach(), m.b.data), MATRIX),
    "cast": (lambda m, x: F.linear(x.mean((2, 3)), m.w.to(x.dtype), m.b.float()), MATRIX),
    "masked": (
        lambda m, x: F.linear(x.mean((2, 3)), m.w.masked_fill(torch.ones(6, 8) > 0, 0.0), m.b.clamp(-1, 1)),
        MATRIX,
    ),
    "chosen": (
        lambda m, x: F.linear(x.mean((2, 3)), torch.where(m.w > 0, m.w, 0.0), m.b * (m.b > 0)),
        MATRIX,
    ),
    "triangular": (lambda m, x: F.linear(x.mean((2, 3)), m.w.tril().triu(-2), m.b), MATRIX),
    "dropped": (lambda m, x: F.linear(x.mean((2, 3)), F.dropout(m.w, 0.5), torch.dropout(m.b, 0.5, True)), MATRIX),
    "expanded": (lambda m, x: F.linear(x.mean((2, 3)), m.w) + m.b.expand(x.shape[0], 6), MATRIX),
    "in another's shape": (
        lambda m, x: F.linear(x.mean((2, 3)), m.w.view_as(m.w)) + m.b.expand_as(x[:, :6, 0, 0]),
        MATRIX,
    ),
    "broadcast": (
        lambda m, x: torch.add(*torch.broadcast_tensors(F.linear(x.mean((2, 3)), m.w), m.b)),
        MATRIX,
    ),
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
    "torch.convolution": lambda m, x: torch.convolution(x, m.w, m.b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "torch.convolution by keyword": lambda m, x: torch.convolution(
        input=x,
        weight=m.w,
        bias=m.b,
        stride=[1],
        padding=[1],
        dilation=[1],
        transposed=False,
        output_padding=[0],
        groups=1,
    ),
    "torch._convolution": lambda m, x: torch._convolution(
        x, m.w, m.b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, True, True
    ),
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


@pytest.mark.filterwarnings("ignore")  # of torch, about the end of this way to quantize
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_training_aware_of_quantization(backend: str) -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).train()
    model.qconfig = get_default_qat_qconfig(backend)
    found = ghnfast.trace(prepare_qat(model), input_shape=(3, 8, 8))
    assert found.ops == ["input", "conv", "bias", "conv", "bias"]
    assert not found.skipped


def set_and_call(m: Any, x: Tensor) -> Tensor:
    m.p.data = x[0].detach()
    y: Tensor = m.c(x)
    return y


KEPT: dict[str, tuple[Callable[..., Tensor], str]] = {
    "as a number": (lambda m, x: m.c(x * float(m.p[0])), "the forward reads its values, and no layer uses it"),
    "in a condition": (
        lambda m, x: m.c(x) if m.p.sum() > 0 else x,
        "the forward reads its values, and no layer uses it",
    ),
    "set": (set_and_call, "the forward writes"),
    "copied to": (lambda m, x: [m.p.data.copy_(x[0].detach()), m.c(x)][1], "the forward writes"),
    "not at all": (lambda m, x: m.c(x), "the forward does not use it"),
}


@pytest.mark.parametrize("name", KEPT)
def test_why_a_parameter_that_no_layer_uses_is_kept(name: str) -> None:
    function, reason = KEPT[name]
    model = Net(function, c=linear(8, 5), p=weight(8))
    before = model.get_parameter("p").detach().clone()
    graph = trace(model, example_inputs=(torch.ones(2, 8),))
    assert graph.skipped["p"].startswith(reason)
    assert torch.equal(model.get_parameter("p"), before)
