"""The models that the golden files are about."""

from __future__ import annotations

from torch import nn

from ghnfast.deepnets import Network
from ghnfast.vision import adapt_to_small_images
from helpers.golden_data import golden
from helpers.models import torchvision_model

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
    return Network(genotype=entry["genotype"], num_classes=10, is_imagenet_input=False, **entry["args"])
