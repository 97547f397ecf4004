"""Shared fixtures."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import zlib

import numpy as np
import pytest
import torch
from helpers import kernel_device, quick_interpreter  # first: before anything imports Triton
from helpers.golden_data import golden_ghn

import ghnfast

# What the Makefile says of memory is for the processes that run tests: some of those that they start measure it.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.pop(name, None)

# What runs in the background ignores Ctrl-C, and so does what it starts: tests send it, and it is to arrive.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `torch.manual_seed` keeps, for each kind of device that may yet be found, what it was called from, in words: three
# milliseconds within pytest, before each test and in many.
for kind, place in ((torch.cuda, torch.cuda.random), (torch.xpu, torch.xpu.random), (torch.mtia, torch.mtia)):
    if not kind.is_available():
        vars(place)["_lazy_call"] = lambda *_, **__: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no process waits for it in the end."""
    items.sort(key=lambda item: "test_compile.py" not in item.nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws is its own, whichever tests its process has run before."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def what_was_there_before_is_no_garbage() -> None:
    """Python's collector looks through what a file's tests make alone: all that was imported for others, too, takes it
    half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def interpreted_quickly() -> None:
    if kernel_device.DEVICE == "cpu":
        quick_interpreter.speed_up()


@pytest.fixture(scope="session")
def ghn_imagenet() -> ghnfast.GHN:
    """The golden GHN-2 for ImageNet."""
    return golden_ghn("ghn2-imagenet")


@pytest.fixture(params=["cpp", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation of the operations."""
    monkeypatch.setenv("GHNFAST_BACKEND", request.param)
    return str(request.param)
