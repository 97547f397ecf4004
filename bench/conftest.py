"""Benchmarks: `make bench`. What is compared takes turns in one process, so that both meet the same machine."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import ghnfast
import ghnfast.vision

Stage = Callable[[], Any]


@pytest.fixture(scope="session")
def ghn() -> ghnfast.GHN:
    """A GHN-2 for ImageNet; its weights do not matter for its speed."""
    return ghnfast.load("untrained")


def versus(benchmark: Any, main: Stage, others: Mapping[str, Stage], rounds: int) -> dict[str, float]:
    """Time `main` in turns with others, whose median seconds are kept beside it, and returned with its own."""
    seconds: dict[str, list[float]] = {name: [] for name in others}

    def others_first() -> None:
        for name, function in others.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(main, setup=others_first, rounds=rounds, warmup_rounds=1)
    # The first round is the warm-up's.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    medians["main"] = benchmark.stats.stats.median
    benchmark.extra_info["median_ms"] = {name: round(value * 1e3, 4) for name, value in medians.items()}
    return medians


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the numbers depend on, and nothing that names the machine."""
    cpu = machine_info.get("cpu", {})
    machine_info.clear()
    machine_info.update(
        cpu=cpu.get("brand_raw", platform.processor()),
        threads=torch.get_num_threads(),
        instruction_set=ghnfast._C.instruction_sets()[-1],
        system=platform.system(),
        python=platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "torchvision", "ghnfast")},
    )


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keep what the tables are made from."""
    commit = output_json["commit_info"]
    output_json["commit_info"] = {name: commit.get(name) for name in ("id", "time", "dirty")}
    for entry in output_json["benchmarks"]:
        stats = entry["stats"]
        entry["stats"] = {name: stats[name] for name in ("median", "min", "max", "iqr", "rounds")}
        for name in ("options", "group", "fullname", "param"):
            entry.pop(name, None)
