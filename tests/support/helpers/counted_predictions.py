"""Predictions on a GPU that is none (`helpers.counted_gpu`), and what they are to be."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghnfast
from ghnfast.graph import ArchGraph
from helpers.counted_gpu import values_of

GHNS: dict[str, dict[str, Any]] = {
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "ghn2": {},
    "mlp": {"hypernet": "mlp"},
    "ghn3": {"hypernet": "graphormer", "hid": 64},
}
SIZES: dict[str, Any] = {"max_shape": (8, 8, 5, 5), "num_classes": 10, "hid": 8}
SMALL = {
    "ghn1": {**GHNS["ghn1"], **SIZES},
    "ghn2": SIZES,
    "mlp": {**GHNS["mlp"], **SIZES},
    "ghn3": {**GHNS["ghn3"], **SIZES, "layers": 2, "heads": 2},
}


def convolutions(classes: int = 10) -> nn.Sequential:
    features = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 20, (1, 5)), nn.ReLU()
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, classes))


def ghn_of(config: dict[str, Any]) -> ghnfast.GHN:
    torch.manual_seed(0)
    ghn = ghnfast.GHN(**config).eval()
    with torch.no_grad():
        for parameter in ghn.parameters():  # biases are zero and norms one else
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return ghn


def definition(ghn: ghnfast.GHN, model: nn.Module, graph: ArchGraph) -> dict[str, Tensor]:
    """What plain PyTorch predicts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GHNFAST_BACKEND", "torch")
        predicted = ghn.predict(copy.deepcopy(model), graph=graph)
    return {name: parameter.detach() for name, parameter in predicted.named_parameters()}


def assert_predicted(model: nn.Module, wanted: dict[str, Tensor]) -> None:
    for name, value in values_of(model).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=partial("{}: {}".format, name))
