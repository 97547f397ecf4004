"""Predictions of a ResNet-50 by numbers of threads, also on a machine whose cores other processes keep busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from helpers.models import torchvision_model
from sizes import size
from turns import versus

import ghnfast
from ghnfast.profiling import Stage


@contextmanager
def busy_cores() -> Iterator[None]:
    """One process for each core that never waits; in one round, one process."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(size(os.cpu_count() or 1, 1))]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("one", [False, True], ids=["all threads", "one thread"])
@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_threads(benchmark: Any, ghn: ghnfast.GHN, busy: bool, one: bool) -> None:
    """Numbers of threads take no turns: a change ends those that there are."""
    model, most, matrix = torchvision_model("resnet50"), torch.get_num_threads(), torch.randn(400, 400)
    graph = ghnfast.trace(model)
    others: dict[str, Stage] = {"product": lambda: torch.mm(matrix, matrix)}
    torch.set_num_threads(1 if one else most)
    benchmark.extra_info.update(busy=busy, threads=torch.get_num_threads())
    try:
        with busy_cores() if busy else nullcontext():
            versus(benchmark, lambda: ghn.predict(model, graph=graph), others, 25)
    finally:
        torch.set_num_threads(most)
