"""Benchmarks: `make bench`."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
from typing import Any

import pytest
import torch
from sizes import size

import ghnfast
import ghnfast.vision

collect_ignore = [] if torch.cuda.is_available() else ["test_gpu.py"]


@pytest.fixture(scope="session")
def ghn() -> ghnfast.GHN:
    """A GHN-2 for ImageNet; its weights do not matter for its speed."""
    torch.manual_seed(0)
    return ghnfast.GHN().eval()


@pytest.fixture(scope="session")
def ghn3() -> ghnfast.GHN:
    """A GHN-3-T for ImageNet."""
    torch.manual_seed(0)
    return ghnfast.GHN(hypernet="graphormer", hid=64, layers=3, heads=8, max_shape=(64, 64, 16, 16)).eval()


@pytest.fixture(scope="session")
def ghn3_xl() -> ghnfast.GHN:
    """A GHN-3-XL for ImageNet, of 2.6 GB; in one round, a small one."""
    width, layers = size((384, 24), (32, 2))
    settings: dict[str, Any] = {"hid": width, "layers": layers, "heads": 16, "max_shape": (width, width, 16, 16)}
    with torch.device("meta"):
        ghn = ghnfast.GHN(hypernet="graphormer", **settings)
    ghn.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in ghn.parameters():
            weight.uniform_(-0.02, 0.02)
    return ghn


@pytest.fixture(autouse=True)
def settled() -> None:
    """Garbage of one benchmark is none of the next one's business, nor are the modules that the process has loaded."""
    gc.collect()
    gc.freeze()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the numbers depend on, and nothing that names the machine."""
    cpu = machine_info.get("cpu", {})
    machine_info.clear()
    if torch.cuda.is_available():
        machine_info.update(
            gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda, triton=importlib.metadata.version("triton")
        )
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
