"""What functions return in a trace has the shape and dtype that it has without one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghnfast import trace

WINDOW = torch.hann_window(8)
SEQUENCES = {kind: getattr(nn, kind)(6, 5, 2, batch_first=True, bidirectional=True) for kind in ("GRU", "LSTM", "RNN")}


def on_first(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    return function(x[0])


def whole(x: Tensor) -> Tensor:
    return (9 * x).long()


def pair(x: Tensor) -> Tensor:
    return torch.complex(x, x)


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    # torch's own kernels change the shape of their results in place
    **{f"{kind} of a batch": layer.forward for kind, layer in SEQUENCES.items()},
    **{f"{kind} of a sequence": partial(on_first, layer) for kind, layer in SEQUENCES.items()},
    "stft": lambda x: x.flatten(1).stft(8, 4, window=WINDOW, return_complex=True),
    "stft of one": lambda x: x.flatten().stft(8, 4, window=WINDOW, return_complex=True),
    "quantiles": lambda x: x.quantile(torch.tensor([0.1, 0.5]), dim=1),
    # as a forward may
    "transpose_": lambda x: x.clone().transpose_(1, 2),
    "squeeze_": lambda x: x[:1].clone().squeeze_(),
    "unsqueeze_": lambda x: x.clone().unsqueeze_(1),
    # dtypes that are not those of the operands
    "abs": lambda x: pair(x).abs(),
    "sigmoid of integers": lambda x: whole(x).sigmoid(),
    "exp of integers": lambda x: whole(x).exp(),
    "abs of integers": lambda x: whole(x).abs(),
    "quotient of integers": lambda x: whole(x) / 2,
    "quotient with integers": lambda x: 2 / whole(x),
    "quotient of masks": lambda x: (x > 0) / (x < 1),
    "quotient of a mask": lambda x: (x > 0) / x.double(),
    "integers times a number": lambda x: whole(x) * 0.5,
}


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(1, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)).abs().sum().reshape(1).float())


@pytest.mark.parametrize("name", RESULTS)
def test_result_is_as_without_a_trace(name: str) -> None:
    found = []

    def function(x: Tensor) -> Tensor:
        result = RESULTS[name](x)
        result = result[0] if isinstance(result, tuple) else result
        found.append((result.shape, result.dtype))
        return result

    model = Between(function)
    model(torch.randn(2, 4, 6))
    assert trace(model, example_inputs=(torch.zeros(2, 4, 6),)).ran_on_numbers is None
    assert len(found) == 2
    assert found[0] == found[1]
