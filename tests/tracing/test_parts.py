"""Weights that are parts of a parameter, or functions of one; layers on constants."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import predict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghnfast
from ghnfast import GHN, PredictError, TraceError

UNTOUCHED = 7.0


# Parts of a parameter -----------------------------------------------------------------------------------------------


class Shared(nn.Module):
    """One large weight, of which layers use parts, as in networks that share weights."""

    def __init__(self, forward: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape or (32, 64), UNTOUCHED))
        self.bias = nn.Parameter(torch.full((32,), UNTOUCHED))
        self.head = nn.Linear(8, 3)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.function(self, x))
        return result


Index = tuple[slice, ...]
PARTS: dict[str, tuple[Callable[..., Tensor], Index]] = {
    "leading": (lambda m, x: F.linear(x, m.weight[:8, :16]), np.s_[:8, :16]),
    "inner": (lambda m, x: F.linear(x, m.weight[8:16, 16:32]), np.s_[8:16, 16:32]),
    "narrow": (lambda m, x: F.linear(x, m.weight.narrow(0, 4, 8).narrow(1, 0, 16)), np.s_[4:12, :16]),
    "chunks": (lambda m, x: F.linear(x, m.weight.chunk(4)[1].split(16, 1)[3]), np.s_[8:16, 48:]),
    "steps": (lambda m, x: F.linear(x, m.weight[1::4, :16]), np.s_[1::4, :16]),
    "product": (lambda m, x: x @ m.weight[:16, :8], np.s_[:16, :8]),
    "transposed": (lambda m, x: x @ m.weight[:8, :16].t(), np.s_[:8, :16]),
    "scaled": (lambda m, x: F.linear(x, m.weight[:8, :16] * 0.5), np.s_[:8, :16]),
    "copied": (lambda m, x: F.linear(x, m.weight[:8, :16].contiguous().to(x.dtype).clone()), np.s_[:8, :16]),
    "detached": (lambda m, x: F.linear(x, m.weight.data[:8, :16].detach()), np.s_[:8, :16]),
    "in two steps": (lambda m, x: F.linear(x, m.weight[4:16][4:, 8:][:, :16]), np.s_[8:16, 8:24]),
}


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("name", PARTS)
def test_part_that_a_layer_uses_is_predicted_and_the_rest_is_kept(
    name: str, backend: str, ghn: GHN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    function, index = PARTS[name]
    model = Shared(function)
    report = predict(model, ghn, 16)
    expected = torch.zeros(32, 64, dtype=torch.bool)
    expected[index] = True
    assert torch.equal(model.weight != UNTOUCHED, expected)
    assert "weight" in report.predicted
    assert "weight" not in report.skipped
    assert len(report.partly["weight"]) == 1
    assert report.predicted_elements == 8 * 16 + 8 * 3 + 3


@pytest.mark.parametrize("after", [(8, 16), (8, 1), (8, 2, 8)])
def test_repeated_elements_are_no_part(after: tuple[int, ...], ghn: GHN) -> None:
    """A weight that repeats a parameter's numbers along some of its dimensions keeps them."""
    sizes = [tuple(sorted({1, size})) for size in after]
    for shape in {shape[start:] for shape in itertools.product(*sizes) for start in range(len(after) + 1)} - {after}:
        width = math.prod(after[1:])
        if math.prod(shape) == math.prod(after):
            continue
        model = Shared(lambda m, x, width=width: F.linear(x[:, :width], m.weight.expand(after).flatten(1)), 1)
        model.weight = nn.Parameter(torch.full(shape, UNTOUCHED))
        report = predict(model, ghn, 16)
        assert "its layer uses a function of it" in report.skipped["weight"]
        assert bool((model.weight == UNTOUCHED).all())


def test_part_gets_what_a_layer_of_its_shape_gets(ghn: GHN) -> None:
    part = Shared(lambda m, x: F.linear(x, m.weight[:8, :16], m.bias[:8]))
    layer = nn.Linear(16, 8)
    alone = Net(lambda m, x: m.head(m.layer(x)), layer=layer, head=nn.Linear(8, 3))
    predict(part, ghn, 16), predict(alone, ghn, 16)
    assert torch.equal(part.weight[:8, :16], layer.weight)
    assert torch.equal(part.bias[:8], layer.bias)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rectangle(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([2, 4]))
    shape = [data.draw(st.integers(1, 12)) for _ in range(rank)]
    bounds = [sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))) for size in shape]
    index = tuple(slice(*bound) for bound in bounds)
    sizes = [stop - start for start, stop in bounds]
    channels_last = rank == 4 and data.draw(st.booleans())

    def forward(m: Any, x: Tensor) -> Tensor:
        return F.linear(x, m.weight[index]) if rank == 2 else F.conv2d(x, m.weight[index])

    weight = torch.full(shape, UNTOUCHED)
    weight = weight.contiguous(memory_format=torch.channels_last) if channels_last else weight
    parameter = nn.Parameter(weight)
    model = Net(forward, weight=parameter)
    ghn = GHN(hid=8, max_shape=(4, 4, 3, 3), num_classes=5).eval()
    report = predict(model, ghn, *((sizes[1],) if rank == 2 else (sizes[1], 12, 12)))
    expected = torch.zeros(shape, dtype=torch.bool)
    expected[index] = True
    assert torch.equal(parameter.detach().ne(UNTOUCHED), expected)
    assert report.predicted_elements == expected.sum()


