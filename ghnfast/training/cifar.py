"""Files of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the binary version, or torchvision's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainingError
from ..optional import import_optional

SHAPE = (3, 32, 32)
BYTES = 3072  # of an image

Labelled = tuple[Tensor, Tensor]  # (images, 3, 32, 32) uint8, (images,) int64


@dataclass(frozen=True)
class Binary:
    """The binary version: records of `labels` bytes, of which the last counts, and an image, channel by channel."""

    folder: str
    train: tuple[str, ...]
    test: str
    per_file: tuple[int, int]  # images of a file of `train`, of `test`
    labels: int
    classes: int


BINARY = {
    "cifar10": Binary(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        (10_000, 10_000),
        1,
        10,
    ),
    "cifar100": Binary("cifar-100-binary", ("train.bin",), "test.bin", (50_000, 10_000), 2, 100),
}


def read_cifar(name: str, root: Path) -> tuple[Labelled, Labelled]:
    """The training and the test images: of the binary version where `root` has its folder, which needs no package.

    Raises:
        TrainingError: files are not there, cannot be read, or are others.
        MissingPackageError: torchvision, which reads the others, is not installed.
    """
    version = BINARY[name]
    folder = root / version.folder
    if not os.path.isdir(folder):
        return of_torchvision(name, root)
    train = [read_records(folder / file, version, version.per_file[0]) for file in version.train]
    pixels, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return (pixels, labels), read_records(folder / version.test, version, version.per_file[1])


def read_records(path: Path, version: Binary, images: int) -> Labelled:
    record = version.labels + BYTES
    try:
        with path.open("rb") as file:
            content = file.read(images * record + 1)
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if len(content) != images * record:
        more = "more than " if len(content) > images * record else "only "
        raise TrainingError(
            f"{path} has {more}{min(len(content), images * record)} bytes; {images * record}, which are {images} "
            f"records of {record}, are accepted"
        )
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(images, record).copy())
    labels = records[:, version.labels - 1].long()
    if int(labels.max()) >= version.classes:
        raise TrainingError(f"{path} has the label {int(labels.max())}; below {version.classes} are accepted")
    return records[:, version.labels :].reshape(images, *SHAPE), labels


def of_torchvision(name: str, root: Path) -> tuple[Labelled, Labelled]:
    datasets = import_optional("torchvision.datasets", f"{name} needs")
    make = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        train, test = (make(str(root), train=part, download=False) for part in (True, False))
    except Exception as error:  # whatever unpickling raises
        raise TrainingError(
            f"{name} cannot be read from {root}: {error}; this brings it there: python -c 'import ghnfast.vision; "
            f'from torchvision.datasets import {make.__name__}; {make.__name__}("{root}", download=True)\'; the folder '
            f"{BINARY[name].folder} of the binary version is accepted, too"
        ) from error

    def tensors(dataset: Any) -> Labelled:
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)

    return tensors(train), tensors(test)
