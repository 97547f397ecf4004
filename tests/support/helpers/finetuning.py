"""A small network and few images, for tests of fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ghnfast.training import ImageData, Recipe
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory
from ghnfast.training.finetune import Job, Parts
from ghnfast.training.inits import init_of


class Small(nn.Module):
    """Enough of everything: a convolution, a normalization, a hidden layer, a table that no GHN predicts."""

    input_shape = (3, 8, 8)

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Linear(8, 64)
        self.scale = nn.Parameter(torch.rand(64))
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.first(images)).relu().mean((2, 3))
        return self.head(self.second(features).relu() * self.scale)


def dark_and_light() -> ImageData:
    """Images with noise, of two classes."""
    labels = torch.arange(90) % 3 % 2
    noise = torch.randint(100, (90, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels = (noise + 100 * labels[:, None, None, None]).to(torch.uint8)
    images = ImagesInMemory(pixels, labels, MNIST_STATISTICS)
    return ImageData("few", images, images, None, images, num_classes=2, input_shape=(3, 8, 8))


QUICK: dict[str, Any] = {"shots": 8, "epochs": 2, "batch_size": 8, "held_out": 12, "rates": (0.05,), "seeds": (0,)}


def job_of(data: ImageData, init: Any, **options: Any) -> Job:
    recipe = Recipe(**{**QUICK, **options})
    return Job(Small, data, init_of(init), recipe, Parts.of(data, recipe), torch.device("cpu"))


def started(data: ImageData, init: Any, seed: int = 0, **options: Any) -> Small:
    """The network before the first step."""
    network = job_of(data, init, **options).network(seed)
    assert isinstance(network, Small)
    return network
