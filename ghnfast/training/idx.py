"""Files of the format of MNIST (idx), which Fashion-MNIST has, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainingError

IMAGES, LABELS = 0x803, 0x801  # unsigned bytes of three dimensions, of one
SIZE = 28


def read_images(folder: Path, stem: str, count: int) -> Tensor:
    """(count, 28, 28) uint8, from `stem`-images-idx3-ubyte or the same with .gz.

    Raises:
        TrainingError: the file is not there, cannot be read, or is another.
    """
    return torch.from_numpy(read(folder, f"{stem}-images-idx3-ubyte", IMAGES, (count, SIZE, SIZE)))


def read_labels(folder: Path, stem: str, count: int, classes: int) -> Tensor:
    """(count,) int64, from `stem`-labels-idx1-ubyte or the same with .gz.

    Raises:
        TrainingError: the file is not there, cannot be read, or is another.
    """
    labels = torch.from_numpy(read(folder, f"{stem}-labels-idx1-ubyte", LABELS, (count,))).long()
    if int(labels.max()) >= classes:
        raise TrainingError(f"{folder}: {stem}-labels-idx1-ubyte has the label {int(labels.max())}; below {classes} "
                            "are accepted")  # fmt: skip
    return labels


def file_of(folder: Path, name: str) -> Path:
    """The file with this name, or with .gz; the first where neither is there."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)]
    return found[0] if found else folder / name


def read(
    folder: Path, name: str, magic: int, shape: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    path = file_of(folder, name)
    header = np.array([magic, *shape], dtype=">i4").tobytes()
    wanted = len(header) + int(np.prod(shape))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(wanted + 1)  # no more than that, whatever a damaged file unpacks to
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if not content.startswith(header):
        raise TrainingError(f"{path} begins with {content[: len(header)].hex()}; {header.hex()}, the header of "
                            f"{' x '.join(map(str, shape))} unsigned bytes, is accepted")  # fmt: skip
    if len(content) != wanted:
        more = "more than " if len(content) > wanted else "only "
        raise TrainingError(f"{path} has {more}{min(len(content), wanted)} bytes; {wanted} are accepted")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape).copy()
