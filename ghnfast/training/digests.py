"""Digests of images and of networks: whether results and runs that go on are of the same ones.

They do not change where files are moved, nor with what differs from machine to machine: orders of sums, libraries'
random numbers in their last digits.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import TrainingError
from ..files import in_words
from ..tracing import trace
from .data import Images, ImagesInFolder, ImagesInMemory

SAMPLE = 64  # images whose content is read
MOST_READ = 1 << 20  # bytes of a file
SHARED = 0.5  # of the marks of images: as many are those of a folder in which a few were deleted or mended
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

# Images ---------------------------------------------------------------------------------------------------------------


def digest_of_images(*parts: Images) -> str:
    """Of images in files their names, sizes, and some of their contents; of others numbers, labels and some pixels."""
    everything = (
        mark for images in parts for mark in (str(len(images)), *outer_marks(images, sizes=True), *marks_of(images))
    )
    return mark_of("\n".join(everything).encode())


def marks_of(images: Images) -> list[str]:
    """Of some images, by their content: whichever stay the same have the same ones beside whatever else there is."""
    outer = outer_marks(images, sizes=False)  # asking for those of a million files takes its time
    chosen = sorted(range(len(outer)), key=outer.__getitem__)[:SAMPLE]
    if not isinstance(images, ImagesInFolder):
        return [outer[number] for number in chosen]
    paths = ((number, path_of(images, number)) for number in chosen)
    return [mark_of(f"{outer[number]} {size_of(path)} ".encode() + head_of(path)) for number, path in paths]


def are_alike(ours: list[str], theirs: Any) -> bool:
    """Whether marks are of the same images, but for some that were deleted or mended."""
    known = {mark for mark in theirs if isinstance(mark, str)} if isinstance(theirs, list) else set()
    return len(known & {*ours}) >= SHARED * len({*ours})


def outer_marks(images: Images, sizes: bool) -> list[str]:
    """Without reading all: of each file its name in its folder and, where asked for, its size; of others a sample."""
    return [mark_of(described) for described in describe(images, sizes)]


def describe(images: Images, sizes: bool) -> Iterator[bytes]:
    if isinstance(images, ImagesInFolder):
        root = os.fspath(images.dataset.root)
        for number in range(len(images)):
            path = path_of(images, number)
            name = path.removeprefix(root).replace(os.sep, "/")
            yield os.fsencode(f"{name} {size_of(path)}" if sizes else name)
        return
    labels = images.all_labels()
    for number in range(0, len(images), max(len(images) // SAMPLE, 1)):
        pixels = images.pixels[number] if isinstance(images, ImagesInMemory) else images.batch([number], 0)[0][0]
        yield f"{int(labels[number])} {tuple(pixels.shape)} ".encode() + bytes_of(pixels)


def path_of(images: ImagesInFolder, number: int) -> str:
    return os.fspath(images.dataset.samples[int(images.indices[number])][0])


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise TrainingError(f"the image {path} cannot be read: {in_words(error)}") from error


def head_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_READ)
    except OSError as error:
        raise TrainingError(f"the image {path} cannot be read: {in_words(error)}") from error


def mark_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


# Networks -------------------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Within it, notes what is computed: operators, shapes, and their arguments that are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler for that, as with `ghnfast.randomness.PrivateRandom`."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        self.lines.append(f"{func} {said(args)} {said(tuple(given.items()))}")
        return func(*args, **given)


def said(value: Any) -> str:
    """An argument of an operator: of tensors their shapes, of what has no numbers its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(said, value))}]"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def digest_of_network(network: nn.Module, operations: Iterable[str], input_shape: tuple[int, ...]) -> str:
    """Of a network as its constructor leaves it, and what it computes.

    Args:
        operations: of its forward; see `Operations`.
        input_shape: (channels, height, width).

    Raises:
        TraceError: it has no graph.
    """
    graph = trace(network, input_shape=input_shape)
    parts = [ADDRESS.sub("", repr(network)), *operations, str(graph.primitives.tolist()), str(graph.edges.tolist())]
    parts += [f"{name} {value.dtype} {tuple(value.shape)} {size_in(value)}" for name, value in entries(network)]
    return mark_of("\n".join(parts).encode())


def entries(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, value.detach()) for name, value in network.state_dict().items() if isinstance(value, Tensor))


def size_in(value: Tensor) -> str:
    """Whole numbers as they are; of others how large they are, for random ones differ between machines by rounding."""
    if not value.is_floating_point():
        return mark_of(bytes_of(value))
    return f"{float(torch.linalg.vector_norm(value, dtype=torch.float64)) / max(value.numel(), 1) ** 0.5:.1e}"
