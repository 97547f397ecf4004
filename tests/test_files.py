"""Writing files: temporary files of writers that were killed, and paths that cannot be written."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.full_disk import files_of_at_most

import ghnfast
from ghnfast import CheckpointError
from ghnfast.checkpoints import Checkpoint, read, write
from ghnfast.cli import main
from ghnfast.cli.predict import write_weights
from ghnfast.files import replacing

KILLED = """
import os, signal, sys
from pathlib import Path
from ghnfast.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def temporaries(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".tmp"))


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "ghn [a].pt"
    assert writer(path, "die").wait() == -signal.SIGKILL
    assert len(temporaries(tmp_path)) == 1
    for name in (".ghn [a].pt.tmp", ".ghn [a].pt.0123456789abcdeg.tmp", ".other.pt.0123456789abcdef.tmp", "my.tmp"):
        (tmp_path / name).touch()  # not of this path
    write(path, Checkpoint({"hid": 8}, {"w": torch.zeros(2)}, "here"))
    assert len(temporaries(tmp_path)) == 4
    assert read(path).config == {"hid": 8}


@pytest.mark.parametrize("name", ["ghn.pt", "ghn.safetensors"])
def test_a_full_disk_is_named_and_leaves_the_last_file(tmp_path: Path, name: str) -> None:
    first = Checkpoint({"hid": 8}, {"w": torch.zeros(2)}, "here")
    write(tmp_path / name, first)
    with files_of_at_most(10_000), pytest.raises(CheckpointError, match=r"could not be written: File too large$"):
        write(tmp_path / name, Checkpoint({"hid": 9}, {"w": torch.zeros(10_000)}, "here"))
    assert os.listdir(tmp_path) == [name]
    assert read(tmp_path / name).config == first.config


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("kind", ["weights", "GHN"])
def test_nothing_is_beside_a_file_that_is_written_but_what_the_next_writer_would_remove(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    own = torch.Tensor.untyped_storage

    def look(tensor: torch.Tensor) -> Any:
        seen.append(os.listdir(tmp_path))
        return own(tensor)

    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.listdir(tmp_path)))
    monkeypatch.setattr(torch.Tensor, "untyped_storage", look)
    if kind == "GHN":
        write(tmp_path / name, Checkpoint({"hid": 8}, {"w": torch.zeros(2)}, "here"))
    else:
        write_weights(tmp_path / name, torch.nn.Linear(2, 2))
    there = [names for names in seen if names]
    assert there
    assert all(re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp", one) for (one,) in there)
    assert os.listdir(tmp_path) == [name]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "ghn.pt"
    process = writer(path, "wait")
    (own,) = temporaries(tmp_path)
    with replacing(path) as file:
        file.write(b"second")
        assert own in temporaries(tmp_path)
    assert path.read_bytes() == b"second"
    process.communicate("")
    assert process.returncode == 0
    assert path.read_bytes() == b"half"
    assert temporaries(tmp_path) == []


def test_many_writers_at_once(tmp_path: Path) -> None:
    path, failures = tmp_path / "ghn.pt", []

    def write_often(number: int) -> None:
        for _ in range(50):
            try:
                with replacing(path) as file:
                    file.write(bytes([number]) * 1000)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=write_often, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    content = path.read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1
    assert temporaries(tmp_path) == []


def test_links_and_folders_with_such_names_stay(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / ".a.0123456789abcdef.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / ".a.0123456789abcdee.tmp").mkdir()
    os.mkfifo(tmp_path / ".a.0123456789abcded.tmp")
    with replacing(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "precious").read_text() == "content"
    assert len(temporaries(tmp_path)) == 3


@pytest.mark.parametrize("there", [True, False])
def test_what_links_lead_to_is_written(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "disk" / "real.safetensors"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    first.symlink_to(target)
    second.symlink_to("first.safetensors")
    with replacing(second) as file:
        file.write(b"new")
    assert target.read_bytes() == second.read_bytes() == b"new"
    assert first.is_symlink()
    assert second.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["disk", "first.safetensors", "second.safetensors"]
    assert os.listdir(target.parent) == ["real.safetensors"]


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder")
    with pytest.raises(IsADirectoryError), replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_a_model_is_saved_behind_a_link(tmp_path: Path) -> None:
    link = tmp_path / "model.safetensors"
    link.symlink_to("real.safetensors")
    assert main(["predict", "torchvision.models:squeezenet1_1", "--out", str(link)]) == 0
    assert link.is_symlink()
    assert (tmp_path / "real.safetensors").stat().st_size > 1e6


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".pt")  # 243 bytes of 255
    with replacing(path) as file:
        file.write(b"1")
    assert path.read_bytes() == b"1"


# --out of the command line -------------------------------------------------------------------------------------------

MODEL = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "file").touch()
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("folder.pt", "it is a folder"),
        ("none/a.pt", "the folder none does not exist"),
        ("file/a.pt", "the folder file is no folder"),
        ("", "it is no file's name"),
        ("a", "its suffix is ''"),
        ("/dev/null", "its suffix is ''"),
        ("pipe.pt", "a pipe or a device"),
        ("/proc/a.pt", "cannot write /proc/a.pt"),
        ("x" * 300 + ".pt", "too long"),
        ("a\0b.pt", "null"),
    ],
)
def test_files_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str], out: str, message: str) -> None:
    before = sorted(os.listdir(folder))
    assert main(["predict", "model.py:make", "--input-shape", "3,32,32", "--out", out]) == 2
    assert message in capsys.readouterr().err
    assert sorted(name for name in os.listdir(folder) if name != "__pycache__") == before


@pytest.mark.parametrize("command", [["generate", "val", "--count", "2"], ["train", "data=mnist5k"]])
@pytest.mark.parametrize(
    ("out", "message"),
    [("", "no folder's name"), ("file", "is no folder"), ("file/a/b", "is no folder"), ("a\0", "name")],
)
def test_folders_that_cannot_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str], out: str, message: str
) -> None:
    assert main([*command, "--out", out]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_that_are_no_text(folder: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    out = os.fsdecode(b"caf\xe9" + suffix.encode())
    assert main(["predict", "model.py:make", "--input-shape", "3,32,32", "--out", out]) == 0
    assert r"caf\udce9" in capsys.readouterr().out
    assert stat.S_ISREG(os.stat(out).st_mode)
    assert temporaries(folder) == []
    ghn, path = ghnfast.GHN(max_shape=(8, 8, 3, 3), hid=8), Path(os.fsdecode(b"\xff" + suffix.encode()))
    ghn.save(path)
    if suffix == ".pt":
        assert ghnfast.load(path).config == ghn.config
