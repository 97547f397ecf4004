"""Random numbers of runs: what a seed gives, whoever else draws; and that nobody else's numbers change."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_config
from PIL import Image
from torch import Tensor, nn

import ghnfast
import ghnfast.vision  # (first: it makes torchvision importable beside a CPU torch)
from ghnfast.randomness import drawing_from
from ghnfast.training import ImageData, Trainer, baseline, evaluate, load_data, train
from ghnfast.training.evaluate import fit
from ghnfast.training.folder import CHECKPOINT
from ghnfast.training.run import make_ghn


class Others:
    """A thread that draws from all global generators, seeds them once, and keeps what it drew."""

    def __init__(self) -> None:
        self.stop, self.found, self.drawn = threading.Event(), list[list[float]](), 0
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.is_set() or self.drawn < 200:
            self.found.append([float(torch.rand(())), random.random(), float(np.random.rand())])
            self.drawn += 1
            self.stop.wait(0.0005)

    def check(self) -> None:
        """They are what they would have been without us."""
        seed_all()
        wanted = [[float(torch.rand(())), random.random(), float(np.random.rand())] for _ in range(self.drawn)]
        assert self.found == wanted


def seed_all() -> None:
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)


@contextmanager
def drawing_beside() -> Iterator[None]:
    """Within it another thread draws; at the end, its numbers are those of its seeds."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    seed_all()
    others = Others()
    others.thread.start()
    try:
        yield
    finally:
        others.stop.set()
        others.thread.join()
        others.check()
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of images larger than the networks take, of two classes."""
    root, pixels = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            for number in range(8):
                values = pixels.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(values).save(root / part / label / f"{number}.png")
    return root


def run_of(folder: Path, out: Path, **changes: Any) -> tuple[list[Tensor], list[Any]]:
    """The weights after a run on a folder of images, with networks that have dropout, and its losses."""
    small = {"data": "folder", "root": str(folder), "image_size": 32, "fc_dim": (64, 64)}
    config = tiny_config(**small, steps=4, meta_batch=2, identity_steps=0, lr=1e-2, **changes)
    path = train(config, out, progress=False)
    losses = [line.split('"lr"')[0] for line in (out / "log.jsonl").read_text().splitlines()]
    return list(ghnfast.load(path).state_dict().values()), losses


def test_networks_of_the_runs_have_dropout(folder: Path) -> None:
    from ghnfast.training.networks import MetaBatches
    from ghnfast.training.run import make_dataset

    config = tiny_config(fc_dim=(64, 64))
    batches = MetaBatches(make_dataset(config, load_data("folder", folder, image_size=32)), 2, 2200, 0)
    networks = [network for step in range(4) for network in batches[step].networks]
    assert any(isinstance(module, nn.Dropout) for network in networks for module in network.modules())


@pytest.fixture(scope="module")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Tensor], list[Any]]:
    return run_of(folder, tmp_path_factory.mktemp("wanted") / "run")


def test_runs_on_folders_are_equal_bit_for_bit(
    folder: Path, tmp_path: Path, wanted: tuple[list[Tensor], list[Any]]
) -> None:
    """One after another, with a process that reads, with threads that draw, and interrupted."""
    for number, workers in enumerate((0, 1)):
        state = torch.get_rng_state(), random.getstate()
        found = run_of(folder, tmp_path / str(number), workers=workers)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        assert found[1] == wanted[1]
        assert all(map(torch.equal, found[0], wanted[0]))
    with drawing_beside():
        found = run_of(folder, tmp_path / "beside")
    assert found[1] == wanted[1]
    assert all(map(torch.equal, found[0], wanted[0]))


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_runs_on_folders_are_equal(
    folder: Path,
    tmp_path: Path,
    wanted: tuple[list[Tensor], list[Any]],
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Trainer.train_step

    def interrupted(self: Any, *arguments: Any) -> Any:
        if self.step == 3:
            raise MemoryError("killed")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(MemoryError, match="killed"):
            run_of(folder, tmp_path / "parts", workers=workers)
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    torch.rand(7)  # whatever happens in between
    found = run_of(folder, tmp_path / "parts", workers=workers)
    assert found[1] == wanted[1]
    assert all(map(torch.equal, found[0], wanted[0]))


def test_evaluation_beside_threads_that_draw(few_images: ImageData) -> None:
    ghn = make_ghn(tiny_config(), few_images).eval()
    options: dict[str, Any] = {"limit": 1, "batch_size": 6}

    def results() -> list[Any]:
        measured = [
            evaluate(ghn, few_images, ["bnfree"], **options),
            evaluate(ghn, few_images, ["bnfree"], batch_statistics="recalibrated", **options),
            baseline(few_images, ["bnfree"], steps=2, **options),
        ]
        return [found["bnfree"]["networks"] for found in measured]

    wanted = results()
    with drawing_beside():
        found = results()
    assert found == wanted


def test_baselines_with_dropout_are_reproducible(few_images: ImageData) -> None:
    from ghnfast.training.data import Batches

    def trained() -> list[Tensor]:
        with drawing_from(1):
            network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Dropout(0.5), nn.Linear(16, 10))
        fit(network, Batches(few_images.train, 6, 0), 3)
        return [parameter.detach() for parameter in network.parameters()]

    wanted = trained()
    torch.rand(5)
    assert all(map(torch.equal, trained(), wanted))
