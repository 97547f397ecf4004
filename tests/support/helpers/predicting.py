"""Predict with a small GHN, and compare what became of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ghnfast
from helpers.formulas import (
    IMAGE,
    ghn_of,
)


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's tensors."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {name: (tensor.to_dense() if tensor.is_sparse else tensor).clone() for name, tensor in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], batched: bool = False) -> None:
    """Bit for bit; up to rounding where one of the two was predicted in a batch of another size."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if batched and tensor.is_floating_point():
            torch.testing.assert_close(tensor, right[name], rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert torch.equal(tensor, right[name]), name


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in values(model).items() if not torch.equal(tensor, before[name])}


def predict(model: Any, kind: str = "ghn2", **options: Any) -> Any:
    if not options.keys() & {"input_shape", "example_inputs", "graph"}:
        options["input_shape"] = IMAGE
    return ghn_of(kind).predict(model, **options)


def check_report(model: nn.Module, report: ghnfast.Report, skipped: set[str]) -> None:
    """Every parameter is in exactly one of the two, in the model's order, and every reason is something to read."""
    names = [name for name, _ in model.named_parameters()]
    assert set(report.skipped) == skipped
    assert report.predicted == [name for name in names if name not in skipped]
    assert list(report.skipped) == [name for name in names if name in skipped]
    assert all(isinstance(reason, str) and reason for reason in report.skipped.values())
    assert report.elements == sum(tensor.numel() for tensor in model.parameters())
    assert 0 <= report.coverage <= 1
