"""Checkpoints: both formats there and back, every way a file or a download can be wrong, and safety against pickles."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import socket
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ghnfast import checkpoint
from ghnfast.checkpoint import Checkpoint, PublishedFile, TrainedOn, cache_folder, fitted_weights, read, resolve, write
from ghnfast.errors import CheckpointError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "checkpoints.json").read_text())
SUFFIXES = [".pt", ".pth", ".safetensors"]
CONFIG = {"max_shape": (64, 64, 11, 11), "num_classes": 10, "hypernet": "gatedgnn", "ve": True, "hid": 32}


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    module.load_state_dict(fitted_weights(module, checkpoint))


def golden(name: str) -> Checkpoint:
    """A golden checkpoint with its weights in closed form (golden/README.md)."""
    weights = {}
    for key, shape in GOLDEN[name]["state_dict"].items():
        r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        r = r / np.float32(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else np.float32(0.1) * r
        r = 1 + r if key.endswith(("ln.weight", "ln1.weight", "ln2.weight")) else r
        weights[key] = torch.from_numpy(r)
    return Checkpoint(GOLDEN[name]["config"], weights, name, 299)


def module_of(shapes: dict[str, Any]) -> nn.Module:
    """A module with parameters of these dotted names and shapes, all zero."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    return root


def small(**changes: Any) -> Checkpoint:
    parts = {"config": CONFIG, "state_dict": {"w": torch.arange(6.0).view(2, 3)}, "source": "here", "epoch": 7}
    return Checkpoint(**{**parts, **changes})


def message(call: Callable[..., Any], *args: Any) -> str:
    """The text of the CheckpointError that a call must raise."""
    with pytest.raises(CheckpointError) as error:
        call(*args)
    return str(error.value)


