"""Ground truth: what is measured of a trained network, and a file that survives interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghnfast import PropertyError
from ghnfast.deepnets import DeepNets1M
from ghnfast.properties import measuring
from ghnfast.properties.measuring import PROPERTIES, NoisyImages, Training, measure, measure_into
from ghnfast.training import ImageData
from ghnfast.training.data import (
    CIFAR_STATISTICS,
    FASHION_STATISTICS,
    IMAGENET_STATISTICS,
    MNIST_STATISTICS,
    Batches,
    ImagesInFolder,
    ImagesInMemory,
)
from ghnfast.training.evaluate import fit, fit_epochs
from ghnfast.training.shots import Chosen

TRAINING = Training(channels=8, epochs=2)


def images(count: int, seed: int = 0) -> ImagesInMemory:
    """Images of two classes, bright and dark."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 100, (count, 3, 32, 32), generator=generator) + 150 * labels[:, None, None, None]
    return ImagesInMemory(pixels.to(torch.uint8), labels, (MNIST_STATISTICS[0], MNIST_STATISTICS[1]))


DATA = ImageData("two classes", images(16), images(16), None, images(8, 1), 2, (3, 32, 32))


def small() -> int:
    """The smallest of the first networks."""
    return min(range(20), key=lambda index: DeepNets1M("val").num_nodes(index))


def test_the_properties_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "IMAGES_AT_ONCE", 8)
    item = DeepNets1M("val")[small()]
    found = measure(item, DATA, TRAINING)
    assert tuple(found) == PROPERTIES
    assert 0 <= found["accuracy"] <= 100
    assert found["seconds"] > 0
    assert found["convergence"] in (0.5, 1.0)
    again = measure(item, DATA, TRAINING)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    assert TRAINING.network(item).args == {**item.args, "C": 8}


