"""Image data sets."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ghnfast.vision  # noqa: F401  (first: it makes torchvision importable beside a CPU torch)
from ghnfast.errors import TrainingError
from ghnfast.training import load_data, make_config
from ghnfast.training.cifar import BINARY, Binary
from ghnfast.training.data import (
    CROP_PADDING,
    MNIST_STATISTICS,
    Batches,
    Images,
    ImagesInMemory,
    cropped,
    mnist_digits,
    split_off,
    stratified,
)
from ghnfast.training.digests import are_alike, digest_of_images, marks_of
from ghnfast.training.run import image_stream


def test_mnist5k() -> None:
    data = load_data("mnist5k", validation=False)
    assert data.val is None
    assert (len(data.train), len(data.test), data.num_classes, data.input_shape) == (4000, 1000, 10, (3, 32, 32))
    images, labels = data.test.batch(range(1000), 0)
    assert images.shape == (1000, 3, 32, 32)
    assert labels.bincount().tolist() == [100] * 10
    pixels = images[:, 0] * MNIST_STATISTICS[1][0] + MNIST_STATISTICS[0][0]
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    assert pixels[:, :2].abs().max() < 1e-6  # padded
    assert torch.equal(images[:, 0], images[:, 1])


def test_mnist5k_splits_share_no_image() -> None:
    data = load_data("mnist5k")
    assert isinstance(data.train, ImagesInMemory)
    seen = [{bytes(image.numpy().tobytes()) for image in part.pixels} for part in (data.train, data.val, data.test)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_stratified() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    others, held = stratified(labels, 20, 0)
    assert labels[held].bincount().tolist() == [12, 6, 2]
    assert sorted([*others.tolist(), *held.tolist()]) == list(range(100))
    assert not torch.equal(stratified(labels, 20, 1)[1], held)


def write_cifar(folder: Path, classes: int, per_file: int) -> np.ndarray:
    """Tiny files in the format of CIFAR-10 or CIFAR-100; returns the training images (N, 3, 32, 32)."""
    random = np.random.default_rng(0)
    label, names = ("labels", [f"data_batch_{i}" for i in range(1, 6)]) if classes == 10 else ("fine_labels", ["train"])
    folder.mkdir(parents=True)
    pixels = []
    for name in [*names, "test_batch" if classes == 10 else "test"]:
        values = random.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        entry = {"data": values, label: [int(i % classes) for i in range(per_file)]}
        (folder / name).write_bytes(pickle.dumps(entry))
        pixels.append(values.reshape(-1, 3, 32, 32))
    meta = {"label_names": [str(i) for i in range(classes)], "fine_label_names": [str(i) for i in range(classes)]}
    (folder / ("batches.meta" if classes == 10 else "meta")).write_bytes(pickle.dumps(meta))
    return np.concatenate(pixels[:-1])


@pytest.mark.parametrize(
    ("name", "classes", "folder"), [("cifar10", 10, "cifar-10-batches-py"), ("cifar100", 100, "cifar-100-python")]
)
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: int, folder: str) -> None:
    from torchvision.datasets import cifar

    pixels = write_cifar(tmp_path / folder, classes, 20)
    with pytest.raises(TrainingError, match=rf"{name} cannot be read from .*Dataset not found or corrupted"):
        load_data(name, tmp_path)  # not the published files
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    data = load_data(name, tmp_path)
    assert data.num_classes == classes
    count = len(pixels)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (count - count // 10, count // 10, 20)
    assert isinstance(data.val, ImagesInMemory)
    assert np.array_equal(data.val.pixels.numpy(), pixels[count - count // 10 :])  # the last tenth, as published
    images, _ = data.calibration.batch([0, 1], 0)
    mean, deviation = (np.array(values).reshape(3, 1, 1) for values in data.calibration.statistics)
    np.testing.assert_allclose(images.numpy(), (pixels[:2] / 255 - mean) / deviation, rtol=1e-5, atol=1e-5)


def write_binary_cifar(folder: Path, version: Binary) -> tuple[np.ndarray, np.ndarray]:
    """The binary version, with few images a file; returns the training images (N, 3, 32, 32) and their labels."""
    random = np.random.default_rng(0)
    folder.mkdir()
    parts = []
    for name in [*version.train, version.test]:
        count = version.per_file[name == version.test]
        labels = random.integers(0, version.classes, (count, version.labels), dtype=np.uint8)
        records = np.hstack([labels, random.integers(0, 256, (count, 3072), dtype=np.uint8)])
        (folder / name).write_bytes(records.tobytes())
        parts.append(records)
    train = np.concatenate(parts[:-1])
    return train[:, version.labels :].reshape(-1, 3, 32, 32), train[:, version.labels - 1]


@pytest.fixture(params=["cifar10", "cifar100"])
def binary_cifar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Binary]:
    name: str = request.param
    version = replace(BINARY[name], per_file=(20, 10))
    monkeypatch.setitem(BINARY, name, version)
    return name, version


def test_cifar_from_the_binary_version(tmp_path: Path, binary_cifar: tuple[str, Binary]) -> None:
    name, version = binary_cifar
    pixels, labels = write_binary_cifar(tmp_path / version.folder, version)
    data = load_data(name, tmp_path)
    count = len(pixels)
    assert count == 20 * len(version.train)
    assert isinstance(data.train, ImagesInMemory)
    assert isinstance(data.val, ImagesInMemory)
    assert len(data.test) == 10
    assert np.array_equal(torch.cat([data.train.pixels, data.val.pixels]).numpy(), pixels)
    assert torch.cat([data.train.labels, data.val.labels]).tolist() == labels.tolist()
    assert data.num_classes == version.classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-1], "has only {less} bytes; {all}, which are"),
        (lambda whole: whole + b"0", "has more than {all} bytes; {all}, which are"),
        (lambda whole: b"", "has only 0 bytes; {all}, which are"),
        (lambda whole: b"\xff" * len(whole), "has the label 255; below {classes} are accepted"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_damaged_binary_cifar(
    tmp_path: Path, binary_cifar: tuple[str, Binary], change: Callable[[bytes], bytes] | None, message: str
) -> None:
    name, version = binary_cifar
    write_binary_cifar(tmp_path / version.folder, version)
    path = tmp_path / version.folder / version.train[-1]
    whole = path.read_bytes()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(whole))
    expected = message.format(less=len(whole) - 1, all=len(whole), classes=version.classes)
    with pytest.raises(TrainingError, match=rf"{path.name} {expected}"):
        load_data(name, tmp_path)


def write_folder(root: Path, parts: dict[str, list[str]], count: int) -> None:
    random = np.random.default_rng(0)
    for part, classes in parts.items():
        for label in classes:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                values = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(values).save(root / part / label / f"{number}.png")


def test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": ["a", "b"], "val": ["a", "b"]}, 10)
    data = load_data("folder", tmp_path, image_size=32)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (18, 2, 20, 2)
    images, labels = data.train.batch([0, 1, 2], 5)
    assert images.shape == (3, 3, 32, 32)
    assert torch.equal(images, data.train.batch([0, 1, 2], 5)[0])
    assert not torch.equal(images, data.train.batch([0, 1, 2], 6)[0])
    assert torch.equal(data.test.batch([0], 1)[0], data.test.batch([0], 2)[0])
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("counts", [[30, 30, 1], [1] * 12, [1, 2, 3, 40], [5] * 12, [3]])
def test_validation_leaves_an_image_to_each_class(tmp_path: Path, counts: list[int]) -> None:
    """The classes of few images are trained on, however few there are."""
    for label, count in enumerate(counts):
        write_folder(tmp_path, {"train": [f"{label:02}"]}, count)
        write_folder(tmp_path, {"val": [f"{label:02}"]}, 1)
    data = load_data("folder", tmp_path, image_size=32)
    assert data.val is not None
    found = data.train.all_labels().bincount(minlength=len(counts))
    assert min(found.tolist()) >= 1
    total = sum(counts)
    assert len(data.val) == min(total // 10, total - len(counts))
    assert len(data.train) + len(data.val) == total
    held = (torch.tensor(counts) - found).double()
    assert bool((held <= (torch.tensor(counts) / 10).ceil()).all())  # an equal share of every class


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 60))
def test_what_is_split_off_leaves_every_class(counts: list[int], held_out: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(held_out))
    if held_out > len(labels) - len(counts):
        with pytest.raises(TrainingError, match="which leave an image to each class, are accepted"):
            split_off(labels, held_out, order)
        return
    kept, held = split_off(labels, held_out, order)
    assert len(held) == held_out
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert min(labels[kept].bincount(minlength=len(counts)).tolist()) >= 1


PUBLISHED = {True: "b0776490119c3dbb", False: "b1145a15c916c15d"}


@pytest.mark.parametrize("validation", [True, False])
def test_published_splits_stay(validation: bool) -> None:
    data = load_data("mnist5k", validation=validation)
    found = hashlib.sha256()
    for part in (data.train, data.val, data.test):
        if isinstance(part, ImagesInMemory):
            found.update(part.pixels.numpy().tobytes())
            found.update(part.labels.numpy().tobytes())
    assert found.hexdigest()[:16] == PUBLISHED[validation]


def test_folder_with_other_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": ["a", "b"], "test": ["a", "c"]}, 2)
    with pytest.raises(TrainingError, match="has other classes in"):
        load_data("folder", tmp_path, image_size=32)
    with pytest.raises(TrainingError, match="imagenet cannot be read from"):
        load_data("imagenet", tmp_path / "nowhere")


def test_crops_are_parts_of_the_padded_image() -> None:
    images = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).view(2, 3, 32, 32) + 1
    found = cropped(images, torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(images, (CROP_PADDING,) * 4)
    for index in range(2):
        places = [
            (down, right)
            for down in range(2 * CROP_PADDING + 1)
            for right in range(2 * CROP_PADDING + 1)
            if torch.equal(padded[index, :, down : down + 32, right : right + 32], found[index])
        ]
        assert len(places) == 1


def test_batches_are_a_function_of_their_number() -> None:
    images = ImagesInMemory(
        torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8), torch.arange(10), MNIST_STATISTICS, crop=True, flip=True
    )
    batches = Batches(images, 4, 0)
    assert batches.per_epoch == 2
    first, again = batches[5], Batches(images, 4, 0)[5]
    assert all(map(torch.equal, first, again))
    epoch = torch.cat([batches[step][1] for step in (4, 5)])
    assert len(epoch.unique()) == 8
    assert not torch.equal(epoch, torch.cat([batches[step][1] for step in (0, 1)]))
    assert not torch.equal(Batches(images, 4, 1)[5][1], first[1])


@pytest.mark.parametrize("size", [10, 20, 40])
def test_balanced_batches(size: int) -> None:
    labels = torch.arange(100)[torch.randperm(100)] % 10
    images = ImagesInMemory(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), labels, MNIST_STATISTICS)
    batches = Batches(images, size, 0, balanced=True)
    for step in range(8):
        assert batches[step][1].bincount().tolist() == [size // 10] * 10


def test_balanced_batches_of_unequal_classes_hold_every_image() -> None:
    labels = torch.tensor([0] * 30 + [1] * 20 + [3] * 10)
    images = ImagesInMemory(
        torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2), labels, MNIST_STATISTICS
    )
    batches = Batches(images, 6, 0, balanced=True)
    epochs = [[batches[step] for step in range(epoch * 10, epoch * 10 + 10)] for epoch in (0, 1)]
    for epoch in epochs:
        assert len(torch.cat([pixels[:, 0, 0, 0] for pixels, _ in epoch]).unique()) == 60
        for _, found in epoch:
            assert ((found.bincount(minlength=4) - torch.tensor([3, 2, 0, 1])).abs() <= 1).all()
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    assert all(map(torch.equal, epochs[1][0], Batches(images, 6, 0, balanced=True)[10]))


def test_unknown_data() -> None:
    with pytest.raises(
        TrainingError, match="the data set is 'mnist'; fashion, mnist5k, cifar10, cifar100, imagenet, folder are"
    ):
        load_data("mnist")


ROOTS: list[dict[str, Any]] = [{"root": root} for root in (None, 5, b"data")]
IMAGE_SIZES: list[dict[str, Any]] = [{"image_size": size} for size in (0, -1, "x", None, 32.0, True)]


@pytest.mark.parametrize("given", [*ROOTS, *IMAGE_SIZES], ids=str)
@pytest.mark.parametrize("name", ["folder", "imagenet", "cifar10", "fashion", "mnist5k"])
def test_arguments_that_are_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=f"^{next(iter(given))} is .*accepted"):
        load_data(name, **given)


@pytest.mark.parametrize("change", ["cut off", "empty", "flipped", "no gzip", "few", "long rows", "letters"])
def test_damaged_digits(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b"0,1,2\n" * 5000)
    half = len(content) // 2
    file = tmp_path / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir()
    file.write_bytes({
        "cut off": content[:half],
        "empty": b"",
        "flipped": content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :],
        "no gzip": b"hello",
        "few": content,
        "long rows": gzip.compress(b"0,1,2,3,4\n" * (1000 * 785)),
        "letters": gzip.compress(b"0,x,2\n" * 5000),
    }[change])  # fmt: skip
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("ghnfast.training.data.import_optional", lambda *_: package)
    with pytest.raises(TrainingError, match=r"mnist_5k\.csv\.gz"):
        mnist_digits.__wrapped__()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, {"train": ["a", "b"], "val": ["a", "b"]}, 6)
    return tmp_path


def damaged(content: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "cut off": content[: len(content) // 2],
        "no image": b"hello",
        "NULs": content[:100] + b"\0" * (len(content) - 100),
        "huge": content[:16] + b"\x7f\xff\xff\xff" * 2 + content[24:],
    }[how]


@pytest.mark.parametrize("how", ["empty", "cut off", "no image", "NULs", "huge", "gone", "a folder"])
def test_images_that_cannot_be_read_are_named(folder: Path, how: str) -> None:
    data = load_data("folder", folder, validation=False, image_size=32)
    file = folder / "train" / "b" / "3.png"
    content = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(damaged(content, how))
    with pytest.raises(TrainingError, match=r"the image .*train/b/3\.png cannot be read: .+"):
        data.train.batch(range(12), 0)
    assert len(data.test.batch(range(12), 0)[0]) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read_end_a_run_in_one_sentence(folder: Path, workers: int) -> None:
    data = load_data("folder", folder, validation=False, image_size=32)
    (folder / "train" / "b" / "3.png").write_bytes(b"hello")
    stream = image_stream(Batches(data.train, 6, 0), make_config({"workers": workers}), 0, 2)
    with pytest.raises(TrainingError, match=r"^the image .*train/b/3\.png cannot be read: .+") as raised:
        list(stream)
    assert "\n" not in str(raised.value)


def test_digests_are_of_images_wherever_they_are(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of what a folder has, at any place, read in any size; of others after any change; runs bear small ones."""

    def images(root: Path, **options: Any) -> Images:
        return load_data("folder", root, validation=False, **{"image_size": 32, **options}).train

    def change(name: str) -> Images:
        root = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "images") / "train"
        file = root / "b" / "3.png"
        if name == "gone":
            file.unlink()
        elif name == "renamed":
            file.rename(root / "b" / "33.png")
        elif name == "another class":
            file.rename(root / "a" / "33.png")
        elif name == "as long":
            content = file.read_bytes()
            file.write_bytes(content[:-30] + bytes(30))
        elif name == "all other ones":
            for number, each in enumerate(sorted(root.glob("*/*.png"))):
                Image.new("RGB", (40, 50 + number)).save(each)
        return images(root.parent)

    ours = images(folder)
    digest, marks = digest_of_images(ours), marks_of(ours)
    assert digest_of_images(change("nothing"), ours) == digest_of_images(ours, ours)
    assert digest_of_images(images(folder, image_size=40)) == digest
    for name in ("gone", "renamed", "another class", "as long", "all other ones"):
        other = change(name)
        assert digest_of_images(other) != digest
        assert are_alike(marks_of(other), marks) == (name != "all other ones")
    for wrong in (None, 3, "abc", [], [3, [4]], {"a": 1}):
        assert not are_alike(marks, wrong)
    (folder / "train" / "b" / "3.png").unlink()
    with pytest.raises(TrainingError, match=r"the image .*train/b/3\.png cannot be read: No such file"):
        digest_of_images(ours)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of a machine, or a mask, of one core
