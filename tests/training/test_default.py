"""The GHN that comes with the package: its files belong together, and it knows what it was trained for."""

from __future__ import annotations

import json

import safetensors.torch
import torch

import ghnfast
from ghnfast import checkpoint
from ghnfast.training import evaluate, load_data, make_config, read_config
from ghnfast.training.trainer import CONFIG, GHN_ARGUMENTS, LOG

FOLDER = checkpoint.resolve(checkpoint.DEFAULT).parent


def test_its_file_is_small() -> None:
    file = checkpoint.resolve(checkpoint.DEFAULT)
    assert file.stat().st_size < 8 * 2**20
    assert {weight.dtype for weight in safetensors.torch.load_file(file).values()} == {torch.float16}


def test_it_is_what_its_configuration_says() -> None:
    config = make_config(read_config(FOLDER / CONFIG))
    ghn = ghnfast.load(checkpoint.DEFAULT)
    assert (ghn.name, ghn.num_classes) == ("ghn2-mnist5k", 10)
    assert ghn.trained_on == (config.data, (3, 32, 32))
    assert {name: ghn.config[name] for name in GHN_ARGUMENTS} == {name: getattr(config, name) for name in GHN_ARGUMENTS}
    assert {weight.dtype for weight in ghn.parameters()} == {torch.float32}


def test_its_log_is_that_of_the_whole_run() -> None:
    config = make_config(read_config(FOLDER / CONFIG))
    steps = [json.loads(line)["step"] for line in (FOLDER / LOG).read_text().splitlines()]
    assert steps == [*range(config.log_every, config.steps, config.log_every), config.steps]


def test_networks_it_has_never_seen_read_digits() -> None:
    """Chance is 10 %."""
    found = evaluate(ghnfast.load(checkpoint.DEFAULT), load_data("mnist5k"), ["test"], limit=3)
    assert min(found["test"]["networks"]) > 20
    assert found["test"]["mean"] > 30
