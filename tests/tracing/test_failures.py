"""What is said where a model cannot be traced."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import IMAGE, TokenNet, conv, trace
from torch import Tensor, nn

import ghnfast
from ghnfast import TraceError


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
    ("output", "named"),
    [
        (lambda y: float(y.sum()), "builtins.float"),
        (lambda y: y.detach().numpy(), "numpy.ndarray"),
        (lambda y: [y.argmax().item(), "label"], "builtins.int"),
        (lambda y: (part for part in y), "builtins.generator"),
    ],
)
def test_output_that_is_not_followed_is_named(output: Callable[[Tensor], Any], named: str) -> None:
    with pytest.raises(TraceError, match=f"no output of Net depends on its input.*{named}"):
        trace(Net(lambda m, x: output(m.a(x)), a=conv(3, 8)))


@pytest.mark.parametrize("function", [lambda m, y: y + 1, lambda m, y: m.b(y)])
def test_output_of_another_thread(function: Callable[[Any, Tensor], Tensor]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(function, m, m.a(x)).result()

    with pytest.raises(TraceError, match="another thread"):
        trace(Net(forward, a=conv(3, 8), b=conv(8, 8)))


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


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_inputs_of_several_lengths(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 4), torch.zeros(5, 4)], layout=layout)
    with pytest.raises(TraceError, match="a nested tensor is among the example_inputs"):
        trace(nn.Linear(4, 2), example_inputs=({"tokens": [nested]},))


def test_too_many_example_inputs() -> None:
    with pytest.raises(TraceError, match="2 example_inputs"):
        trace(conv(3, 8), example_inputs=(torch.zeros(1, *IMAGE), 3))


def test_a_forward_that_differentiates_is_told() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(m.a(x).sum(), x)[0]

    with pytest.raises(TraceError, match=r"computes some \(torch.autograd.grad\) cannot be traced"):
        ghnfast.trace(Net(forward, a=nn.Linear(3, 1)), example_inputs=(torch.randn(2, 3),))
