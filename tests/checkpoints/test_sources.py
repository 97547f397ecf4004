"""Names and paths, and the entries of published GHNs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoint_cases import message, says

from ghnfast.checkpoints import PUBLISHED, cache_folder, resolve
from ghnfast.nn import hub
from ghnfast.training import folder


def test_published_names() -> None:
    assert list(PUBLISHED) == [
        "ghn1-cifar10",
        "ghn2-cifar10",
        "mlp-cifar10",
        "ghn1-imagenet",
        "ghn2-imagenet",
        "ghn3-t",
        "ghn3-s",
        "ghn3-l",
        "ghn3-xl",
    ]
    for name, published in PUBLISHED.items():
        if published.repository is not None:
            assert published.check is None  # no digest of them is known
            continue
        assert published.check is not None
        assert published.file == name.replace("-", "_") + ".pt"
        assert published.name == name
        assert published.check.kind == "git blob id"
        assert len(published.check.digest) == 40
        assert int(published.check.digest, 16)


def test_the_address_of_the_published_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str, _: object) -> None:
        asked.append(url)
        raise OSError("not in a test")

    monkeypatch.delenv("GHNFAST_URL", raising=False)
    monkeypatch.setattr("ghnfast.checkpoints.download.fetch", fetch)
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
    says(text, *PUBLISHED, "the path of a checkpoint file is accepted too")
    assert len(text) < 1000
    assert ("did you mean" in text) == (meant is not None)
    assert meant is None or f"(did you mean '{meant}'?)" in text


def test_resolve_refuses_other_things(tmp_path: Path) -> None:
    says(message(resolve, tmp_path), tmp_path, "is a folder", "ghn2-cifar10", "the path of a checkpoint file")
    for name in (folder.WEIGHTS, hub.WEIGHTS):
        (tmp_path / "my ghn" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "my ghn" / name).touch()
        says(message(resolve, tmp_path / "my ghn"), f"is a folder (did you mean '{tmp_path}/my ghn/{name}'?)")
        (tmp_path / "my ghn" / name).unlink()
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
