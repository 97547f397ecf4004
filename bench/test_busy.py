"""Predictions of a ResNet-50 by numbers of threads, also on a machine whose cores other processes keep busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.models import torchvision_model
from turns import versus

import ghnfast


@contextmanager
def busy_cores() -> Iterator[None]:
    """One process for each core that never waits."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(os.cpu_count() or 1)]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_threads(benchmark: Any, ghn: ghnfast.GHN, busy: bool) -> None:
    model, most = torchvision_model("resnet50"), torch.get_num_threads()
    graph, matrix = ghnfast.trace(model), torch.randn(400, 400)

    def on(threads: int, function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(threads)
            function()

        return run

    def predict() -> None:
        ghn.predict(model, graph=graph)

    def product() -> None:
        torch.mm(matrix, matrix)

    others = {
        "one thread": on(1, predict),
        "product": on(most, product),
        "product, one thread": on(1, product),
    }
    benchmark.extra_info.update(busy=busy, threads=most)
    try:
        if busy:
            with busy_cores():
                versus(benchmark, on(most, predict), others, 25)
        else:
            versus(benchmark, on(most, predict), others, 25)
    finally:
        torch.set_num_threads(most)