def test_parts_beside_each_other_and_parts_that_overlap(ghn: GHN) -> None:
    beside = Shared(lambda m, x: F.linear(F.relu(F.linear(x, m.weight[:16, :16])), m.weight[16:24, :16]))
    assert len(predict(beside, ghn, 16).partly["weight"]) == 2
    assert (beside.weight[:24, :16] != UNTOUCHED).all()
    overlapping = Shared(lambda m, x: F.linear(F.relu(F.linear(x, m.weight[:16, :16])), m.weight[8:16, :16]))
    first = Shared(lambda m, x: F.linear(F.relu(F.linear(x, m.weight[:16, :16])), m.bias[:8, None].expand(8, 16)))
    report = predict(overlapping, ghn, 16)
    assert report.partly["weight"] == ["0:16, 0:16"]
    predict(first, ghn, 16)
    assert (overlapping.weight[:16, :16] != UNTOUCHED).all()


def test_parameter_that_is_used_whole_too_is_predicted_whole(ghn: GHN) -> None:
    model = Shared(lambda m, x: F.linear(x, m.weight[:8, :16]) + F.linear(x.repeat(1, 4), m.weight)[:, :8])
    report = predict(model, ghn, 16)
    assert not report.partly
    assert (model.weight != UNTOUCHED).all()


def test_parts_of_kernels_and_normalizations(ghn: GHN) -> None:
    """As in networks that can be slimmed, and whose kernels can shrink."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.conv2d(x, m.conv.weight[:8, :, 1:4, 1:4], m.conv.bias[:8], padding=1)
        norm = m.norm
        return F.batch_norm(x, norm.running_mean[:8], norm.running_var[:8], norm.weight[:8], norm.bias[:8], True)

    model = Net(forward, conv=nn.Conv2d(3, 16, 5), norm=nn.BatchNorm2d(16))
    before = copy.deepcopy(model.state_dict())
    report = predict(model, ghn, 3, 16, 16)
    assert set(report.partly) == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    for name, index in {
        "conv.weight": np.s_[:8, :, 1:4, 1:4],
        "norm.weight": np.s_[:8],
        "norm.bias": np.s_[:8],
    }.items():
        changed = model.state_dict()[name] != before[name]
        expected = torch.zeros_like(changed)
        expected[index] = True
        assert torch.equal(changed, expected), name


def test_weights_that_are_stacked(ghn: GHN) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return sum(F.linear(x, m.weight[i]) for i in range(3))  # type: ignore[return-value]

    model = Net(forward, weight=nn.Parameter(torch.full((4, 8, 16), UNTOUCHED)))
    report = predict(model, ghn, 16)
    assert len(report.partly["weight"]) == 3
    assert (model.weight[:3] != UNTOUCHED).all()
    assert (model.weight[3] == UNTOUCHED).all()


def test_parts_that_cover_everything_are_no_parts(ghn: GHN) -> None:
    model = Shared(lambda m, x: torch.stack([F.linear(x, part) for part in m.weight.chunk(4)]).sum(0), 32, 16)
    assert not predict(model, ghn, 16).partly
    assert (model.weight != UNTOUCHED).all()


def test_graph_with_parts_is_used_again(ghn: GHN) -> None:
    model = Shared(PARTS["inner"][0])
    graph = pickle.loads(pickle.dumps(ghnfast.trace(model, input_shape=(16,))))
    predict(model, ghn, 16)
    for dtype in (torch.float32, torch.float64, torch.float16):
        other = Shared(PARTS["inner"][0]).to(dtype)
        ghnfast.predict(other, ghn, graph=graph)
        assert torch.equal(other.weight, model.weight.to(dtype))
    with pytest.raises(PredictError, match=r"weight of shape \(32, 64\)"):
        ghnfast.predict(Shared(PARTS["inner"][0], 40, 64), ghn, graph=graph)


# Functions of a parameter -------------------------------------------------------------------------------------------


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "exp": lambda w: w.exp().view(5, 8).contiguous(),
    "matrix_exp": lambda w: torch.block_diag(w[:, :5].matrix_exp(), torch.eye(3))[:5].reshape(5, 8),
    "sign": lambda w: w.sign() * w.sigmoid(),
    "sort": lambda w: w.sort(-1)[0],
    "cumsum": lambda w: w.cumsum(0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_of_a_parameter_is_not_the_parameter(name: str, ghn: GHN) -> None:
    model = Net(
        lambda m, x: F.linear(m.a(x), FUNCTIONS[name](m.w)), a=nn.Linear(8, 8), w=nn.Parameter(torch.ones(5, 8))
    )
    report = predict(model, ghn, 8)
    assert "function of it" in report.skipped["w"]
    assert (model.w == 1).all()


@pytest.mark.parametrize("layer", [lambda x, w: F.linear(x, w.t()), lambda x, w: x @ w, lambda x, w: torch.mm(x, w)])
def test_weight_of_several_parameters_is_a_node_however_it_is_multiplied(layer: Callable[..., Tensor]) -> None:
    parts = {name: nn.Parameter(torch.ones(8, 5)) for name in "wv"}
    graph = ghnfast.trace(Net(lambda m, x: layer(m.a(x), m.w + m.v), a=nn.Linear(8, 8), **parts), input_shape=(8,))
    assert graph.ops == ["input", "conv", "bias", "conv"]
    assert set(graph.skipped.values()) == {"a weight that is put together from several parameters"}


# Layers on constants ------------------------------------------------------------------------------------------------


class Adapter(nn.Module):
    """A low-rank adapter with weights decomposed into lengths and directions, as in peft's DoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        self.length = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        change = self.up(self.down(torch.eye(16, device=x.device, dtype=x.dtype))).T
        norm = (self.base.weight + change).detach().norm(dim=1)
        scale = (self.length / norm).view(1, -1)
        low = self.up(self.down(x))
        return self.base(x) + (scale - 1) * F.linear(x, self.base.weight) + scale * low


