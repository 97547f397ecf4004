"""Both formats there and back, and what a checkpoint may not consist of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.checkpoint_cases import (
    CONFIG,
    SUFFIXES,
    assert_same,
    golden_checkpoint,
    load_into,
    message,
    module_of,
    says,
    small,
)
from helpers.golden_data import GHN_NAMES, golden
from torch import nn

from ghnfast.checkpoints import TrainedOn, read, write


@pytest.mark.parametrize("name", GHN_NAMES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_golden_round_trip_and_load(tmp_path: Path, name: str, suffix: str) -> None:
    written, path = golden_checkpoint(name), tmp_path / f"ghn{suffix}"
    write(path, written)
    result = read(path)
    assert result.config == {**written.config, "max_shape": tuple(written.config["max_shape"])}
    assert type(result.config["max_shape"]) is tuple
    assert {key: type(value) for key, value in result.config.items() if key != "max_shape"} == {
        key: type(value) for key, value in written.config.items() if key != "max_shape"
    }
    assert (result.epoch, result.source) == (299, str(path))
    assert_same(result.state_dict, written.state_dict)
    module = module_of(golden("checkpoints")[name]["state_dict"])
    load_into(module, result)
    assert_same(dict(module.state_dict()), written.state_dict)
    assert os.listdir(tmp_path) == [path.name]


def test_golden_weights_are_the_known_ones() -> None:
    weights = golden_checkpoint("ghn2-cifar10").state_dict
    assert weights["ln.weight"].double().sum().item() == pytest.approx(31.26430779695511, abs=1e-9)
    assert weights["embed.weight"].double().sum().item() == pytest.approx(2.404939202897367, abs=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_config_from_every_format(tmp_path: Path, suffix: str) -> None:
    config = {**CONFIG, "max_shape": [64, 64, 11, 11], "kinds": ["a", "b"], "scale": 0.5, "note": None}
    write(tmp_path / f"ghn{suffix}", small(config=config, epoch=None))
    result = read(tmp_path / f"ghn{suffix}")
    assert result.config == {**config, "max_shape": (64, 64, 11, 11), "kinds": ("a", "b")}
    assert result.epoch is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_views_and_shared_memory_are_written_compactly(tmp_path: Path, suffix: str) -> None:
    big = torch.randn(1000, 1000)
    weights = {"a": big[:2, :2], "b": big[:2, :2].T, "c": big[0, :4], "d": nn.Parameter(torch.ones(3)), "e": big[:0]}
    weights["f"] = weights["d"]
    path = tmp_path / f"ghn{suffix}"
    write(path, small(state_dict=weights))
    assert path.stat().st_size < 20_000
    result = read(path).state_dict
    assert_same(result, {name: tensor.detach() for name, tensor in weights.items()})
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in result.values())


def test_reads_what_published_code_saves(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    data = {"state_dict": module.state_dict(), "config": CONFIG, "epoch": 3, "optimizer": {"lr": 0.1}, "step": 5}
    for legacy in (False, True):
        torch.save(data, tmp_path / "ghn.pt", _use_new_zipfile_serialization=not legacy)
        result = read(str(tmp_path / "ghn.pt"))
        assert (result.config, result.epoch) == (CONFIG, 3)
        assert_same(result.state_dict, dict(module.state_dict()))
    del data["epoch"]
    torch.save(data, tmp_path / "ghn.PT")
    assert read(tmp_path / "ghn.PT").epoch is None


def test_a_file_can_be_written_over_while_its_tensors_live(tmp_path: Path) -> None:
    path = tmp_path / "ghn.safetensors"
    write(path, small())
    first = read(path)
    with open(path, "r+b") as file:  # in place, not by replacement: the tensors must not be the file's memory
        file.write(b"\0" * path.stat().st_size)
    assert_same(first.state_dict, small().state_dict)


def test_repr_is_short_and_equality_is_identity() -> None:
    one = golden_checkpoint("ghn2-cifar10")
    assert len(repr(one)) < 400
    assert one == one
    assert one != golden_checkpoint("ghn2-cifar10")


# What a checkpoint may not consist of: (its changed parts, what the message says). In files and for `write` alike.
WRONG_PARTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"config": [1]}, ["'config'", "of type list", "accepted: a dict of the constructor arguments"]),
    ({"config": {"hid": torch.zeros(1)}}, ["config['hid']", "a tensor on cpu", "accepted: names with an int"]),
    ({"config": {"hid": {"a": 1}}}, ["config['hid']", "of type dict", "accepted: names with an int"]),
    ({"config": {"hid": [1, (2,)]}}, ["config['hid']", "of type tuple", "a list or tuple of these"]),
    ({"config": {3: 1}}, ["config[3]", "of type int", "accepted: names"]),
    ({"config": {"max_shape": 64}}, ["config['max_shape']", "is 64", "accepted: 4 positive ints"]),
    ({"config": {"max_shape": (64, 64)}}, ["config['max_shape']", "(64, 64)", "4 positive ints"]),
    ({"config": {"max_shape": (64, 64, 11.0, 11)}}, ["config['max_shape']", "11.0", "4 positive ints"]),
    ({"config": {"max_shape": (64, 64, True, 11)}}, ["config['max_shape']", "True", "4 positive ints"]),
    ({"config": {"max_shape": (64, 64, 0, 11)}}, ["config['max_shape']", "0, 11", "4 positive ints"]),
    ({"state_dict": [torch.zeros(1)]}, ["'state_dict'", "of type list", "accepted: a dict of tensors by name"]),
    ({"state_dict": {"w": 1.0}}, ["'state_dict'", "'w' (of type float)", "a dense tensor each"]),
    ({"state_dict": {"w": None}}, ["'state_dict'", "'w' (of type NoneType)", "a dense tensor each"]),
    ({"state_dict": {5: torch.zeros(1)}}, ["'state_dict'", "5 (a tensor", "accepted: names with a dense tensor"]),
    ({"state_dict": {"w": torch.zeros(2, device="meta")}}, ["'w' (a tensor on meta", "a dense tensor each"]),
    ({"state_dict": {"w": torch.eye(2).to_sparse()}}, ["'w' (a tensor on cpu, torch.sparse_coo", "dense"]),
    ({"state_dict": {str(i): i for i in range(9)}}, ["'0' (of type int), '1'", "and 6 more"]),
    ({"epoch": "last"}, ["'epoch'", "of type str", "accepted: an int or None"]),
    ({"epoch": True}, ["'epoch'", "of type bool", "accepted: an int or None"]),
]


@pytest.mark.parametrize(("changes", "parts"), WRONG_PARTS)
def test_wrong_parts_in_a_file(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    path = tmp_path / "ghn.pt"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "config": CONFIG, "epoch": 1, **changes}, path)
    says(message(read, path), path, *parts)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("changes", "parts"), WRONG_PARTS)
def test_wrong_parts_are_not_written(tmp_path: Path, suffix: str, changes: dict[str, Any], parts: list[str]) -> None:
    says(message(write, tmp_path / f"ghn{suffix}", small(**changes)), tmp_path / f"ghn{suffix}", *parts)
    assert os.listdir(tmp_path) == []


def test_numpy_numbers_in_a_configuration_are_not_written(tmp_path: Path) -> None:
    for value in (np.int64(3), np.float64(3), np.bool_(True), np.str_("a")):
        text = message(write, tmp_path / "ghn.pt", small(config={"hid": value}))
        says(text, "config['hid']", "of type numpy.", "accepted: names with an int, float, bool, str or None")


@pytest.mark.parametrize("value", ["mnist5k", ["mnist5k"], ["mnist5k", [32]], [5, [3, 32, 32]], ["a", [3, 32, 32.0]]])
def test_what_it_was_trained_on_is_checked(tmp_path: Path, value: object) -> None:
    path = tmp_path / "ghn.pt"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "config": CONFIG, "trained_on": value}, path)
    says(message(read, path), path, "'trained_on'", repr(value), "accepted: the name of the images and (channels")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_it_was_trained_on_round_trips(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ghn{suffix}"
    for images in (None, TrainedOn("mnist5k", (3, 32, 32))):
        write(path, small(trained_on=images))
        assert read(path).trained_on == images


FORMAT, KEY = {"ghnfast_format": "1"}, "ghnfast_config"


@pytest.mark.parametrize(
    ("metadata", "parts"),
    [
        (None, ["its metadata has nothing", "accepted: 'ghnfast_format' = '1' beside 'ghnfast_config'"]),
        ({"format": "pt"}, ["'format=pt'", "accepted: 'ghnfast_format' = '1' beside 'ghnfast_config'"]),
        (FORMAT, ["'ghnfast_format=1'", "beside 'ghnfast_config'"]),
        ({"ghnfast_format": "2", KEY: "{}"}, ["'ghnfast_format=2'", "accepted: 'ghnfast_format' = '1'"]),
        ({KEY: "{}"}, ["'ghnfast_config={}'", "accepted: 'ghnfast_format' = '1'"]),
        ({**FORMAT, KEY: "{bad"}, ["metadata", "damaged", "accepted: a JSON object in 'ghnfast_config'"]),
        ({**FORMAT, KEY: "[" * 200_000}, ["metadata", "damaged", "accepted: a JSON object"]),
        ({**FORMAT, KEY: "[1]"}, ["'config'", "of type list", "accepted: a dict"]),
        ({**FORMAT, KEY: '{"hid": {}}'}, ["config['hid']", "of type dict", "accepted: names with an int"]),
        ({**FORMAT, KEY: '{"max_shape": [1]}'}, ["config['max_shape']", "(1,)", "4 positive ints"]),
        ({**FORMAT, KEY: "{}", "ghnfast_epoch": "x"}, ["damaged", "'x'", "an integer in 'ghnfast_epoch'"]),
        ({**FORMAT, KEY: "{}", "ghnfast_trained_on": "x"}, ["damaged", "a JSON list in 'ghnfast_trained_on'"]),
        ({**FORMAT, KEY: "{}", "ghnfast_trained_on": '["a", [3, 0, 32]]'}, ["'trained_on'", "[3, 0, 32]", "accepted"]),
        ({**FORMAT, KEY: "{}", "ghnfast_trained_on": '{"a": 1}'}, ["'trained_on'", "{'a': 1}", "accepted: the name"]),
    ],
)
def test_safetensors_metadata(tmp_path: Path, metadata: dict[str, str] | None, parts: list[str]) -> None:
    path = tmp_path / "ghn.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(2)}, metadata))
    says(message(read, path), path, *parts)
