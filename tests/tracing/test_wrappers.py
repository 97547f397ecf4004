"""Checkpoints, functions of one's own, TorchScript, compiled and wrapped models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.models import Net
from helpers.traced import A, B, Build, C, abc, check, conv, trace
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ghnfast import TraceError


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
