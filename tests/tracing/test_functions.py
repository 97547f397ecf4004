"""Functions without weights, squeeze-and-excitation, pools and normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import SQUEEZES, A, B, C, Squeeze, abc, check, conv, linear, pointwise, same, trace, weight
from torch import Tensor, nn

from ghnfast import ArchGraph

# Functions that the graph does not show -------------------------------------------------------------------------------

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


# Squeeze-and-excitation -----------------------------------------------------------------------------------------------


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


# Pools and normalization ----------------------------------------------------------------------------------------------

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


# Operators ------------------------------------------------------------------------------------------------------------

aten = torch.ops.aten
Forward = Callable[[Any, Tensor], Tensor]
# What is called by the operator, and by the function; (N, 8, 16, 16) go in and out.
OPERATORS: dict[str, tuple[Forward, Forward]] = {
    "conv2d": (lambda m, x: aten.conv2d.default(x, m.w, m.b, [1, 1], [1, 1]), lambda m, x: conv_of(m, x)),
    "conv2d by name": (lambda m, x: aten.conv2d(self=x, weight=m.w, bias=m.b, padding=[1]), lambda m, x: conv_of(m, x)),
    "conv2d, same": (lambda m, x: aten.conv2d.padding(x, m.w, m.b, [1, 1], "same"), lambda m, x: conv_of(m, x)),
    "convolution": (
        lambda m, x: aten.convolution.default(x, m.w, m.b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        lambda m, x: conv_of(m, x),
    ),
    "convolution, transposed": (
        lambda m, x: aten.convolution(x, m.w, m.b, [1, 1], [1, 1], [1, 1], True, [0, 0], 1),
        lambda m, x: F.conv_transpose2d(x, m.w, m.b, padding=1),
    ),
    "linear": (
        lambda m, x: aten.linear.default(x.permute(0, 2, 3, 1), m.v, m.b).permute(0, 3, 1, 2),
        lambda m, x: linear_of(m, x),
    ),
    "addmm": (
        lambda m, x: aten.view.default(aten.addmm.default(m.b, aten.view(x, [-1, 8]), aten.t.default(m.v)), x.shape),
        lambda m, x: F.linear(x.view(-1, 8), m.v, m.b).view(x.shape),
    ),
    "batch_norm": (
        lambda m, x: aten.batch_norm.default(x, m.b, m.c, None, None, True, 0.1, 1e-5, False),
        lambda m, x: F.batch_norm(x, None, None, m.b, m.c, True),
    ),
    "layer_norm": (
        lambda m, x: aten.layer_norm.default(aten.transpose.int(x, 1, -1), [8], m.b, m.c).transpose(1, -1),
        lambda m, x: F.layer_norm(x.transpose(1, -1), [8], m.b, m.c).transpose(1, -1),
    ),
    "group_norm": (lambda m, x: aten.group_norm(x, 2, m.b, m.c), lambda m, x: F.group_norm(x, 2, m.b, m.c)),
    "instance_norm": (
        lambda m, x: aten.instance_norm.default(x, m.b, m.c, None, None, True, 0.1, 1e-5, False),
        lambda m, x: F.instance_norm(x, None, None, m.b, m.c),
    ),
    "native_layer_norm": (
        lambda m, x: aten.native_layer_norm.default(x.mT, [16], None, None, 1e-5)[0],
        lambda m, x: F.layer_norm(x.mT, [16]),
    ),
    "native_group_norm": (
        lambda m, x: aten.native_group_norm.default(x, m.b, m.c, len(x), 8, 256, 2, 1e-5)[0],
        lambda m, x: F.group_norm(x, 2, m.b, m.c),
    ),
    "in place": (
        lambda m, x: aten.relu_.default(aten.add_.Tensor(conv_of(m, x), x)),
        lambda m, x: F.relu_(conv_of(m, x).add_(x)),
    ),
    "add and mul": (
        lambda m, x: aten.add.Tensor(aten.mul.Tensor(conv_of(m, x), aten.sigmoid.default(x)), x),
        lambda m, x: conv_of(m, x) * x.sigmoid() + x,
    ),
    "bias": (
        lambda m, x: aten.add.Tensor(aten.conv2d(x, m.w, None, 1, 1), aten.view.default(m.b, [8, 1, 1])),
        lambda m, x: F.conv2d(x, m.w, padding=1) + m.b.view(8, 1, 1),
    ),
    "cat and slice": (
        lambda m, x: aten.cat.default([aten.slice.Tensor(x, 1, 0, 4), conv_of(m, x)], 1)[:, 1:],
        lambda m, x: torch.cat([x[:, :4], conv_of(m, x)], 1)[:, 1:],
    ),
    "index": (lambda m, x: aten.index.Tensor(conv_of(m, x), [None, m.n]), lambda m, x: conv_of(m, x)[:, m.n]),
    "split": (
        lambda m, x: aten.add.Tensor(*aten.split.Tensor(conv_of(m, x), 4, 1)),
        lambda m, x: torch.add(*conv_of(m, x).split(4, 1)),
    ),
    "pools": (
        lambda m, x: aten.mul(conv_of(m, aten.max_pool2d.default(x, [3], [1], [1])), aten.mean.dim(x, [2, 3], True)),
        lambda m, x: conv_of(m, F.max_pool2d(x, 3, 1, 1)) * x.mean((2, 3), True),
    ),
    "pools with indices": (
        lambda m, x: aten.max_pool2d_with_indices.default(x, [3, 3], [1, 1], [1, 1])[0],
        lambda m, x: F.max_pool2d(x, 3, 1, 1),
    ),
    "attention": (
        lambda m, x: aten.scaled_dot_product_attention.default(x, conv_of(m, x), x, None, 0.0, False),
        lambda m, x: F.scaled_dot_product_attention(x, conv_of(m, x), x),
    ),
    "attention by softmax": (
        lambda m, x: aten.matmul(aten._softmax.default(aten.matmul(x, conv_of(m, x).mT), -1, False), x),
        lambda m, x: torch.softmax(x @ conv_of(m, x).mT, -1) @ x,
    ),
    "conversions": (
        lambda m, x: aten.to.dtype(conv_of(m, aten._to_copy.default(x, dtype=torch.float32)), torch.float32),
        lambda m, x: conv_of(m, x),
    ),
    "sizes": (
        lambda m, x: aten.reshape(conv_of(m, x), [aten.sym_size.int(x, 0), -1, 16, aten.sym_size(x, 3)]),
        lambda m, x: conv_of(m, x),
    ),
    "constants": (
        lambda m, x: conv_of(m, x) * aten.full.default([8, 1, 1], 2.0, device=torch.device("cpu"), pin_memory=False),
        lambda m, x: conv_of(m, x) * torch.full([8, 1, 1], 2.0),
    ),
    "embedding": (
        lambda m, x: conv_of(m, x) + aten.embedding.default(m.v, m.n)[:, :, None, None],
        lambda m, x: conv_of(m, x) + F.embedding(m.n, m.v)[:, :, None, None],
    ),
}  # fmt: skip


def conv_of(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.w, m.b, padding=1)


def linear_of(m: Any, x: Tensor) -> Tensor:
    return F.linear(x.permute(0, 2, 3, 1), m.v, m.b).permute(0, 3, 1, 2)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_the_functions(name: str, reads: bool) -> None:
    """On shapes alone, and on numbers, which a forward that reads values of features runs on."""

    def graph_of(forward: Forward) -> ArchGraph:
        def whole(m: Any, x: Tensor) -> Tensor:
            x = forward(m, m.a(x))
            return x if reads and x.sum() > 1e9 else x.relu()

        parts = {"w": weight(8, 8, 3, 3), "v": weight(8, 8), "b": weight(8), "c": weight(8)}
        model = Net(whole, a=conv(3, 8), **parts)
        model.register_buffer("n", torch.tensor([1, 3]))
        return trace(model)

    one, other = (graph_of(forward) for forward in OPERATORS[name])
    assert (one.ran_on_numbers is not None) == reads
    assert same(one, other)
    assert one.skipped == other.skipped
