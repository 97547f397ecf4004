"""Paths that no file system takes, wherever one is given: an error of ours, whichever call or command it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ghnfast
from ghnfast import GhnfastError, TrainingError, training
from ghnfast.cli import main
from ghnfast.training.data import MNIST_STATISTICS, ImagesInMemory

# With half a character, with a zero byte, too long, below a file, below what is no folder of anybody.
PATHS = ["a\ud800", "a\0b", "x" * 300, "/dev/null/x", "/proc/nowhere/x"]


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


def few() -> training.ImageData:
    images = ImagesInMemory(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, MNIST_STATISTICS)
    return training.ImageData("few", images, images, None, images, num_classes=2, input_shape=(3, 8, 8))


SHORT: Any = {"shots": 2, "held_out": 2, "steps": 1, "batch_size": 2, "rates": [0.1], "seeds": [0]}
CALLS: dict[str, Callable[[str], object]] = {
    "load": ghnfast.load,
    "load .pt": lambda path: ghnfast.load(path + ".pt"),
    "load .safetensors": lambda path: ghnfast.load(path + ".safetensors"),
    "from_pretrained": ghnfast.GHN.from_pretrained,
    "save": lambda path: ghnfast.GHN(hid=8, num_classes=2, max_shape=(8, 8, 3, 3)).save(path + ".safetensors"),
    "save_pretrained": lambda path: ghnfast.GHN(hid=8, num_classes=2, max_shape=(8, 8, 3, 3)).save_pretrained(path),
    "read_config": lambda path: training.read_config(path + ".toml"),
    "train": lambda path: training.train(training.TrainConfig(data="mnist5k", steps=1), path, progress=False),
    "images": lambda path: training.load_data("folder", root=path),
    "cifar": lambda path: training.load_data("cifar10", root=path),
    "finetune from": lambda path: training.finetune(make, few(), path + ".safetensors", **SHORT),
    "finetune to": lambda path: training.finetune(make, few(), "he", out=path + ".json", **SHORT),
}
COMMANDS = {
    "predict": ["resnet18", "--out", "{}.safetensors"],
    "predict --ghn": ["resnet18", "--ghn", "{}"],
    "predict model": ["{}.py:make"],
    "evaluate": ["--split", "test", "--limit", "1", "--json", "{}.json"],
    "evaluate --ghn": ["--ghn", "{}", "--split", "test", "--limit", "1"],
    "train": ["--out", "{}"],
    "train --config": ["--out", "run", "--config", "{}.toml"],
    "finetune": ["resnet18", "--init", "{}.pt"],
    "search": ["--labels", "{}.csv"],
    "properties": ["{}.csv"],
    "generate": ["{}"],
    "plot": ["{}"],
    "graph": ["resnet18", "--svg", "{}.svg"],
}


@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object], path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GhnfastError):
        call(path)


@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main([command.split()[0], *(part.format(path) for part in COMMANDS[command])])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("ghnfast")
    assert "error:" in said[-1]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_fashion_is_looked_for_elsewhere_too(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.training.data.FASHION_FOLDER", Path("/nowhere"))
    with pytest.raises(TrainingError, match="fashion"):
        training.load_data("fashion", root=path)
