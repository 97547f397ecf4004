"""The models that the golden files are about."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ghnfast import GHN, ArchGraph
from ghnfast.deepnets import Network
from ghnfast.vision import adapt_to_small_images
from helpers.golden_data import assert_same_prediction, golden
from helpers.models import no_initialization, torchvision_model

TORCHVISION_PREDICTIONS = sorted(key for key in golden("torchvision")["pred"] if not key.endswith("/embedding"))
GHN3_PREDICTIONS = sorted(key for key in golden("ghn3_torchvision")["pred"] if not key.endswith("/embedding"))
DEEPNETS = sorted(golden("deepnets"))


def sized_model(name: str, images: str) -> tuple[nn.Module, tuple[int, int, int] | None]:
    """A torchvision model for ImageNet, or adapted to CIFAR-10, and the shape of its input."""
    if images == "imagenet":
        return torchvision_model(name), None
    return adapt_to_small_images(torchvision_model(name, num_classes=10)), (3, 32, 32)


def ghn3_model(name: str, config: str) -> tuple[nn.Module, tuple[int, int, int] | None]:
    """The same for the configuration of a GHN-3: some of 7 classes; ViTs keep their large images."""
    if config.endswith("imagenet"):
        return torchvision_model(name), None
    model = torchvision_model(name, num_classes=7 if "odd" in config else 10)
    return (model, None) if name.startswith("vit_b") else (adapt_to_small_images(model), (3, 32, 32))


def deepnets_model(key: str) -> Network:
    entry = golden("deepnets")[key]
    with no_initialization():
        return Network(genotype=entry["genotype"], num_classes=10, is_imagenet_input=False, **entry["args"])


def assert_predicted_by_each_backend(ghn: GHN, model: nn.Module, graph: ArchGraph, expected: dict[str, Any]) -> None:
    """What one of them has written is gone when the next one begins."""
    for backend in ("cpp", "torch"):
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setenv("GHNFAST_BACKEND", backend)
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
            _, report = ghn.predict(model, graph=graph, report=True)
        assert_same_prediction(model, report, expected)
