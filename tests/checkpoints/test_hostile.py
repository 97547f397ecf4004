"""Checkpoints that are made to exhaust memory or time: small files that claim much, archives, pipes, slow servers."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import ghnfast
from ghnfast import GHN, CheckpointError
from ghnfast.checkpoints import Check, Published, read, resolve

TINY: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8}


def tiny_weights() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in GHN(**TINY).state_dict().items()}


def content(weights: Any = None, **config: Any) -> dict[str, Any]:
    weights = tiny_weights() if weights is None else weights
    return {"state_dict": weights, "config": {**GHN(**TINY).config, **config}, "epoch": 1}


class Larger:
    """Is pickled as a tensor of a gigabyte in a memory of four bytes."""

    def __reduce__(self) -> Any:
        storage = torch.TypedStorage(wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (storage, 0, (1 << 28,), (1,), False, OrderedDict())


def rewritten(data: Any, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, each member changed."""
    old, new = io.BytesIO(), io.BytesIO()
    torch.save(data, old)
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return new.getvalue()


def saved(data: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(data, file, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A gigabyte of zeros, compressed."""
    file = io.BytesIO(saved(content()))
    archive = zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("archive/data/zeros", "w") as member:
        for _ in range(1 << 6):
            member.write(bytes(1 << 24))
    return file.getvalue()


def shared() -> dict[str, torch.Tensor]:
    memory = torch.zeros(1 << 16)
    return {f"w{number}": memory.view(1 << 16) for number in range(5000)}


def as_safetensors(**config: Any) -> bytes:
    metadata = {"ghnfast_format": "1", "ghnfast_config": json.dumps(content(**config)["config"])}
    return bytes(safetensors.torch.save(tiny_weights(), metadata))


FILES: dict[str, Callable[[], bytes]] = {
    "classes.pt": lambda: saved(content(num_classes=50_000_000)),
    "classes.safetensors": lambda: as_safetensors(num_classes=50_000_000),
    "most_classes.pt": lambda: saved(content(num_classes=1 << 22)),
    "hid.pt": lambda: saved(content(hid=1 << 30)),
    "shape.pt": lambda: saved(content(max_shape=(1 << 20, 1 << 20, 3, 3))),
    "cells.safetensors": lambda: as_safetensors(max_shape=[8, 8, 1 << 20, 1 << 20]),
    "expanded.pt": lambda: saved(content({n: torch.zeros(1).expand(10_000, 20_000) for n in tiny_weights()})),
    "expanded_legacy.pt": lambda: saved(
        content({n: torch.zeros(1).expand(10_000, 20_000) for n in tiny_weights()}),
        _use_new_zipfile_serialization=False,
    ),
    "overlapping.pt": lambda: saved(content({"w": torch.zeros(30_000).as_strided((10_000, 20_000), (1, 1))})),
    "shared.pt": lambda: saved(content(shared())),
    "larger.pt": lambda: saved(content({"w": Larger()})),
    "larger_elsewhere.pt": lambda: saved({**content(), "optimizer": [Larger()]}),
    "short_member.pt": lambda: rewritten(content(), lambda name, data: data[:4] if "/data/" in name else data),
    "no_member.pt": lambda: rewritten(content(), lambda name, data: b"" if "/data/" in name else data),
    "compressed.pt": lambda: rewritten(content(), lambda name, data: data, zipfile.ZIP_DEFLATED),
    "bomb.pt": bomb,
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    return folder


@pytest.mark.parametrize("name", FILES)
def test_they_are_refused(hostile: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="accepted"):
        ghnfast.load(hostile / name)


def test_they_take_no_memory(hostile: Path) -> None:
    """All of them, in a process that may have 200 MB more than it has when ghnfast is imported."""
    assert sum(path.stat().st_size for path in hostile.iterdir()) < 8 << 20
    code = f"""
import resource
from pathlib import Path
import ghnfast
ghnfast.load("ghn2-mnist5k")
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path({str(hostile)!r}).iterdir()):
    try:
        ghnfast.load(path)
        print("loaded", path)
    except ghnfast.CheckpointError as error:
        assert "emory" not in str(error).partition(":")[0] or "bytes" in str(error), error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000, done.stdout  # kilobytes
    assert time.monotonic() - start < 100


def test_what_people_save_is_still_read(tmp_path: Path) -> None:
    weights = tiny_weights()
    transposed = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in weights.items()}
    halves = {name: value.half() for name, value in weights.items()}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    for number, data in enumerate(
        (
            content(transposed),
            content(halves),
            {**content(), "optimizer": optimizer.state_dict()},
            content(OrderedDict(weights)),
        )
    ):
        path = tmp_path / f"{number}.pt"
        for legacy in (False, True):
            torch.save(data, path, _use_new_zipfile_serialization=not legacy)
            assert ghnfast.load(path).config == GHN(**TINY).config


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    os.symlink("/dev/zero", tmp_path / "zeros.pt")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.pt")
        for name in ("pipe.pt", "zeros.pt", "socket.pt"):
            with pytest.raises(CheckpointError, match="a regular file is accepted"):
                read(tmp_path / name)
            with pytest.raises(CheckpointError, match="neither a published checkpoint nor an existing file"):
                ghnfast.load(tmp_path / name)
    os.mkfifo(tmp_path / "mlp_cifar10.pt")
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="a regular file is accepted"):
        resolve("mlp-cifar10")
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GHNFAST_URL", f"file://{tmp_path}")
    with pytest.raises(CheckpointError, match="a regular file is accepted"):
        resolve("mlp-cifar10")


# Servers -------------------------------------------------------------------------------------------------------------


def drip_body(client: socket.socket, stop: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not stop.wait(0.05):
        client.sendall(b"x")


def drip_headers(client: socket.socket, stop: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not stop.wait(0.05):
        client.sendall(b"x")


def send_endlessly(client: socket.socket, stop: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not stop.is_set():
        client.sendall(bytes(1 << 16))


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (drip_body, "not there after 1 seconds"),
        (drip_headers, "not there after 1 seconds"),
        (send_endlessly, "more than"),
    ],
)
def test_servers_without_an_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behave: Callable[[socket.socket, threading.Event], None],
    message: str,
) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                try:
                    behave(client, stop)
                except OSError:
                    return  # the other side has seen enough

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        entry = Published("ghn-test", "ghn.pt", Check("git blob id", "0" * 40))
        monkeypatch.setattr("ghnfast.checkpoints.published.PUBLISHED", {"ghn-test": entry})
        monkeypatch.setattr("ghnfast.checkpoints.download.TOTAL_SECONDS", 1.0)
        monkeypatch.setattr("ghnfast.checkpoints.download.MOST_BYTES", 1 << 22)
        monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path))
        monkeypatch.setenv("GHNFAST_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        start = time.monotonic()
        with pytest.raises(CheckpointError, match=message):
            resolve("ghn-test")
        assert time.monotonic() - start < 10
        assert os.listdir(tmp_path) == []
        stop.set()
        thread.join()
