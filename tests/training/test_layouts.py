"""Gradients of convolutions that torch would compute beyond its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ghnfast.training.layouts import whole_gradients

CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], bool]] = {
    "1x1 with strides": ((8, 8, 1, 1), {"stride": 2}, False),
    "1x1 with strides, in pairs": ((8, 8, 1, 1), {"stride": (2, 2)}, False),
    "dilated in groups": ((16, 1, 5, 5), {"dilation": (2, 2), "groups": 16, "padding": 4}, True),
    "dilated in few groups": ((16, 4, 3, 3), {"dilation": 2, "groups": 4, "padding": 2}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_float64(name: str) -> None:
    shape, options, rounded = CASES[name]
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=drawn)
    images = torch.randn(2, shape[1] * options.get("groups", 1), 32, 32, generator=drawn)

    def gradient(weight: Tensor, images: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_()
        F.conv2d(images, weight, **options).float().square().mean().backward()
        assert weight.grad is not None
        return weight.grad

    wanted = gradient(weight.double(), images.double()).float()
    last = images.to(memory_format=torch.channels_last)
    for _ in range(3):
        beside = [torch.full((size,), float("nan")) for size in (10, 1000, 20000, 200000)]
        del beside
        with whole_gradients(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            found = gradient(weight, last)
        torch.testing.assert_close(found, wanted, rtol=0.05 if rounded else 1e-4, atol=0.02 * float(wanted.abs().max()))


@pytest.mark.parametrize("grouped", [False, True])
def test_others_keep_their_layout(grouped: bool) -> None:
    images = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    weight = torch.randn(16, 1 if grouped else 16, 3, 3, requires_grad=True)
    with whole_gradients():
        found = F.conv2d(images, weight, groups=16 if grouped else 1)
    assert found.is_contiguous(memory_format=torch.channels_last)
