"""What goes on after an interruption has one writer at a time: whoever comes second is told, and changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forked import Forked, script
from helpers.tiny import FAST, tiny_config
from torch import nn

from ghnfast import DatasetError, PropertyError, TrainingError
from ghnfast.deepnets.generate import write_splits
from ghnfast.errors import GhnfastError
from ghnfast.locks import alone, lock_beside
from ghnfast.properties.measuring import measure_into
from ghnfast.properties.table import Training
from ghnfast.training import ImageData, finetune, train
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory
from ghnfast.training.folder import LOCK

HOLD = """
import sys, time
from pathlib import Path
from ghnfast.errors import GhnfastError
from ghnfast.locks import alone
with alone(Path(sys.argv[1]), "it", "held", "another", GhnfastError):
    print("held", flush=True)
    time.sleep(300)
"""


def few() -> ImageData:
    images = ImagesInMemory(torch.zeros(64, 3, 32, 32, dtype=torch.uint8), torch.arange(64) % 2, MNIST_STATISTICS)
    return ImageData("few", images, images, None, images, 2, (3, 32, 32))


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))


def tune(path: Path) -> Any:
    options: dict[str, Any] = {"shots": 4, "steps": 1, "rates": (0.1,), "seeds": (0,), "held_out": 4, "batch_size": 2}
    return finetune(make, few(), "own", out=path, **options)


# Every writer that goes on: its lock, the call, and its error.
WRITERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], type[GhnfastError]]] = {
    "fine-tuning": (lambda path: lock_beside(path / "tuned.json"), lambda path: tune(path / "tuned.json"),
                    TrainingError),
    "measuring": (lambda path: lock_beside(path / "a.csv"),
                  lambda path: measure_into(path / "a.csv", few(), {"val": 1}, Training(channels=8, epochs=1)),
                  PropertyError),
    "generation": (lambda path: lock_beside(path / "deepnets1m_eval.hdf5"),
                   lambda path: write_splits(path, {"val": 2}, 0), DatasetError),
    "training": (lambda path: path / LOCK,
                 lambda path: train(tiny_config(**FAST), path, progress=False), TrainingError),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_writer_is_told_and_goes_on_when_the_first_is_gone(name: str, tmp_path: Path) -> None:
    lock_of, write, error = WRITERS[name]
    lock = lock_of(tmp_path)
    process = Forked(script, HOLD, lock)
    try:
        process.wait_for("held\n")
        with pytest.raises(error, match=rf"by process {process.number} on .*; its end, or another "):
            write(tmp_path)
        assert list(tmp_path.iterdir()) == [lock]
    finally:
        process.kill()
    assert lock.exists()  # nobody was there to remove it
    write(tmp_path)
    assert not lock.exists()
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["fine-tuning", "measuring"])
def test_a_second_writer_by_another_name_of_the_file_is_told(name: str, there: bool, tmp_path: Path) -> None:
    lock_of, write, error = WRITERS[name]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    file = {"fine-tuning": "tuned.json", "measuring": "a.csv"}[name]
    if there:
        (first / file).touch()
    (second / file).symlink_to(first / file)
    with alone(lock_of(first), "it", "held", "another", GhnfastError), pytest.raises(error, match="by process"):
        write(second)
    assert [path.name for path in second.iterdir()] == [file]


@pytest.mark.parametrize("name", WRITERS)
def test_where_no_lock_can_be_made(name: str, tmp_path: Path) -> None:
    lock_of, write, error = WRITERS[name]
    lock_of(tmp_path).mkdir()
    with pytest.raises(error, match="cannot be written: Is a directory"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == [lock_of(tmp_path)]


def test_one_at_a_time_whoever_comes_and_goes(tmp_path: Path) -> None:
    """Though each removes the file that the others open."""
    path, inside, most, got, refused = tmp_path / "lock", [0], [0], [0], set()

    deadline = time.monotonic() + 60

    def come_and_go() -> None:
        held = 0
        while held < 20 and time.monotonic() < deadline:
            try:
                with alone(path, "it", "held", "another", GhnfastError):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    got[0] += 1
                    time.sleep(0)
                    inside[0] -= 1
                held += 1
            except GhnfastError as error:
                refused.add(str(error).partition(" by ")[0])

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert got == [8 * 20]
    assert refused <= {"it is being held"}
    assert not path.exists()


def test_a_forked_process_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with alone(path, "it", "held", "another", GhnfastError):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with alone(path, "it", "held", "another", GhnfastError):
            assert path.read_text().startswith(f"process {os.getpid()} on ")
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("name", ["a" * 250, "ä" * 120, ".", "l\nb"])
def test_locks_have_names_that_files_may_have(name: str, tmp_path: Path) -> None:
    path = tmp_path / (name + ".json")
    with alone(lock_beside(path), "it", "held", "another", GhnfastError):
        path.write_text("")
    assert list(tmp_path.iterdir()) == [path]
