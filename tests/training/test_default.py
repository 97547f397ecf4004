"""The GHN that comes with the package: its files belong together, and it knows what it was trained for."""

from __future__ import annotations

import json

import safetensors.torch
import torch

import ghnfast
from ghnfast import checkpoints
from ghnfast.nn.config import config_of
from ghnfast.training import evaluate, load_data, make_config, read_config
from ghnfast.training.folder import LOG

FOLDER = checkpoints.resolve(checkpoints.DEFAULT).parent
STAGES = [make_config(read_config(file)) for file in sorted(FOLDER.glob("stage-*.toml"))]


def test_its_file_is_small() -> None:
    file = checkpoints.resolve(checkpoints.DEFAULT)
    assert file.stat().st_size < 8 * 2**20
    assert {weight.dtype for weight in safetensors.torch.load_file(file).values()} == {torch.float16}


def test_it_is_what_its_configurations_say() -> None:
    ghn = ghnfast.load(checkpoints.DEFAULT)
    assert (ghn.name, ghn.num_classes) == ("ghn2-mnist5k", 10)
    assert {weight.dtype for weight in ghn.parameters()} == {torch.float32}
    for config in STAGES:
        assert ghn.trained_on == (config.data, (3, 32, 32))
        assert ghn.settings == config_of(config, ghn.num_classes)


def test_each_stage_starts_from_the_one_before() -> None:
    assert [bool(config.init) for config in STAGES] == [False, *[True] * (len(STAGES) - 1)]


def test_its_log_is_that_of_all_stages() -> None:
    steps = [json.loads(line)["step"] for line in (FOLDER / LOG).read_text().splitlines()]
    expected, done = [], 0
    for config in STAGES:
        expected += [done + step for step in (*range(config.log_every, config.steps, config.log_every), config.steps)]
        done += config.steps
    assert steps == expected


def test_networks_it_has_never_seen_read_digits() -> None:
    """Chance is 10 %."""
    found = evaluate(ghnfast.load(checkpoints.DEFAULT), load_data("mnist5k"), ["test"], limit=3)
    assert min(found["test"]["networks"]) > 20
    assert found["test"]["mean"] > 30
