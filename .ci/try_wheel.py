"""Tries an installed package: predicts all parameters of a small network with the GHN that comes with it, offline."""

from __future__ import annotations

import torch
from torch import nn

import ghnfast

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)
before = {name: value.detach().clone() for name, value in model.named_parameters()}
_, report = ghnfast.predict(model, input_shape=(3, 32, 32), report=True)
kept = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
finite = all(bool(torch.isfinite(value).all()) for value in model.parameters())
if kept or report.skipped or not finite or not bool(torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()):
    raise SystemExit(f"the prediction is wrong: kept are {kept}, skipped {report.skipped}, finite: {finite}")
print(f"ghnfast {ghnfast.__version__}: {report.predicted_elements:,} parameters, in {ghnfast.__file__}")