def test_layer_on_a_constant_is_no_data() -> None:
    graph = ghnfast.trace(Adapter(), input_shape=(16,))
    assert "pos_enc" not in graph.ops
    assert {"base.weight", "base.bias", "down.weight", "up.weight"} <= set(graph.params)
    assert list(graph.skipped) == ["length"]


@pytest.mark.parametrize(
    "constant", [lambda x: torch.ones(1, 8), lambda x: x.new_zeros(2, 8), lambda x: torch.arange(8.0)]
)
def test_what_a_layer_makes_of_a_constant_is_a_function_of_its_weights(constant: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda m, x: m.b(x) * m.a(constant(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    graph = ghnfast.trace(model, input_shape=(8,))
    assert graph.ops == ["input", "conv", "bias"]
    assert set(graph.skipped) == {"a.weight", "a.bias"}


# Messages -----------------------------------------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def outer(forward: Callable[..., Any]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(Inner(forward)))


def failing(x: Tensor) -> Tensor:
    return {}["a key"]


def test_failure_names_the_module_and_the_line() -> None:
    line = failing.__code__.co_firstlineno + 1
    with pytest.raises(TraceError, match=rf"in 1\.0 \(Inner\), at \S*test_parts\.py:{line}: KeyError: 'a key'$"):
        ghnfast.trace(outer(failing), input_shape=(3, 8, 8))


def test_hints_are_given_where_they_can_help() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(TraceError, match=r"Pass input_shape=\(channels, height, width\) or example_inputs"):
        ghnfast.trace(nn.Sequential(nn.Conv2d(4, 8, 3)))
    with pytest.raises(TraceError, match=r"Pass the input_shape that it takes"):
        ghnfast.trace(model, input_shape=(4, 8, 8))
    with pytest.raises(TraceError) as caught:
        ghnfast.trace(model, example_inputs=(torch.zeros(1, 4, 8, 8),))
    assert "Pass" not in str(caught.value)
    with pytest.raises(TraceError, match=r"missing 1 required.*Pass example_inputs"):
        ghnfast.trace(Net(lambda m, x, y: m.a(x), a=nn.Conv2d(3, 8, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reason_of_torchscript_is_given() -> None:
    def check(x: Tensor) -> Tensor:
        assert x.shape[1] == 7, "seven channels are needed"
        return x

    scripted = torch.jit.script(check)
    with pytest.raises(TraceError, match="seven channels are needed"):
        ghnfast.trace(outer(lambda x: scripted(x)), input_shape=(3, 8, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_module_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), torch.jit.script(nn.Conv2d(8, 8, 3)))
    with pytest.raises(TraceError, match=r"cannot be followed.*TorchScript: 1"):
        ghnfast.trace(model, input_shape=(3, 8, 8))


class Box:
    """Holds a tensor as an attribute."""

    def __init__(self, content: Tensor) -> None:
        self.content = content


def test_outputs_of_unknown_types_are_named() -> None:
    with pytest.raises(TraceError, match=r"no output of Sequential depends on its input.*returned \S*\.Box"):
        ghnfast.trace(outer(Box), input_shape=(3, 8, 8))


def test_returned_parameter_is_not_called_unused() -> None:
    parts = {"scale": nn.Parameter(torch.ones(())), "other": nn.Parameter(torch.ones(3))}
    graph = ghnfast.trace(Net(lambda m, x: (m.a(x), m.scale.exp(), m.other), a=nn.Conv2d(3, 8, 3), **parts))
    assert set(graph.skipped) == {"scale", "other"}
    assert all("returns it" in reason for reason in graph.skipped.values())
