"""Where torch records or replaces operators around a call, the call says so, or works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ghnfast
from ghnfast import GHN, GhnfastError

SHAPE = (3, 16, 16)
Run = Callable[[Callable[[Tensor], Tensor]], Any]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def in_fake_mode(function: Callable[[Tensor], Tensor]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        function(torch.zeros(3))


class Whole(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


RECORDERS: dict[str, Run] = {
    "FakeTensorMode": in_fake_mode,
    "torch.jit.trace": lambda function: torch.jit.trace(function, (torch.zeros(3),), check_trace=False),
    "functionalize": lambda function: torch.func.functionalize(function)(torch.zeros(3)),
    "symbolic_trace": torch.fx.symbolic_trace,
    "make_fx": lambda function: make_fx(function)(torch.zeros(3)),
    "make_fx.*": lambda function: make_fx(function, tracing_mode="fake")(torch.zeros(3)),
    "torch.export": lambda function: torch.export.export(Whole(function), (torch.zeros(3),), strict=False),
}
CALLS: dict[str, Callable[[GHN, nn.Module], Any]] = {
    "predict": lambda ghn, model: ghn.predict(model, input_shape=SHAPE),
    "predict by the default": lambda ghn, model: ghnfast.predict(model, input_shape=SHAPE),
    "trace": lambda ghn, model: ghnfast.trace(model, input_shape=SHAPE),
    "calibrate": lambda ghn, model: ghnfast.calibrate(model, [torch.zeros(2, *SHAPE)]),
}


@pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("recorder", "call"),
    [
        (recorder, call)
        for recorder in RECORDERS
        for call in CALLS
        if call != "trace" or recorder not in ("FakeTensorMode", "torch.export")  # no numbers: enough for a trace
    ],
)
def test_call_within_a_recorder_says_so_and_changes_nothing(ghn: GHN, recorder: str, call: str) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def function(x: Tensor) -> Tensor:
        CALLS[call](ghn, model)
        return x + 1

    with pytest.raises(GhnfastError, match=f"{call.split()[0]} was called within .*{recorder}.*outside of it"):
        RECORDERS[recorder](function)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    CALLS[call](ghn, model)  # nothing without numbers is kept


def test_trace_needs_no_numbers() -> None:
    with FakeTensorMode():
        model = network()
        within = ghnfast.trace(model, input_shape=SHAPE)
    assert within.parameter_shapes == ghnfast.trace(network(), input_shape=SHAPE).parameter_shapes
    assert len(within) == 7


class PassingOperators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def within(mode: Callable[[], contextlib.AbstractContextManager[Any]]) -> Run:
    def run(function: Callable[[Tensor], Tensor]) -> None:
        with mode():
            function(torch.zeros(3))

    return run


HARMLESS: dict[str, Run] = {
    "vmap": lambda function: torch.func.vmap(function)(torch.zeros(3)),
    "grad": lambda function: torch.func.grad(lambda x: function(x).sum())(torch.zeros(3)),
    "jvp": lambda function: torch.func.jvp(function, (torch.zeros(3),), (torch.ones(3),)),
    "a mode of operators": within(PassingOperators),
    "a mode of functions": within(PassingFunctions),
    "inference mode": within(torch.inference_mode),
    "meta": within(lambda: torch.device("meta")),
    "saved tensors": within(torch.autograd.graph.save_on_cpu),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_prediction_within_what_only_looks_on_is_the_usual_one(ghn: GHN, name: str) -> None:
    model, usual = network(), ghn.predict(network(), input_shape=SHAPE)

    def function(x: Tensor) -> Tensor:
        ghn.predict(model, input_shape=SHAPE)
        return x + 1

    HARMLESS[name](function)
    for own, expected in zip(model.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
