"""ghnfast/tracing/leaves.py: layers that go straight to their rule."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import pytest
import torch
from helpers.models import Net
from helpers.traced import LAYERS, A, B, Snapshot, check, conv, same, trace
from torch import Tensor, nn

from ghnfast import TraceError
from ghnfast.tracing.leaves import LEAVES


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
