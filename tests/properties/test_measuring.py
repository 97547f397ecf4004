"""Ground truth: what is measured of a trained network, and a file that survives interruptions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghnfast import PropertyError
from ghnfast.deepnets import DeepNets1M
from ghnfast.properties import measuring, read_labels
from ghnfast.properties.measuring import NoisyImages, measure, measure_into
from ghnfast.properties.protocol import Measured
from ghnfast.properties.table import HOW, PROPERTIES, Training, how_of
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
        return {**dict.fromkeys(PROPERTIES, float(item.index)), "convergence": 1.0}

    monkeypatch.setattr(measuring, "measure", stand_in)
    return seen


def test_an_interrupted_run_goes_on(measured: list[tuple[str, int]], tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.csv", tmp_path / "part.csv"
    seen: list[int] = []
    assert measure_into(whole, DATA, {"val": 3, "test": 2}, TRAINING, seen.append) == 5
    assert sum(seen) == 5
    content = whole.read_bytes()
    header, line = content.index(b"\n") + 1, content.rindex(b"\n", 0, -1) + 1
    for kept in (0, 7, header - 1, header, header + 5, *range(line, len(content) + 1)):
        path.write_bytes(content[:kept])
        before = len(measured)
        again = measure_into(path, DATA, {"val": 3, "test": 2}, TRAINING)
        lines = content[:kept].count(b"\n") - 1
        # A last line that only lacks its end is whole.
        assert again == len(measured) - before == (0 if kept == len(content) - 1 else 5 - max(lines, 0))
        assert path.read_bytes() == content
    for kept in (header, line, line + 7, len(content) - 1):  # as a power loss leaves it
        path.write_bytes(content[:kept] + b"\0" * 50)
        assert measure_into(path, DATA, {"val": 3, "test": 2}, TRAINING) == (5 if kept == header else 1)
        assert path.read_bytes() == content
    assert measure_into(path, DATA, {"val": 3, "test": 4}, TRAINING) == 2
    assert measured[-2:] == [("test", 2), ("test", 3)]


@pytest.mark.parametrize(("epochs", "last", "again"), [(5, "0.2", 0), (5, "0.", 1), (20, "0.2", 1), (20, "0.25", 0),
                                                        (3, "0.333333", 0), (3, "0.33333", 1)])  # fmt: skip
def test_a_last_number_that_may_have_been_cut(
    epochs: int, last: str, again: int, measured: Any, tmp_path: Path
) -> None:
    path, training = tmp_path / "a.csv", Training(channels=8, epochs=epochs)
    measure_into(path, DATA, {"val": 2}, training)
    path.write_bytes(path.read_bytes()[: -len("1\n")] + last.encode())
    assert measure_into(path, DATA, {"val": 2}, training) == again
    assert path.read_text().endswith("1\n" if again else f"{last}\n")


def row_of(path: Path) -> str:
    """A table of one network, its last row without the end."""
    measure_into(path, DATA, {"val": 1}, TRAINING)
    return path.read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "split,index,accuracy\nval,0,1.5\nval,1,2.5",
        lambda text: "notes without an end of line",
        lambda text: "\0" * 50,
        lambda text: text + "\0\n",
        lambda text: "a,b\n1,2\n",
        lambda text: "a,b\n",
        lambda text: text.replace("accuracy,", "acc,", 1) + "val,2",
        lambda text: text.replace(",seed", ",seed,mine", 1),
        lambda text: text + text.splitlines()[1].replace(",8,2,0,", ",16,2,0,"),
        lambda text: text + text.splitlines()[1].replace(",8,2,0,", ",16,2,0,")[:-9],
        lambda text: text + text.splitlines()[1] + ",1",
        lambda text: text + text.splitlines()[1].replace("val,0", "val,-3"),
        lambda text: text + text.splitlines()[1].replace("val,0", "val,1e30") + "\nval",
        lambda text: text + text.splitlines()[1].replace("val,0", "validation,0") + "\nval",
        lambda text: text + "val,1\nval,2",
        lambda text: "\x1f\x8b" + text,
        lambda text: text.replace("\n", "\r"),
    ],
)
def test_files_of_something_else_stay_as_they_are(change: Callable[[str], str], measured: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = change(row_of(path)).encode("latin-1")
    path.write_bytes(content)
    with pytest.raises(PropertyError, match=r"a\.csv"):
        measure_into(path, DATA, {"val": 3}, TRAINING)
    assert path.read_bytes() == content


def test_images_are_told_apart(tmp_path: Path) -> None:
    """By labels and pixels, and in folders by names and sizes; not by where they are."""

    def folder(at: str, names: Sequence[str]) -> ImageData:
        files: Any = type("Files", (), {})()
        files.root, files.targets = tmp_path / at, [index % 2 for index in range(len(names))]
        files.samples = [(tmp_path / at / name, index % 2) for index, name in enumerate(names)]
        for path, _ in files.samples:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"an image")
        images = ImagesInFolder(files, np.arange(len(names)))
        return ImageData("folder", images, images, None, images, 2, (3, 32, 32))

    different = [
        how_of(data, TRAINING)["images"]
        for data in (
            DATA, replace(DATA, test=images(10, 1)), replace(DATA, calibration=images(14)),
            replace(DATA, calibration=images(16, 5)),
            folder("x", ["a/1", "b/1"]), folder("x", ["a/1", "b/2"]), folder("x", ["a/1", "b/1", "a/2"]),
        )
    ]  # fmt: skip
    assert len({*different}) == len(different)
    assert how_of(folder("elsewhere", ["a/1", "b/1"]), TRAINING)["images"] == different[4]
    assert [*how_of(DATA, TRAINING)] == list(HOW)


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
    for other in ({"name": "others"}, {"input_shape": (3, 224, 224)}, {"num_classes": 3}, {"test": images(10)}):
        with pytest.raises(PropertyError, match="other training"):
            measure_into(path, replace(DATA, **other), {"val": 3}, TRAINING)
    assert path.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    for name in ("no/a.csv", "pipe", "."):
        with pytest.raises(PropertyError, match="cannot be written"):
            measure_into(tmp_path / name, DATA, {"val": 1}, TRAINING)
    with pytest.raises(PropertyError, match="the file is 3"):
        measure_into(3, DATA, {"val": 1}, TRAINING)  # type: ignore[arg-type]


def test_every_seed_that_is_accepted_is_read_back(measured: Any, tmp_path: Path) -> None:
    path, largest = tmp_path / "a.csv", (1 << 64) - 1
    training = Training(channels=8, epochs=2, seed=largest)
    assert measure_into(path, DATA, {"val": 2}, training) == 2
    assert measure_into(path, DATA, {"val": 2}, training) == 0
    read = read_labels(path).measured
    assert read is not None
    assert read.training == training
    first, other = (NoisyImages(images(8), seed).batch([1], 0)[0] for seed in (largest, largest - 1))
    assert not first.equal(other)
    path.write_text(f"split,index,seed,accuracy\nval,0,{largest},1\n")
    assert read_labels(path).networks[0].genotype == DeepNets1M("val", seed=largest)[0].genotype
    path.write_text(f"split,index,seed,accuracy\nval,0,{largest + 1},1\n")
    with pytest.raises(PropertyError, match=f"line 2 of .*whole numbers up to {largest}"):
        read_labels(path)


@pytest.mark.parametrize("missing", [["images", "classes"], ["images"], ["epochs"], ["image_size", "seed"]])
def test_tables_of_an_earlier_version(missing: list[str], measured: Any, tmp_path: Path) -> None:
    """Their networks are not taken for others; with the columns that they lack they are read."""
    path = tmp_path / "a.csv"
    measure_into(path, DATA, {"val": 2, "test": 2}, TRAINING)
    whole = [line.split(",") for line in path.read_text().splitlines()]
    kept = [at for at, name in enumerate(whole[0]) if name not in missing]
    path.write_text("".join(",".join(line[at] for at in kept) + "\n" for line in whole))
    before = path.read_bytes()
    words = (
        rf"a\.csv has measured networks, and no column {' and no column '.join(map(repr, missing))}: an earlier version"
    )
    for call in (read_labels, Measured, lambda path: measure_into(path, DATA, {"val": 3}, TRAINING)):
        with pytest.raises(PropertyError, match=words):
            call(path)
    assert path.read_bytes() == before
    rows = [[*(line[at] for at in kept), *(line[whole[0].index(name)] for name in missing)] for line in whole]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    found = read_labels(path)
    assert found.measured is not None
    assert [network.args["C"] for network in found.networks] == [TRAINING.channels] * 4
    assert len(Measured(path).graphs["val"]) == 2


@pytest.mark.parametrize(
    "settings",
    [{"channels": 4}, {"channels": 8193}, {"epochs": 0}, {"epochs": 10**18}, {"seed": -1}, {"seed": 1 << 64}],
)
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
