"""What a report says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.formulas import (
    IMAGE,
    ghn_of,
)
from helpers.models import Net
from helpers.predicting import changed, check_report, predict, values
from helpers.small_networks import conv, parameter, small_network, tokens_network
from torch import Tensor, nn

import ghnfast


class Strange(nn.Module):
    """A custom module whose parameter is of a shape that nothing predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.cube = parameter(2, 3, 4)
        self.register_parameter("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cube.sum().exp()


def recurrent(layer: type[nn.Module]) -> nn.Module:
    return Net(
        lambda m, x: m.fc(m.rnn(m.patch(x).flatten(2).transpose(1, 2))[0][:, -1]),
        patch=nn.Conv2d(3, 8, 4, 4),
        rnn=layer(8, 6, batch_first=True),
        fc=nn.Linear(6, 5),
    )


RECURRENT = {f"rnn.{kind}_{place}_l0" for kind in ("weight", "bias") for place in ("ih", "hh")}

UNKNOWN: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "Conv1d": (
        lambda: Net(
            lambda m, x: m.fc(m.mix(m.a(x).flatten(2)).mean(2)),
            a=conv(3, 8),
            mix=nn.Conv1d(8, 8, 3),
            fc=nn.Linear(8, 5),
        ),
        {"mix.weight", "mix.bias"},
    ),
    "Conv3d": (
        lambda: Net(
            lambda m, x: m.fc(m.mix(m.a(x)[:, None]).mean((2, 3, 4))),
            a=conv(3, 8),
            mix=nn.Conv3d(1, 4, 3),
            fc=nn.Linear(4, 5),
        ),
        {"mix.weight", "mix.bias"},
    ),
    "ConvTranspose2d": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 8, 2, 2), conv(8, 5)),
        {"1.weight", "1.bias"},
    ),
    "GRU": (lambda: recurrent(nn.GRU), RECURRENT),
    "LSTM": (lambda: recurrent(nn.LSTM), RECURRENT),
    "PReLU": (lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 5)), {"1.weight"}),
    "Embedding": (
        lambda: Net(
            lambda m, x: m.b(m.a(x) * m.table(torch.zeros(8, dtype=torch.long, device=x.device)).mean()),
            a=conv(3, 8),
            b=conv(8, 5),
            table=nn.Embedding(4, 6),
        ),
        {"table.weight"},
    ),
    "Bilinear": (
        lambda: Net(lambda m, x: m.mix(x.mean((2, 3)), m.a(x).mean((2, 3))), a=conv(3, 8), mix=nn.Bilinear(3, 8, 5)),
        {"mix.weight", "mix.bias"},
    ),
    "custom": (lambda: nn.Sequential(conv(3, 8), Strange(), conv(8, 5)), {"1.cube"}),
    "layer scale": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gamma), a=conv(3, 8), b=conv(8, 5), gamma=parameter(8, 1, 1)),
        {"gamma"},
    ),
    "class token": (lambda: tokens_network(1, 1, 17, 10), {"token"}),
    "unused": (lambda: Net(lambda m, x: m.a(x), a=conv(3, 8), b=conv(3, 8)), {"b.weight"}),
    "empty": (lambda: Net(lambda m, x: m.a(x) + m.b.sum(), a=conv(3, 8), b=parameter(0)), {"b"}),
    "scalar": (lambda: Net(lambda m, x: m.a(x) * m.b, a=conv(3, 8), b=parameter()), {"b"}),
    "complex": (
        lambda: Net(
            lambda m, x: m.b(m.a(x) * m.c.real),
            a=conv(3, 8),
            b=conv(8, 5),
            c=nn.Parameter(torch.ones(1, dtype=torch.complex64)),
        ),
        {"c"},
    ),
    "complex layer": (
        lambda: Net(
            lambda m, x: m.c(m.a(x).mean((2, 3)).to(torch.complex64)).abs(),
            a=conv(3, 8),
            c=nn.Linear(8, 5, dtype=torch.complex64),
        ),
        {"c.weight", "c.bias"},
    ),
    "integer": (
        lambda: Net(
            lambda m, x: m.b(m.a(x)[:, m.order]),
            a=conv(3, 8),
            b=conv(8, 5),
            order=nn.Parameter(torch.arange(8), requires_grad=False),
        ),
        {"order"},
    ),
    "unused sparse": (
        lambda: Net(lambda m, x: m.a(x), a=conv(3, 8), s=nn.Parameter(torch.eye(3).to_sparse())),
        {"s"},
    ),
    "integer layer": (
        lambda: Net(
            lambda m, x: m.b(F.linear(m.a(x).mean((2, 3)), m.q.float())),
            a=conv(3, 8),
            b=nn.Linear(6, 5),
            q=nn.Parameter(torch.ones(6, 8, dtype=torch.int8), requires_grad=False),
        ),
        {"q"},
    ),
    "float8 layer": (
        lambda: Net(
            lambda m, x: m.b(F.linear(m.a(x).mean((2, 3)), m.q.to(x.dtype))),
            a=conv(3, 8),
            b=nn.Linear(6, 5),
            q=nn.Parameter(torch.ones(6, 8).to(torch.float8_e4m3fn), requires_grad=False),
        ),
        {"q"},
    ),
}


@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:Casting complex")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_predicted_is_kept_and_reported_and_the_rest_predicted(name: str) -> None:
    build, skipped = UNKNOWN[name]
    model = build()
    before = values(model)
    _, report = predict(model, report=True)
    check_report(model, report, skipped)
    assert changed(before, model) == set(report.predicted)


@pytest.mark.parametrize("name", [name for name in UNKNOWN if name not in ("integer", "integer layer")])
def test_reasons_are_sentences_rather_than_names_of_functions(name: str) -> None:
    """`gru` or `mul` alone tells a user nothing."""
    _, report = predict(UNKNOWN[name][0](), report=True)
    for parameter_name, reason in report.skipped.items():
        assert len(reason.split()) >= 3, f"{parameter_name}: {reason}"


def test_report_of_a_common_network_is_empty_handed() -> None:
    model, report = predict(small_network(), report=True)
    check_report(model, report, set())
    assert report.predicted_elements == report.elements
    assert report.coverage == 1


def test_token_that_keeps_its_values_is_not_counted() -> None:
    model = tokens_network(1, 1, 17, 10)
    before = model.pos.detach().clone()
    _, report = predict(model, report=True)
    assert torch.equal(model.pos[:, 0], before[:, 0])
    assert not bool((model.pos[:, 1:] == before[:, 1:]).any())
    assert report.elements - report.predicted_elements == 10 + 10


def test_tied_parameter_is_reported_once() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[2].weight = model[1].weight
    _, report = predict(model, report=True)
    check_report(model, report, set())


def test_without_report_the_model_alone_is_returned() -> None:
    model = small_network()
    assert predict(model) is model
    assert ghnfast.predict(model, ghn_of("ghn2"), input_shape=IMAGE) is model


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
@pytest.mark.parametrize("used", [True, False])
def test_dtype_is_the_reason_whatever_the_use(dtype: torch.dtype, used: bool) -> None:
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model.extra = nn.Parameter(torch.ones(5, dtype=dtype), requires_grad=False)
    if used:
        model.register_forward_hook(lambda module, args, output: output * module.extra)
    _, report = predict(model, report=True)
    assert str(dtype) in report.skipped["extra"]
