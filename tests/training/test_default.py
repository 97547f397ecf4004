"""The GHNs that come with the package: their files belong together, and they know what they were trained for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.golden_data import FOLDER as GOLDEN

import ghnfast
from ghnfast import checkpoints
from ghnfast.families import TRAINED
from ghnfast.nn.config import config_of
from ghnfast.training import ImageData, TrainConfig, evaluate, load_data, make_config, read_config
from ghnfast.training.data import FASHION_STATISTICS, ImagesInMemory, padded
from ghnfast.training.folder import LOG

pytestmark = pytest.mark.parametrize("name", checkpoints.INCLUDED)


def stages_of(name: str) -> list[TrainConfig]:
    return [make_config(read_config(file)) for file in sorted(checkpoints.included_folder(name).glob("stage-*.toml"))]


def images_for(name: str) -> ImageData:
    if name == "ghn2-mnist5k":
        return load_data("mnist5k")
    sample = np.load(GOLDEN / "fashion_test.npz")
    pixels, labels = torch.from_numpy(sample["pixels"]), torch.from_numpy(sample["labels"]).long()
    images = ImagesInMemory(padded(pixels), labels, FASHION_STATISTICS)
    return ImageData("fashion", images, images, None, images, num_classes=10, input_shape=(3, 32, 32))


def test_its_file_is_small(name: str) -> None:
    file = checkpoints.resolve(name)
    assert file.stat().st_size < 8 * 2**20
    assert {weight.dtype for weight in safetensors.torch.load_file(file).values()} == {torch.float16}


def test_it_is_what_its_configurations_say(name: str) -> None:
    ghn = ghnfast.load(name)
    assert (ghn.name, ghn.num_classes) == (name, 10)
    assert {weight.dtype for weight in ghn.parameters()} == {torch.float32}
    stages = stages_of(name)
    assert stages
    for config in stages:
        assert ghn.trained_on == (config.data, (3, 32, 32))
        assert ghn.settings == config_of(config, ghn.num_classes)


def test_each_stage_starts_from_the_one_before(name: str) -> None:
    stages = stages_of(name)
    assert [bool(config.init) for config in stages] == [False, *[True] * (len(stages) - 1)]


def test_its_log_is_that_of_all_stages(name: str) -> None:
    lines = (checkpoints.included_folder(name) / LOG).read_text().splitlines()
    expected, done = [], 0
    for config in stages_of(name):
        expected += [done + step for step in (*range(config.log_every, config.steps, config.log_every), config.steps)]
        done += config.steps
    assert [json.loads(line)["step"] for line in lines] == expected


def test_networks_it_has_never_seen_recognize_images(name: str) -> None:
    """Chance is 10 %."""
    found = evaluate(ghnfast.load(name), images_for(name), ["test"], limit=3, images=100)
    assert min(found["test"]["networks"]) > 20
    assert found["test"]["mean"] > 30


def test_every_family_of_its_training_recognizes_images(name: str) -> None:
    """Vision transformers, too, whose class tokens are not predicted."""
    is_known = "families" in stages_of(name)[0].nets
    assert is_known == (name == "ghn2-fashion")
    limit = len(TRAINED)
    found = evaluate(ghnfast.load(name), images_for(name), ["families"], limit=limit, images=64)["families"]
    assert (min(found["families"].values()) > 40) == is_known
