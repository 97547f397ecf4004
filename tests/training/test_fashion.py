"""Fashion-MNIST, and files of its format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ghnfast.errors import TrainingError
from ghnfast.training import data as data_module
from ghnfast.training import load_data
from ghnfast.training.data import FASHION_STATISTICS, ImagesInMemory

TRAIN, TEST, HELD_OUT = 400, 70, 50
NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As many images as a test can write; the Debian package's folder is not there."""
    monkeypatch.setattr(data_module, "FASHION_TRAIN", TRAIN)
    monkeypatch.setattr(data_module, "FASHION_TEST", TEST)
    monkeypatch.setattr(data_module, "FASHION_HELD_OUT", HELD_OUT)
    monkeypatch.setattr(data_module, "FASHION_FOLDER", tmp_path / "debian")


def write(folder: Path, *, compressed: bool = True) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = np.array([0x803, count, 28, 28], ">i4").tobytes() + pixels.tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents[f"{part}-labels-idx1-ubyte"] = np.array([0x801, count], ">i4").tobytes() + labels.tobytes()
    for name, content in contents.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", ["root", "root/FashionMNIST/raw", "debian"])
def test_fashion(tmp_path: Path, place: str, compressed: bool) -> None:
    contents = write(tmp_path / place, compressed=compressed)
    data = load_data("fashion", tmp_path / "root")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (TRAIN - HELD_OUT, HELD_OUT, TEST)
    assert (data.name, data.num_classes, data.input_shape) == ("fashion", 10, (3, 32, 32))
    assert data.val.all_labels().bincount().tolist() == [HELD_OUT // 10] * 10
    images, labels = data.test.batch(range(TEST), 0)
    assert labels.tolist() == [index % 10 for index in range(TEST)]
    mean, deviation = FASHION_STATISTICS[0][0], FASHION_STATISTICS[1][0]
    pixels = (images * deviation + mean) * 255
    expected = np.frombuffer(contents["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(TEST, 1, 28, 28)
    torch.testing.assert_close(pixels[:, :, 2:-2, 2:-2], torch.tensor(expected).float().expand(-1, 3, -1, -1))
    assert pixels[:, :, :2].abs().max() < 1e-3
    assert len(load_data("fashion", tmp_path / "root", validation=False).train) == TRAIN


def test_validation_images_are_none_of_the_training_images(tmp_path: Path) -> None:
    write(tmp_path / "root")
    data = load_data("fashion", tmp_path / "root")
    assert isinstance(data.train, ImagesInMemory)
    assert isinstance(data.val, ImagesInMemory)
    train, val = ({image.numpy().tobytes() for image in part.pixels} for part in (data.train, data.val))
    assert not train & val
    assert len(train | val) == TRAIN


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of .*root, .*raw, .*debian has train-images.*dataset-fashion-mnist"):
        load_data("fashion", tmp_path / "root")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("damage", ["missing", "half", "longer", "header", "empty", "folder"])
def test_damaged_files(tmp_path: Path, name: str, compressed: bool, damage: str) -> None:
    if damage == "missing" and name.startswith("train-images"):
        return  # the test above: no other file says that the data set is there
    write(tmp_path / "root", compressed=compressed)
    file = tmp_path / "root" / (f"{name}.gz" if compressed else name)
    content = gzip.decompress(file.read_bytes()) if compressed else file.read_bytes()
    pack = gzip.compress if compressed else bytes
    match damage:
        case "missing" | "folder":
            file.unlink()
            if damage == "folder":
                file.mkdir()
        case "half":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "longer":
            file.write_bytes(pack(content + b"\0"))
        case "header":
            file.write_bytes(pack(b"\0\0\x08\x02" + content[4:]))
        case "empty":
            file.write_bytes(b"")
    with pytest.raises(TrainingError, match="fashion cannot be read" if name.startswith("train-images") and
                       damage == "folder" else name):  # fmt: skip
        load_data("fashion", tmp_path / "root")


def test_other_labels(tmp_path: Path) -> None:
    write(tmp_path / "root", compressed=False)
    file = tmp_path / "root" / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + bytes([10]))
    with pytest.raises(TrainingError, match="has the label 10; below 10 are accepted"):
        load_data("fashion", tmp_path / "root")
