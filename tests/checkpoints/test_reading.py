"""Files that are no checkpoints, and safety against pickles."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import CONFIG, SUFFIXES, message, says, small
from torch import nn

from ghnfast.checkpoints import read, write


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