def test_batches_of_other_processes_are_the_same(folder: Path) -> None:
    batches = Batches(load_data("folder", folder, validation=False, image_size=32).train, 4, 0)
    here, there = (list(image_stream(batches, make_config({"workers": workers}), 1, 6)) for workers in (0, 2))
    assert len(here) == 5
    for ours, theirs in zip(here, there, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_files_that_are_no_images_are_left_out(folder: Path) -> None:
    for place in (folder, folder / "train", folder / "train" / "a"):
        (place / "notes.txt").write_text("hello")
        (place / ".DS_Store").write_bytes(b"\0" * 10)
    assert len(load_data("folder", folder, validation=False, image_size=32).train) == 12


@pytest.mark.parametrize("case", ["an empty class", "no class", "a file", "no tests", "nothing", "a broken path"])
def test_folders_without_images(folder: Path, case: str) -> None:
    root = folder
    if case == "an empty class":
        (folder / "train" / "c").mkdir()
    elif case == "no class":
        shutil.rmtree(folder / "train")
        (folder / "train").mkdir()
    elif case == "a file":
        shutil.rmtree(folder / "train")
        (folder / "train").write_text("hello")
    elif case == "no tests":
        shutil.rmtree(folder / "val")
    elif case == "nothing":
        root = folder / "nowhere"
    else:
        root = Path("a\0b")
    with pytest.raises(TrainingError, match="folder cannot be read from"):
        load_data("folder", root, image_size=32)


def test_validation_needs_more_images_than_it_takes(folder: Path) -> None:
    with pytest.raises(TrainingError, match="has 12 images, and 5000 are held out for validation; more are accepted"):
        load_data("imagenet", folder, image_size=32)
