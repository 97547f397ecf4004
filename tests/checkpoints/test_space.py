"""The memory that loading takes, and files that are too large for what there is."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import message, says
from helpers.joblib_files import dump, published_state, small_ghn

import ghnfast
from ghnfast.checkpoints import space

WIDE: dict[str, Any] = {"hid": 64, "max_shape": (64, 64, 16, 16), "num_classes": 1000, "layers": 3, "heads": 8}
PROGRAM = """
import ctypes, gc, json, resource, sys, torch, ghnfast
dtypes = torch.float32, torch.float64
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
def settled():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
def measured(path):
    said, taken = "", {}
    settled()
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20), before[1]))
    try:
        ghnfast.load(path)
    except ghnfast.CheckpointError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_AS, before)
    for dtype in dtypes:
        settled()
        # The peak of a process begins with that of the one that started it.
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS:")
        ghn = ghnfast.load(path, dtype=dtype)
        taken[str(dtype)] = status("VmHWM:") - before, sum(weight.nbytes for weight in ghn.parameters())
        del ghn
    return said, taken
for dtype in dtypes:
    ghnfast.load("ghn2-mnist5k", dtype=dtype)
print(json.dumps([measured(path) for path in sys.argv[1:]]))
"""
NAMES = ("joblib.pt", "zlib.pt", "zip.pt", "ghn.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same GHN of 110 MB in every format: its last layer is half of it, as in the largest that is published."""
    folder = tmp_path_factory.mktemp("files")
    ghn = small_ghn(**{**WIDE, "max_shape": (192, 192, 16, 16)})
    state = published_state(ghn)
    dump(state, folder / "joblib.pt")
    dump(state, folder / "zlib.pt", "zlib")
    ghn.save(folder / "zip.pt")
    ghn.save(folder / "ghn.safetensors")
    return folder


def test_memory_that_loading_takes(files: Path) -> None:
    """Little more than that of the weights. A process that has less is told: the same one, with a limit, before."""
    call = [sys.executable, "-c", PROGRAM, *(str(files / name) for name in NAMES)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name, (said, taken) in zip(NAMES, json.loads(done.stdout), strict=True):
        says(said, name, "its weights need", "MB of memory", "are available", "accepted")
        # Where numbers are converted, those of a tensor are there twice, or, as torch reads a file, of most tensors.
        converted = {"joblib.pt": 0.35, "zlib.pt": 0.35, "zip.pt": 0.6, "ghn.safetensors": 0.0}[name]
        for dtype, beyond in (("torch.float32", 0.0), ("torch.float64", converted)):
            peak, weights = taken[dtype]
            assert weights > 90 << 20, (name, dtype)
            assert 0.9 * weights < peak < (1 + beyond) * weights + (24 << 20), (name, dtype)


def test_nothing_is_taken_before_it_is_known_to_fit(
    files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(space, "available_memory", lambda: 1 << 20)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was read")

    for name in ("joblib.pt", "zip.pt", "ghn.safetensors"):
        with monkeypatch.context() as within:
            within.setattr(torch, "load", never)
            within.setattr(torch, "empty", never)
            size = (files / name).stat().st_size
            text = message(ghnfast.load, files / name)
        says(text, "need", f"{size / 2**20:.4g} MB"[:4], "1 MB are available")
    small = dump(published_state(small_ghn()), tmp_path / "small.pt")
    assert ghnfast.load(small).config == small_ghn().config


# What there is -------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Puts a file into a system that has none but those."""
    monkeypatch.setattr(space, "PROC", tmp_path / "proc")
    monkeypatch.setattr(space, "CGROUPS", tmp_path / "cgroup")

    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return put


def test_memory_of_the_machine(system: Callable[[str, str], None]) -> None:
    assert space.available_memory() is None
    system("proc/meminfo", "MemTotal: 9999 kB\nMemAvailable:   100 kB\nSwapFree:  20 kB\n")
    assert space.available_memory() == 120 * 1024
    system("proc/meminfo", "garbage\n\xff\n")
    assert space.available_memory() is None


def test_memory_of_control_groups(system: Callable[[str, str], None]) -> None:
    system("proc/meminfo", "MemAvailable: 1000 kB\n")
    system("proc/self/cgroup", "0::/outer/inner\n")
    system("cgroup/outer/inner/memory.max", "max\n")
    assert space.available_memory() == 1000 * 1024
    system("cgroup/outer/memory.max", "5000\n")
    system("cgroup/outer/memory.current", "4500\n")
    assert space.available_memory() == 500
    system("cgroup/outer/memory.stat", "anon 4000\ninactive_file 200\nactive_file 100\nfile 300\n")
    assert space.available_memory() == 800
    system("cgroup/outer/inner/memory.max", "100\n")
    system("cgroup/outer/inner/memory.current", "400\n")
    assert space.available_memory() == 0


def test_memory_of_control_groups_of_the_first_version(system: Callable[[str, str], None]) -> None:
    system("proc/meminfo", "MemAvailable: 1000 kB\n")
    system("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/a\n")
    system("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # a container sees itself as the root
    system("cgroup/memory/memory.usage_in_bytes", "1\n")
    assert space.available_memory() == 1000 * 1024
    system("cgroup/memory/a/memory.limit_in_bytes", "7000\n")
    system("cgroup/memory/a/memory.usage_in_bytes", "6000\n")
    system("cgroup/memory/a/memory.stat", "total_inactive_file 10\ntotal_active_file 20\ninactive_file 9999\n")
    assert space.available_memory() == 1030


def test_units() -> None:
    for count, text in ((5, "5 bytes"), (2048, "2 KB"), (3 << 20, "3 MB"), (2617460736, "2.438 GB")):
        assert space.in_units(count) == text


@pytest.mark.parametrize("name", ["joblib.pt", "zip.pt", "ghn.safetensors"])
def test_what_torch_cannot_allocate_is_no_damage(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says it with a RuntimeError."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    for function in ("empty", "load"):
        monkeypatch.setattr(torch, function, refuse)
    says(message(ghnfast.load, files / name), "cannot be loaded", "of memory")


@pytest.mark.parametrize("name", ["joblib.pt", "zip.pt", "ghn.safetensors"])
def test_another_dtype_is_counted(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the weights do not fit where the weights do."""
    monkeypatch.setattr(space, "available_memory", lambda: (files / name).stat().st_size * 5 // 4)
    assert ghnfast.load(files / name).settings.layers == 3
    says(message(functools.partial(ghnfast.load, dtype=torch.float64), files / name), "cannot be loaded", "of memory")