def test_noise_is_the_same_each_time_and_of_its_size() -> None:
    clean, noisy = images(8), NoisyImages(images(8), seed=3)
    chosen = [4, 1, 6]
    difference = noisy.batch(chosen, 0)[0] - clean.batch(chosen, 0)[0]
    torch.testing.assert_close(noisy.batch(chosen, 0)[0], noisy.batch(chosen, 5)[0])
    assert difference.std().item() * MNIST_STATISTICS[1][0] == pytest.approx(0.08, rel=0.05)
    assert noisy.batch(chosen, 0)[1].equal(clean.batch(chosen, 0)[1])
    assert len(noisy) == 8


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize("statistics", [CIFAR_STATISTICS, FASHION_STATISTICS, IMAGENET_STATISTICS])
def test_noise_is_that_of_pixels_whatever_they_are_normalized_with(fewer: bool, statistics: Any) -> None:
    """In memory, in folders (of which 4 mid-grey ones stand in for files), and of some of them."""
    normalized = (torch.full((3, 32, 32), 0.5) - torch.tensor(statistics[0]).view(3, 1, 1)) / torch.tensor(
        statistics[1]
    ).view(3, 1, 1)
    files = type("Files", (list,), {"targets": [0, 1] * 2})([(normalized, at % 2) for at in range(4)])
    in_memory = ImagesInMemory(torch.full((4, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(4) % 2, statistics)
    for clean in (in_memory, *([ImagesInFolder(files, np.arange(4))] if statistics is IMAGENET_STATISTICS else [])):
        noisy = NoisyImages(Chosen(clean, torch.tensor([1, 2, 3])) if fewer else clean, seed=1)
        difference = noisy.batch([0, 2], 0)[0] - noisy.images.batch([0, 2], 0)[0]
        pixels = difference * torch.tensor(statistics[1]).view(1, 3, 1, 1)
        for channel in pixels.unbind(1):
            assert channel.std().item() == pytest.approx(0.08, rel=0.1)


def test_accuracy_in_each_epoch() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 2))

    batches, trained, alone = Batches(DATA.train, 4, 0), network(), network()
    reached = fit_epochs(trained, batches, 6)
    assert len(reached) == 6
    assert reached[-1] > 0.9
    assert all(0 <= share <= 1 for share in reached)
    fit(alone, batches, 6 * batches.per_epoch)
    assert all(value.equal(trained.state_dict()[name]) for name, value in alone.state_dict().items())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The networks that are measured, in no time."""
    seen: list[tuple[str, int]] = []

    def stand_in(item: Any, data: Any, training: Any) -> dict[str, float]:
        seen.append((item.split, item.index))
        return dict.fromkeys(PROPERTIES, float(item.index))

    monkeypatch.setattr(measuring, "measure", stand_in)
    return seen


@pytest.mark.parametrize("cut", [0, 1, 5, 12])
def test_an_interrupted_run_goes_on(cut: int, measured: list[tuple[str, int]], tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.csv", tmp_path / "part.csv"
    seen: list[int] = []
    assert measure_into(whole, DATA, {"val": 3, "test": 2}, TRAINING, seen.append) == 5
    assert sum(seen) == 5
    path.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) - cut])
    before = len(measured)
    again = measure_into(path, DATA, {"val": 3, "test": 2}, TRAINING)
    assert again == len(measured) - before == (0 if cut == 0 else 1)
    assert path.read_bytes() == whole.read_bytes()
    assert measure_into(path, DATA, {"val": 3, "test": 4}, TRAINING) == 2
    assert measured[-2:] == [("test", 2), ("test", 3)]


def test_a_run_that_is_interrupted_by_an_error(measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, usual = tmp_path / "a.csv", measuring.measure

    def failing(item: Any, data: Any, training: Any) -> Any:
        if item.index == 2:
            raise KeyboardInterrupt
        return usual(item, data, training)

    monkeypatch.setattr(measuring, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        measure_into(path, DATA, {"val": 4}, TRAINING)
    assert len(path.read_text().splitlines()) == 3


def test_files_of_something_else(measured: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    measure_into(path, DATA, {"val": 2}, TRAINING)
    before = path.read_bytes()
    with pytest.raises(PropertyError, match="other training"):
        measure_into(path, DATA, {"val": 2}, Training(channels=16, epochs=2))
    for other in ({"name": "others"}, {"input_shape": (3, 224, 224)}):
        with pytest.raises(PropertyError, match="other training"):
            measure_into(path, replace(DATA, **other), {"val": 3}, TRAINING)
    assert path.read_bytes() == before
    for text in ("a,b\n1,2\n", before.decode().replace("val,1", "val,one")):
        path.write_text(text)
        with pytest.raises(PropertyError, match=r"columns|index"):
            measure_into(path, DATA, {"val": 2}, TRAINING)
    with pytest.raises(PropertyError, match="cannot be written"):
        measure_into(tmp_path / "no" / "a.csv", DATA, {"val": 1}, TRAINING)


@pytest.mark.parametrize("settings", [{"channels": 4}, {"epochs": 0}, {"seed": -1}])
def test_training_that_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(PropertyError, match=next(iter(settings))):
        Training(**settings)


def test_convergence_is_the_first_epoch_near_the_last_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    item = DeepNets1M("val")[small()]
    monkeypatch.setattr(measuring, "IMAGES_AT_ONCE", 8)
    monkeypatch.setattr(measuring, "accuracies", lambda *args: (50.0, 50.0))
    monkeypatch.setattr(measuring, "forward_seconds", lambda *args: 0.1)
    for reached, wanted in (([0.2, 0.92, 0.94, 1.0], 0.75), ([1.0, 0.5, 0.5, 0.5], 0.25), ([0.0, 0.0, 0.0, 0.0], 0.25)):
        monkeypatch.setattr(measuring, "fit_epochs", lambda *args, reached=reached: reached)
        assert measure(item, DATA, Training(8, 4))["convergence"] == wanted
