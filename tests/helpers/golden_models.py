"""The models that the golden files are about."""

from __future__ import annotations

from golden_data import golden
from models import torchvision_model
from torch import nn

from ghnfast.deepnets import Network
from ghnfast.vision import adapt_to_small_images

TORCHVISION_PREDICTIONS = sorted(key for key in golden("torchvision")["pred"] if not key.endswith("/embedding"))
DEEPNETS = sorted(golden("deepnets"))


def sized_model(name: str, images: str) -> tuple[nn.Module, tuple[int, int, int] | None]:
    """A torchvision model for ImageNet, or adapted to CIFAR-10, and the shape of its input."""
    if images == "imagenet":
        return torchvision_model(name), None
    return adapt_to_small_images(torchvision_model(name, num_classes=10)), (3, 32, 32)


def deepnets_model(key: str) -> Network:
    entry = golden("deepnets")[key]
    return Network(genotype=entry["genotype"], num_classes=10, is_imagenet_input=False, **entry["args"])