def says(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text, f"{part!r} is not in the message: {text}"


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# -------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_golden_round_trip_and_load(tmp_path: Path, name: str, suffix: str) -> None:
    written, path = golden(name), tmp_path / f"ghn{suffix}"
    write(path, written)
    result = read(path)
    assert result.config == {**written.config, "max_shape": tuple(written.config["max_shape"])}
    assert type(result.config["max_shape"]) is tuple
    assert {key: type(value) for key, value in result.config.items() if key != "max_shape"} == {
        key: type(value) for key, value in written.config.items() if key != "max_shape"
    }
    assert (result.epoch, result.source) == (299, str(path))
    assert_same(result.state_dict, written.state_dict)
    module = module_of(GOLDEN[name]["state_dict"])
    load_into(module, result)
    assert_same(dict(module.state_dict()), written.state_dict)
    assert os.listdir(tmp_path) == [path.name]


def test_golden_weights_are_the_known_ones() -> None:
    weights = golden("ghn2-cifar10").state_dict
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
    one = golden("ghn2-cifar10")
    assert len(repr(one)) < 400
    assert one == one
    assert one != golden("ghn2-cifar10")


# ---------------------------------------------------------------------------------------------------- never run it


class Bait:
    """A pickle of it makes a folder when it is loaded the unsafe way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_the_bait_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bait(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", *range(pickle.HIGHEST_PROTOCOL + 1)])
@pytest.mark.parametrize("where", ["top", "config", "state_dict", "extra"])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, kind: str | int, where: str) -> None:
    bait: Any = Bait(tmp_path / "run")
    data = {"state_dict": {"w": torch.zeros(2)}, "config": dict(CONFIG), "epoch": 1}
    if isinstance(kind, int):
        data["state_dict"] = {}  # a raw pickle, without torch
    baited = {
        "top": bait,
        "config": {**data, "config": {"hid": bait}},
        "state_dict": {**data, "state_dict": {"w": bait}},
        "extra": {**data, "optimizer": bait},
    }[where]
    path = tmp_path / "ghn.pt"
    if isinstance(kind, int):
        path.write_bytes(pickle.dumps(baited, protocol=kind))
    else:
        torch.save(baited, path, _use_new_zipfile_serialization=kind == "zip")
    text = message(read, path)
    says(text, path, "something other than tensors and plain values", "was not loaded", "accepted: .pt")
    assert "weights_only" not in text  # torch's advice on how to load it all the same
    assert not (tmp_path / "run").exists()


def test_the_forbidden_name_is_in_the_message(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "config": {}, "model": Bait(tmp_path / "run")}, tmp_path / "ghn.pt")
    says(message(read, tmp_path / "ghn.pt"), f"'{os.mkdir.__module__}.mkdir'")
    torch.save(nn.Linear(2, 2), tmp_path / "whole_module.pt")
    says(message(read, tmp_path / "whole_module.pt"), "something other than tensors", "Linear")


# ------------------------------------------------------------------------------------------------- damaged and foreign


@pytest.mark.parametrize("kind", [".pt", ".safetensors", "legacy"])
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("ghn.pt" if kind == "legacy" else f"ghn{kind}")
    write(path, small())
    if kind == "legacy":
        torch.save({"state_dict": {"w": torch.zeros(9)}, "config": {}}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        says(message(read, path), path, "damaged, cut off or of another format", "accepted: .pt or .pth")
    path.write_bytes(b"")
    says(message(read, path), path, "is empty (0 bytes)", "accepted: .pt or .pth", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"hello, not a checkpoint", b"<!DOCTYPE html><html>", b"\x89HDF\r\n\x1a\n" + bytes(64), b"\xff" * 99]
)
def test_files_of_another_format(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"ghn{suffix}"
    path.write_bytes(content)
    says(message(read, path), path, "damaged, cut off or of another format", "accepted: .pt or .pth", ".safetensors")


def test_formats_under_each_others_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", small())
    write(tmp_path / "b.safetensors", small())
    for old, new in (("a.pt", "a.safetensors"), ("b.safetensors", "b.pt")):
        os.rename(tmp_path / old, tmp_path / new)
        says(message(read, tmp_path / new), tmp_path / new, "of another format", "accepted: .pt or .pth")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_other_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as file:
        file.writestr("readme.txt", "hello")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    for name in ("plain.pt", "script.pt"):
        text = message(read, tmp_path / name)
        says(text, tmp_path / name, "of another format", "accepted: .pt or .pth")
        assert "arbitrary code" not in text


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    says(message(read, tmp_path / "none.pt"), tmp_path / "none.pt", "cannot be read", "No such file")
    (tmp_path / "folder.pt").mkdir()
    says(message(read, tmp_path / "folder.pt"), tmp_path / "folder.pt", "cannot be read")
    for name in ("ghn.bin", "ghn"):
        says(message(read, tmp_path / name), name, "suffix is", "accepted: .pt or .pth", ".safetensors")


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ([1, 2], ["holds a list, not a dict"]),
        (torch.zeros(2), ["holds a Tensor, not a dict"]),
        ({}, ["has no 'state_dict', 'config'", "no keys"]),
        ({"config": CONFIG, "epoch": 1}, ["has no 'state_dict' (it has 'config', 'epoch')"]),
        ({"state_dict": {}}, ["has no 'config'"]),
        ({"ln.weight": torch.zeros(1)}, ["has no 'state_dict', 'config' (it has 'ln.weight')"]),
    ],
)
def test_published_layout_is_required(tmp_path: Path, data: object, parts: list[str]) -> None:
    torch.save(data, tmp_path / "ghn.pt")
    says(message(read, tmp_path / "ghn.pt"), tmp_path / "ghn.pt", *parts, "accepted: .pt or .pth", '"state_dict": ...')


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


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"ghn{suffix}"
    write(path, small())
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            text = message(write, path, small(epoch=8))
        says(text, path, "could not be written", "No space left on device")
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]
    write(path, small(epoch=8))
    assert read(path).epoch == 8


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "ghn.pt", small())
    assert os.listdir(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("ghn.bin", "ghn"):
        says(message(write, tmp_path / name, small()), name, "suffix is", "accepted: .pt or .pth", ".safetensors")
    says(message(write, tmp_path / "none" / "ghn.pt", small()), "none/ghn.pt", "could not be written", "No such file")
    (tmp_path / "folder.pt").mkdir()
    says(message(write, tmp_path / "folder.pt", small()), "folder.pt", "could not be written")
    bits = small(state_dict={"w": torch.empty(4, dtype=torch.bits8)})
    says(message(write, tmp_path / "bits.safetensors", bits), "bits.safetensors", "could not be written", "torch.bits8")
    assert os.listdir(tmp_path) == ["folder.pt"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_others_may_read_what_is_written(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "touched").touch()
    write(tmp_path / f"ghn{suffix}", small())
    assert (tmp_path / f"ghn{suffix}").stat().st_mode == (tmp_path / "touched").stat().st_mode


# ------------------------------------------------------------------------------------------------- into a module

SHAPES = {
    "conv.weight": (4, 3, 1, 1),
    "conv.bias": (4,),
    "ln.weight": (4,),
    "fc.weight": (2, 4),
    "k.weight": (2, 1, 3, 3),
}


def weights(**changes: Any) -> dict[str, torch.Tensor]:
    made = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    return {**made, **{name.replace("_", "."): value for name, value in changes.items()}}


def test_load_into_converts_and_reshapes() -> None:
    module = module_of(SHAPES)
    given = weights(conv_weight=torch.randn(4, 3), fc_weight=torch.randn(4, 2, dtype=torch.float64).T)
    load_into(module, small(state_dict=given))
    state = module.state_dict()
    assert torch.equal(state["conv.weight"], given["conv.weight"].view(4, 3, 1, 1))
    assert torch.equal(state["fc.weight"], given["fc.weight"].float())
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(parameter.requires_grad for parameter in module.parameters())
    load_into(module.bfloat16(), small(state_dict=given))
    assert torch.equal(module.state_dict()["ln.weight"], given["ln.weight"].bfloat16())


def lacking(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights().items() if name not in names}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (lacking("fc.weight"), ["missing keys: fc.weight (2, 4)"]),
        ({}, ["missing keys: conv.weight (4, 3, 1, 1), conv.bias (4,), ln.weight (4,) and 2 more"]),
        (weights(gnn_mlp=torch.zeros(7)), ["unexpected keys: gnn.mlp (7,)"]),
        (weights(fc_weight=torch.zeros(4, 2)), ["wrong shapes: fc.weight expected (2, 4), given (4, 2)"]),
        (weights(fc_weight=torch.zeros(8)), ["wrong shapes: fc.weight expected (2, 4), given (8,)"]),
        (weights(fc_weight=torch.zeros(2, 4, 1, 1)), ["fc.weight expected (2, 4), given (2, 4, 1, 1)"]),
        (weights(conv_weight=torch.zeros(3, 4)), ["conv.weight expected (4, 3, 1, 1), given (3, 4)"]),
        (weights(conv_weight=torch.zeros(12)), ["conv.weight expected (4, 3, 1, 1), given (12,)"]),
        (weights(k_weight=torch.zeros(2, 1)), ["k.weight expected (2, 1, 3, 3), given (2, 1)"]),
        (weights(ln_weight=torch.zeros(())), ["ln.weight expected (4,), given ()"]),
        (weights(ln_weight=torch.ones(4).long()), ["no floating-point numbers: ln.weight", "given torch.int64"]),
        (weights(ln_weight=torch.ones(4).bool()), ["no floating-point numbers: ln.weight", "given torch.bool"]),
        (weights(ln_weight=torch.ones(4) * 1j), ["no floating-point numbers: ln.weight", "given torch.complex64"]),
        (weights(conv_bias=torch.tensor([1, float("nan"), 1, 1])), ["NaN or infinite values: conv.bias (4,)"]),
        (weights(conv_bias=torch.tensor([1, 1, 1, -float("inf")])), ["NaN or infinite values: conv.bias (4,)"]),
        (weights(conv_bias=torch.full((4,), 1e300, dtype=torch.float64)), ["NaN or infinite", "in torch.float32"]),
        ({**lacking("ln.weight"), "x": torch.zeros(1)}, ["missing keys: ln.weight (4,); unexpected keys: x (1,)"]),
    ],
)
def test_misfits_change_nothing(given: dict[str, torch.Tensor], parts: list[str]) -> None:
    module = module_of(SHAPES)
    load_into(module, small(state_dict=weights()))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    text = message(load_into, module, small(state_dict=given, source="/some/ghn.pt"))
    says(text, "/some/ghn.pt", "nothing was loaded", *parts, "Accepted: finite floating-point weights")
    assert_same(dict(module.state_dict()), before)


def test_load_into_checks_tensors_made_by_hand() -> None:
    given = weights(ln_weight=torch.zeros(4, device="meta"))
    says(message(load_into, module_of(SHAPES), small(state_dict=given)), "here", "'ln.weight' (a tensor on meta")


# ------------------------------------------------------------------------------------------------------ downloads


class Server(ThreadingHTTPServer):
    """One file at /files/ghn.pt, and the ways a server can fail."""

    daemon_threads = True
    request_queue_size = 32  # the default of 5 makes a sixth client at once wait for a second

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.status = 200
        self.announced: int | None = len(content)  # the Content-Length, None: none
        self.redirects = 0
        self.hits: list[str] = []
        self.hang = threading.Event()
        self.hangs = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.hits.append(self.path)
        if server.hangs:
            server.hang.wait(20)
            return
        if server.redirects:
            server.redirects -= 1
            self.send_response(302)
            self.send_header("Location", f"/moved{self.path}")
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.announced is not None:
            self.send_header("Content-Length", str(server.announced))
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, that is not even there yet."""
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path / "made" / "cache"))
    return tmp_path / "made" / "cache"


