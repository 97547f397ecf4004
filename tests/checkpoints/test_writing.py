"""Files appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.checkpoint_cases import SUFFIXES, message, says, small

from ghnfast.checkpoints import TrainedOn, read, write
from ghnfast.checkpoints.safetensors_files import write_safetensors


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


def test_safetensors_are_written_as_the_library_writes_them() -> None:
    kinds = "float64 float32 float16 bfloat16 float8_e4m3fn complex64 int64 int32 int16 int8 uint8 bool".split()
    kinds += ["uint16", "uint32", "uint64", "float8_e5m2"]
    tensors = {
        f'{kind}ä\n"{dims}': torch.ones([3] * dims).to(getattr(torch, kind)) for kind in kinds for dims in (2, 0)
    }
    tensors |= {"none": torch.empty(0, 3), "one": torch.tensor(1.5)}
    for given, metadata in (
        (tensors, {"ä": "b\x7f"}),
        ({}, {"format": "pt"}),
        ({"a": torch.ones(1)}, {"format": "pt"}),
    ):
        file = io.BytesIO()
        write_safetensors(file, given, metadata)
        assert file.getvalue() == safetensors.torch.save(given, metadata)


def test_the_same_checkpoint_is_the_same_file(tmp_path: Path) -> None:
    """The library has metadata in an order that it draws."""
    given = small(epoch=3, trained_on=TrainedOn("mine", (3, 32, 32)))
    files = set()
    for _ in range(8):
        write(tmp_path / "ghn.safetensors", given)
        files.add((tmp_path / "ghn.safetensors").read_bytes())
    assert len(files) == 1


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_others_may_read_what_is_written(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "touched").touch()
    write(tmp_path / f"ghn{suffix}", small())
    assert (tmp_path / f"ghn{suffix}").stat().st_mode == (tmp_path / "touched").stat().st_mode
