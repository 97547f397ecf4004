"""What tests of training share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny import FAST, tiny_config

from ghnfast.training import ImageData, train
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory


@pytest.fixture(scope="session")
def few_images() -> ImageData:
    """A dozen random images of ten classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = ImagesInMemory(pixels, torch.arange(12) % 10, MNIST_STATISTICS)
    return ImageData("few", images, images, images, images, num_classes=10, input_shape=(3, 32, 32))


@pytest.fixture
def quick(few_images: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take a second: they have a dozen images, whatever their configuration says."""
    monkeypatch.setattr("ghnfast.training.run.load_data", lambda *_, **__: few_images)


@pytest.fixture(scope="session")
def trained(few_images: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghnfast.training.run.load_data", lambda *_, **__: few_images)
        train(tiny_config(**FAST), folder, progress=False)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, quick: None) -> Path:
    """A run that was trained to its end; a copy of one's own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