@pytest.fixture
def server(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server of a small checkpoint, which is then the published 'ghn-test'."""
    write(tmp_path / "original.pt", small())
    content = (tmp_path / "original.pt").read_bytes()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    server = Server(content)
    monkeypatch.setattr(checkpoint, "PUBLISHED", {"ghn-test": PublishedFile("ghn.pt", blob)})
    monkeypatch.setenv("GHNFAST_URL", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()
    thread.join()


def assert_download_fails(server: Server, cache: Path, *parts: object) -> None:
    text = message(resolve, "ghn-test")
    says(text, "'ghn-test'", f"{os.environ['GHNFAST_URL']}/ghn.pt", *parts)
    says(text, f"by hand at {cache / 'ghn.pt'}", "GHNFAST_URL")
    assert os.listdir(cache) == []


def test_download_once(
    server: Server, cache: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="ghnfast")
    path = resolve("ghn-test")
    assert path == cache / "ghn.pt"
    assert read(path).epoch == 7
    assert server.url in caplog.text
    assert str(path) in caplog.text
    assert resolve("ghn-test") == path
    assert server.hits == ["/files/ghn.pt"]
    assert os.listdir(cache) == ["ghn.pt"]
    server.shutdown()
    assert resolve("ghn-test") == path  # offline, from the cache
    assert capfd.readouterr() == ("", "")


def test_download_by_other_ways(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.redirects = 2
    server.announced = None
    monkeypatch.setenv("GHNFAST_URL", server.url + "/")
    assert resolve("ghn-test").read_bytes() == server.content
    assert server.hits == ["/files/ghn.pt", "/moved/files/ghn.pt", "/moved/moved/files/ghn.pt"]


def test_download_of_something_else(server: Server, cache: Path) -> None:
    server.content = b"x" + server.content[1:]
    blob = hashlib.sha1(f"blob {len(server.content)}\0".encode() + server.content).hexdigest()
    assert_download_fails(server, cache, "not the published file", blob, checkpoint.PUBLISHED["ghn-test"].blob)


@pytest.mark.parametrize("sent", [0, 100])
def test_download_cut_off(server: Server, cache: Path, sent: int) -> None:
    whole, server.content = server.content, server.content[:sent]
    assert_download_fails(server, cache, f"cut after {sent} of {len(whole)} bytes")
    server.content = whole
    assert resolve("ghn-test").read_bytes() == whole  # the next attempt is not disturbed by the last


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_download_refused(server: Server, cache: Path, status: int) -> None:
    server.status = status
    assert_download_fails(server, cache, f"the server answered {status}")


def test_download_without_an_answer(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_TIMEOUT_SECONDS", 0.1)
    server.hangs = True
    assert_download_fails(server, cache, "timed out")


def test_download_in_circles(server: Server, cache: Path) -> None:
    server.redirects = 1000
    assert_download_fails(server, cache, "the server answered 302")


def test_download_offline(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("GHNFAST_URL", f"http://127.0.0.1:{port}/files")
    assert_download_fails(server, cache, "the server cannot be reached", "refused")


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:port/files", "http://bad host/files", "gopher://a"])
def test_download_from_a_malformed_address(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("GHNFAST_URL", url)
    assert_download_fails(server, cache)


def test_download_to_a_full_disk(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            assert_download_fails(server, cache, "No space left on device")


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server, cache: Path) -> None:
    path = resolve("ghn-test")
    for damaged in (b"", server.content[:-1], b"x" + server.content[1:], server.content + b"x"):
        path.write_bytes(damaged)
        assert resolve("ghn-test").read_bytes() == server.content
    assert len(server.hits) == 5
    assert os.listdir(cache) == ["ghn.pt"]
    path.write_bytes(b"x")
    server.status = 404
    says(message(resolve, "ghn-test"), "the server answered 404", path)


def test_a_file_placed_by_hand_is_taken(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "ghn.pt").write_bytes(server.content)
    assert resolve("ghn-test") == cache / "ghn.pt"
    assert server.hits == []


def test_caches_that_cannot_be_used(server: Server, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    says(message(resolve, "ghn-test"), cache, "cannot be", "Not a directory")
    cache.parent.unlink()
    (cache / "ghn.pt").mkdir(parents=True)
    says(message(resolve, "ghn-test"), cache / "ghn.pt", "cannot be read", "Is a directory")


def test_downloads_at_once(server: Server, cache: Path) -> None:
    start, found = threading.Barrier(8), []

    def fetch() -> None:
        start.wait()
        found.append(resolve("ghn-test").read_bytes() == server.content)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert os.listdir(cache) == ["ghn.pt"]


# ---------------------------------------------------------------------------------------------------------- names


def test_published_names() -> None:
    assert list(checkpoint.PUBLISHED) == [
        "ghn1-cifar10",
        "ghn2-cifar10",
        "mlp-cifar10",
        "ghn1-imagenet",
        "ghn2-imagenet",
    ]
    for name, published in checkpoint.PUBLISHED.items():
        assert published.file == name.replace("-", "_") + ".pt"
        assert len(published.blob) == 40
        assert int(published.blob, 16)


def test_the_address_of_the_published_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str, _: object) -> None:
        asked.append(url)
        raise OSError("not in a test")

    monkeypatch.delenv("GHNFAST_URL", raising=False)
    monkeypatch.setattr(checkpoint, "_fetch", fetch)
    says(message(resolve, "mlp-cifar10"), "mlp-cifar10", "not in a test", cache / "mlp_cifar10.pt")
    assert asked == ["https://github.com/facebookresearch/ppuda/raw/main/checkpoints/mlp_cifar10.pt"]


def test_resolve_takes_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ghn.pt"
    path.touch()
    assert resolve(path) == path
    assert resolve(str(path)) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/ghn.pt") == path
    monkeypatch.chdir(tmp_path)
    assert resolve("ghn.pt") == Path("ghn.pt")
    (tmp_path / "mlp-cifar10").touch()
    assert resolve("./mlp-cifar10") == Path("mlp-cifar10")
    assert resolve(Path("mlp-cifar10")) == Path("mlp-cifar10")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ghn2-cifar", "ghn2-cifar10"),
        ("ghn2_cifar10", "ghn2-cifar10"),
        ("ghn1_imagenet.pt", "ghn1-imagenet"),
        ("checkpoints/ghn2_imagenet.pt", "ghn2-imagenet"),
        ("MLP-CIFAR10", "mlp-cifar10"),
        (Path("ghn2-cifar10"), "ghn2-cifar10"),
        ("something/else.pt", None),
        ("resnet50", None),
        ("", None),
        ("a\0b", None),
        ("x" * 10_000, None),
    ],
)
def test_resolve_suggests(given: Any, meant: str | None) -> None:
    text = message(resolve, given)
    says(text, repr(str(given)[:300])[:-1], "neither a published checkpoint nor an existing file")
    says(text, *checkpoint.PUBLISHED, "the path of a checkpoint file is accepted too")
    assert len(text) < 1000
    assert ("did you mean" in text) == (meant is not None)
    assert meant is None or f"(did you mean '{meant}'?)" in text


def test_resolve_refuses_other_things(tmp_path: Path) -> None:
    says(message(resolve, tmp_path), tmp_path, "is a folder", "ghn2-cifar10", "the path of a checkpoint file")
    for source, kind in ((3, "int"), (None, "NoneType"), (b"ghn.pt", "bytes")):
        says(message(resolve, source), "a name or a path", f"not {kind}", "ghn2-cifar10")


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GHNFAST_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("GHNFAST_CACHE", "")  # as good as not set
    assert cache_folder() == tmp_path / "xdg" / "ghnfast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("GHNFAST_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "ghnfast"
    assert os.listdir(tmp_path) == []

    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    says(message(cache_folder), "Could not determine home directory", "GHNFAST_CACHE")
