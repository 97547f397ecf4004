"""Images in folders have the size that is asked for, in training, evaluation and fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny import FAST, TINY, tiny_config
from PIL import Image

import ghnfast
from ghnfast.cli import main
from ghnfast.errors import TrainingError
from ghnfast.training import evaluate, load_data, train

SMALL = {**TINY, **FAST, "data": "folder", "steps": 1, "members": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, pixels = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b", "c"):
            (root / part / label).mkdir(parents=True)
            for number in range(8):
                values = pixels.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(values).save(root / part / label / f"{number}.png")
    return root


@pytest.mark.parametrize(("nets", "size"), [("families", 32), ("families", 45), ("resnet", 96), ("deepnets", 32)])
def test_training_and_evaluation(nets: str, size: int, folder: Path, tmp_path: Path) -> None:
    """A GHN says the size that it was trained on, and is evaluated on images of it."""
    out = train(tiny_config(**{**SMALL, "root": str(folder), "nets": nets, "image_size": size}), tmp_path / "run")
    assert ghnfast.load(out).trained_on == ("folder", (3, size, size))
    assert f"image_size = {size}" in (tmp_path / "run" / "config.toml").read_text()
    split, results = "test" if nets == "deepnets" else "families", tmp_path / "results.json"
    command = ["evaluate", "--ghn", str(out), "--root", str(folder), "--split", split, "--limit", "2"]
    assert main([*command, "--json", str(results)]) == 0
    found = evaluate(ghnfast.load(out), load_data("folder", folder, image_size=size), [split], limit=2)
    assert json.loads(results.read_text())[split]["networks"] == found[split]["networks"]


@pytest.mark.parametrize("size", [33, 64, 223, 225])
def test_networks_of_deepnets_are_for_two_sizes(size: int, folder: Path, tmp_path: Path) -> None:
    for nets in ("deepnets", "families:2, deepnets:1"):
        config = tiny_config(**{**SMALL, "root": str(folder), "nets": nets, "image_size": size})
        with pytest.raises(TrainingError, match=f"folder have {size} x {size} pixels; 32 or 224 a side are accepted"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    data, ghn = load_data("folder", folder, image_size=size), ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=3, hid=8)
    with pytest.raises(TrainingError, match="32 or 224 a side are accepted"):
        evaluate(ghn, data, ["test"], limit=1)


@pytest.mark.parametrize("size", [0, -32, 31.5, "large", True, 1 << 20])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(TrainingError, match="image_size is"):
        tiny_config(image_size=size)


def test_families_have_a_least_size(folder: Path, tmp_path: Path) -> None:
    config = tiny_config(**{**SMALL, "root": str(folder), "nets": "families", "image_size": 20})
    with pytest.raises(TrainingError, match="image_size is 20"):
        train(config, tmp_path / "run")


def test_fine_tuning(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "squeezenet1_1", "--data", "folder", "--root", str(folder), "--init", "he", "--shots", "4"]
    command += ["--steps", "1", "--rates", "0.01", "--seeds", "1", "--held-out", "3", "--test-images", "6", "--json"]
    command += ["--batch-size", "4", "--out", str(tmp_path / "tuned.json")]
    assert main([*command, "--image-size", "48"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]
    assert main([*command, "--image-size", "0"]) == 2
    assert main([*command, "--image-size", "64"]) == 2
    assert "are of shape = [3, 48, 48], not [3, 64, 64]" in capsys.readouterr().err
