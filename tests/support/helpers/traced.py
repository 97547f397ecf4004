"""Networks that several tests trace, and what their graphs are compared with.

Expected graphs are written as paths: "input > conv:a.weight > sum" are three nodes and two edges. A token is a
primitive, or a primitive and its parameter; `#1`, `#2` tell nodes apart that look alike. Graphs are compared up to node
order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghnfast
from ghnfast import GHN, ArchGraph, Report
from helpers.graph_comparison import difference
from helpers.models import Net

IMAGE = (3, 16, 16)
Build = Callable[[], nn.Module]


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image's size; without a bias, so that graphs stay short."""
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, "bias": False, **options})


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, 0.5))


class TokenNet(Net):
    """An image model whose function sees 16 tokens of width 8, from patches of 4 x 4 pixels."""

    patch: nn.Conv2d

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


ABC = {"a": lambda: conv(3, 8), "b": lambda: conv(8, 8), "c": lambda: conv(8, 5)}
A, B, C, D = "conv:a.weight", "conv:b.weight", "conv:c.weight", "conv:d.weight"


def abc(function: Callable[..., Any], **parts: Any) -> Net:
    return Net(function, **{name: part() for name, part in ABC.items()}, **parts)


def sum_in_place(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    y = m.b(x)
    x += y
    return m.c(x)


PACKED = "conv:att.in_proj_weight > bias:att.in_proj_bias > msa > conv:att.out_proj.weight > bias:att.out_proj.bias"


def torch_attention(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, **options)


def update_running_mean(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.running.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
    return m.a(x)


def set_attributes(m: Any, x: Tensor) -> Tensor:
    m.cache, m.calls, m.shape = x, m.calls + 1, x.shape
    return m.a(m.cache)


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


def residual_network() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.fc((x + m.b(m.norm(x)) + m.c(x)).mean((2, 3)))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), norm=nn.BatchNorm2d(8), fc=nn.Linear(8, 5), unused=weight(3)
    )


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
    "layer norm": lambda: nn.LayerNorm([8, 16, 16]),
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


def attention_network() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return TokenNet(
        lambda m, x: m.c(m.encoder(x + m.pos)[:, 0]),
        c=nn.Linear(8, 5),
        pos=weight(1, 16, 8),
        encoder=nn.TransformerEncoder(layer, 2),
    )


def predict(model: nn.Module, ghn: GHN, *shape: int) -> Report:
    """The report of a prediction for inputs of this shape."""
    _, report = ghnfast.predict(model, ghn, input_shape=shape, report=True)
    return report
