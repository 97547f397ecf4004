"""Files that the machine does not let be read are not called damaged, and nobody is told to delete them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.full_disk import descriptors_left

import ghnfast
from ghnfast.deepnets import DeepNets1M
from ghnfast.deepnets.generate import write_splits
from ghnfast.errors import GhnfastError, TrainingError
from ghnfast.training import load_data
from ghnfast.training.folder import read_checkpoint, save_checkpoint

BLAME = ("damaged", "broken", "delete", "without it", "No such file", "cannot be opened as", "does not describe")
MOST = 6  # descriptors that reading a file takes at once


def saved_ghn(suffix: str) -> Callable[[Path], Callable[[], object]]:
    def make(folder: Path) -> Callable[[], object]:
        path = folder / f"ghn{suffix}"
        ghnfast.GHN(hid=8, num_classes=10, max_shape=(8, 8, 3, 3)).save(path)
        return lambda: ghnfast.load(path)

    return make


def saved_run(folder: Path) -> Callable[[], object]:
    save_checkpoint(folder, {"ghn": {"weight": torch.ones(3)}, "optimizer": {}, "config": {}})
    return lambda: read_checkpoint(folder)


def saved_networks(folder: Path) -> Callable[[], object]:
    write_splits(folder, {"val": 2}, 0)
    return lambda: DeepNets1M("val", folder)[1].graph


def saved_images(folder: Path) -> Callable[[], object]:
    images = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.full((8, 8, 3), number, dtype=np.uint8)
                images.fromarray(pixels).save(folder / part / name / f"{number}.png")
    data = load_data("folder", folder, validation=False, image_size=32)
    return lambda: data.train.batch([0, 1], 0)


READERS = {
    "safetensors": saved_ghn(".safetensors"),
    "torch": saved_ghn(".pt"),
    "a run": saved_run,
    "networks": saved_networks,
    "images": saved_images,
}


@pytest.mark.parametrize("reader", READERS)
def test_without_descriptors(tmp_path: Path, reader: str) -> None:
    read = READERS[reader](tmp_path)
    read()  # what is imported when it is needed is there then
    refused = 0
    for left in range(MOST):
        with descriptors_left(left):
            try:
                read()
            except GhnfastError as error:
                found: Any = error
            else:
                continue
        refused += 1
        assert "Too many open files" in str(found), left
        assert not [word for word in BLAME if word in str(found)], found
    assert 0 < refused < MOST


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError("image file is truncated"), False),
        (KeyError("step"), False),
    ],
)
def test_a_checkpoint_that_is_refused_is_not_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, refused: bool
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    read = saved_run(tmp_path)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(TrainingError) as found:
        read()
    assert ("without it, the run begins again" in str(found.value)) is not refused
    assert ("it may be whole" in str(found.value)) is refused
