"""What tests of training share."""

from __future__ import annotations

import pytest
import torch

from ghnfast.training import ImageData
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory


@pytest.fixture
def few_images() -> ImageData:
    """A dozen random images of ten classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = ImagesInMemory(pixels, torch.arange(12) % 10, MNIST_STATISTICS)
    return ImageData("few", images, images, images, images, num_classes=10, input_shape=(3, 32, 32))
