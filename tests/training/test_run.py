"""Training runs: what they leave, resume after being killed, two processes, and bad input."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forked import Forked
from helpers.tiny import FAST, TINY, tiny_config

import ghnfast
from ghnfast.cli import main
from ghnfast.errors import CheckpointError, TrainingError
from ghnfast.training import ImageData, load_data, train
from ghnfast.training.config import as_lists
from ghnfast.training.folder import CHECKPOINT, CONFIG, LOG
from ghnfast.training.run import check_same_run, make_batches, make_ghn


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def command(folder: Path, **changes: Any) -> list[str]:
    values = {**TINY, **changes}
    return ["train", "--out", str(folder), *(f"{name}={value}" for name, value in values.items())]


def finish(arguments: list[str]) -> None:
    process = Forked(main, arguments)
    assert process.wait() == 0, process.stderr()


def kill_past_a_checkpoint(folder: Path, arguments: list[str], steps: int) -> None:
    """Once there are so many steps in the log."""
    process = Forked(main, arguments)
    deadline = time.monotonic() + 300
    while not (folder / CHECKPOINT).exists() or len(log_of(folder)) < steps:
        assert time.monotonic() < deadline
        assert process.running(), process.stderr()
        time.sleep(0.01)
    process.kill()
    assert not (folder / "ghn.safetensors").exists()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(command(folder))
    return folder


def test_a_run_leaves_a_ghn_a_log_and_its_configuration(whole_run: Path) -> None:
    ghn = ghnfast.load(whole_run / "ghn.safetensors")
    assert ghn.config["max_shape"] == (8, 8, 3, 3)
    assert ghn.num_classes == 10
    lines = log_of(whole_run)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(0 < line["ghn_share"] < 1 and line["networks_per_second"] > 0 for line in lines)
    assert ghnfast.training.make_config(ghnfast.training.read_config(whole_run / CONFIG)) == tiny_config()


def test_the_ghn_of_a_run_that_is_not_finished(whole_run: Path, tmp_path: Path) -> None:
    """Its last checkpoint is one of a GHN, too."""
    finished, last = (ghnfast.load(whole_run / name) for name in ("ghn.safetensors", CHECKPOINT))
    assert last.config == finished.config
    assert last.trained_on == finished.trained_on is not None
    assert all(torch.equal(value, last.state_dict()[name]) for name, value in finished.state_dict().items())
    kill_past_a_checkpoint(tmp_path, command(tmp_path), 3)
    with pytest.raises(CheckpointError, match=rf"is a folder \(did you mean '.*{CHECKPOINT}'\?\)"):
        ghnfast.load(tmp_path)
    so_far = ghnfast.load(tmp_path / CHECKPOINT)
    assert so_far.config == finished.config
    assert not all(torch.equal(value, so_far.state_dict()[name]) for name, value in finished.state_dict().items())


def test_killed_and_resumed_is_as_if_nothing_had_happened(whole_run: Path, tmp_path: Path) -> None:
    kill_past_a_checkpoint(tmp_path, command(tmp_path), 3)  # before the next one
    finish(["train", "--out", str(tmp_path)])
    keys = ("step", "loss", "top1", "lr")
    assert [[line[key] for key in keys] for line in log_of(tmp_path)] == [
        [line[key] for key in keys] for line in log_of(whole_run)
    ]
    ours, theirs = (ghnfast.load(folder / "ghn.safetensors").state_dict() for folder in (tmp_path, whole_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


GHN3 = {"hypernet": "graphormer", "layers": 2, "heads": 2, "optimizer": "adamw", "schedule": "cosine-warmup"}


def test_ghn3_trains_and_goes_on(tmp_path: Path) -> None:
    values: dict[str, Any] = {**GHN3, "epochs": 8, "predicted_decay": 3e-5, "weight_decay": 1e-2, "steps": 4}
    values |= {"meta_batch": 1, "identity_steps": 1}
    finish(command(tmp_path / "whole", **values))
    whole = ghnfast.load(tmp_path / "whole" / "ghn.safetensors")
    assert (whole.settings.hypernet, whole.settings.heads) == ("graphormer", 2)
    kill_past_a_checkpoint(tmp_path / "killed", command(tmp_path / "killed", **values), 2)
    finish(["train", "--out", str(tmp_path / "killed")])
    gone_on = ghnfast.load(tmp_path / "killed" / "ghn.safetensors").state_dict()
    assert all(torch.equal(gone_on[name], value) for name, value in whole.state_dict().items())


def test_two_processes_do_what_one_does(whole_run: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ghnfast"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *command(tmp_path)], env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert losses == pytest.approx([line["loss"] for line in log_of(whole_run)], rel=1e-4)
    ours, theirs = (ghnfast.load(folder / "ghn.safetensors").state_dict() for folder in (tmp_path, whole_run))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-6)


def test_another_configuration_does_not_go_on(whole_run: Path) -> None:
    with pytest.raises(TrainingError, match=r"has lr = 0.0001, and 0.5 was given; the same, or another folder"):
        train(tiny_config(lr=0.5), whole_run)


def test_a_run_from_before_a_setting_was_there_goes_on(whole_run: Path) -> None:
    known = as_lists(tiny_config())
    del known["optimizer"], known["heads"]
    check_same_run(known, as_lists(tiny_config()), whole_run)
    with pytest.raises(TrainingError, match="has optimizer = 'adam', and 'adamw' was given"):
        check_same_run(known, as_lists(tiny_config(optimizer="adamw")), whole_run)


def test_the_start_is_a_ghn_of_the_same_kind(tmp_path: Path) -> None:
    config = tiny_config(init="ghn2-mnist5k", hypernet="graphormer", heads=2)
    with pytest.raises(TrainingError, match=r"init is ghn2-mnist5k, whose .*hypernet is gatedgnn.*heads is None"):
        train(config, tmp_path)


def test_broken_checkpoints_are_named_and_never_run(whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes((whole_run / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read"):
        train(tiny_config(), tmp_path)
    torch.save({"state": Trap()}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read"):
        train(tiny_config(), tmp_path)
    assert not Trap.sprung
    torch.save({"weights": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match="is not the checkpoint of a training run"):
        train(tiny_config(), tmp_path)


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "cifar10", "root": "/nowhere"}, "cifar10 cannot be read from /nowhere"),
        (
            {"data": "svhn"},
            "the data set is 'svhn'; fashion, mnist5k, cifar10, cifar100, imagenet, folder are accepted",
        ),
        ({"batch_size": 5000}, "batch_size is 5000; at most 3600"),
        ({"hid": 9}, "hid is 9; a positive multiple of 4"),
        ({"num_ch": (7, 9)}, r"num_ch is \(7, 9\)"),
        ({"device": "cuda:99"}, "the device cuda:99 cannot be used"),
    ],
)
def test_nothing_starts_with_bad_input(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(tiny_config(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / LOG).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"config": config}, r"the configuration is a \w+; what make_config gives")
            for config in ({}, None, "a.toml")
        ),
        *(({"folder": folder}, "the folder of the run is .*; a path is accepted") for folder in (None, 5, b"run")),
        *(({"callbacks": given}, "callbacks is .*; a list of functions") for given in (None, print, 5, [None], "ab")),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(**{"config": tiny_config(), "folder": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


TWO = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        *(
            ({"WORLD_SIZE": size}, f"WORLD_SIZE is '{size}.*'; a number, as")
            for size in ("", "-1", "two", " 2", "9" * 30)
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0; a number of processes"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and the processes do not find each other: .*; torchrun sets"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2, and the processes do not find each other"),
        *(({"WORLD_SIZE": "2", "RANK": rank}, f"RANK is '{rank}'; a number") for rank in ("", "-1", "x")),
        # Torch would wait half an hour.
        *(({**TWO, "RANK": rank}, f"RANK is {rank} and WORLD_SIZE is 2; 0 to 1 are") for rank in ("2", "5")),
    ],
)
def test_variables_of_half_a_launcher(
    tmp_path: Path, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As schedulers set them, or shells that torchrun was started from."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        train(tiny_config(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_starting_from_a_ghn(whole_run: Path, few_images: ImageData) -> None:
    path = str(whole_run / "ghn.safetensors")
    ghn = make_ghn(tiny_config(init=path), few_images)
    expected = ghnfast.load(path).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ghn.state_dict().items())
    with pytest.raises(TrainingError, match=r"ve is True; the configuration says False"):
        make_ghn(tiny_config(init=path, ve=False), few_images)


@pytest.mark.parametrize("augment", [True, False])
def test_images_with_and_without_augmentation(augment: bool) -> None:
    data = load_data("mnist5k")
    images, labels = make_batches(tiny_config(augment=augment, balanced=True, batch_size=20), data)[0]
    assert labels.bincount().tolist() == [2] * 10
    plain = data.calibration.batch(range(len(data.calibration)), 0)[0].flatten(1)
    found = [bool((plain == image.flatten()).all(1).any()) for image in images]
    assert all(found) if not augment else not all(found)


def test_data_of_the_run_is_the_paper_split() -> None:
    data = load_data("mnist5k")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (3600, 400, 1000)


def test_the_collector_of_garbage_looks_through_less_during_a_run(tmp_path: Path, quick: None) -> None:
    frozen: list[int] = []
    watch = [lambda _: frozen.append(gc.get_freeze_count())]
    gc.unfreeze()
    train(tiny_config(**FAST), tmp_path / "run", progress=False, callbacks=watch)
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0
    gc.freeze()  # the caller's own
    train(tiny_config(**FAST), tmp_path / "other", progress=False)
    assert gc.get_freeze_count() > 10_000
