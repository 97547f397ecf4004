"""`ghnfast info`: what this installation is, and what it can use here; for reports of errors."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Any

import torch

from .. import _C
from ..checkpoints import available, cache_folder, local_file
from ..errors import GhnfastError
from ..ops.backend import LEAST_CAPABILITY, VARIABLE, has_triton
from .shared import Json

PACKAGES = (
    "torch numpy safetensors torchvision timm transformers triton huggingface_hub networkx h5py mlxtend matplotlib "
    "tqdm tensorboard shtab"
).split()
VARIABLES = (VARIABLE, "GHNFAST_CACHE", "GHNFAST_URL", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="show versions, backends, processors and the cache",
        description="Show versions, what operations can run with, processors, and where files are. For reports.",
    )
    parser.add_argument("--json", action="store_true", help="print it as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    found = gather()
    return json.dumps(found) if arguments.json else format_info(found)


def gather() -> Json:
    return {
        "ghnfast": importlib.metadata.version("ghnfast"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name)) is not None},
        "backends": backends(),
        "cpu": {
            "name": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instruction_sets": _C.instruction_sets(),
        },
        "gpus": gpus(),
        "cache": cache(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def backends() -> dict[str, str]:
    """What operations can run with, and on what."""
    usable = [gpu for gpu in gpus() if tuple(gpu["capability"]) >= LEAST_CAPABILITY and torch.version.hip is None]
    if not has_triton():
        triton = "not installed"
    elif usable:
        triton = "float32 on the GPU"
    else:
        triton = "installed; no GPU of compute capability " + ".".join(map(str, LEAST_CAPABILITY)) + " or more"
    return {"cpp": "float32 and float64 on the CPU", "triton": triton, "torch": "everything, everywhere"}


def cpu_name() -> str:
    """As the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # no Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def gpus() -> list[Json]:
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": each.name, "capability": [each.major, each.minor], "memory": each.total_memory} for each in properties
    ]


def cache() -> Json:
    try:
        folder: str | None = str(cache_folder())
        here = [name for name in available() if local_file(name) is not None]
    except GhnfastError:  # no home folder
        folder, here = None, []
    return {"folder": folder, "ghns": here}


def format_info(found: Json) -> str:
    cpu = found["cpu"]
    lines = [
        f"ghnfast     {found['ghnfast']}",
        f"Python      {found['python']} on {found['system']}",
        f"packages    {', '.join(f'{name} {version}' for name, version in found['packages'].items())}",
    ]
    lines += [f"{'backends' if first else '':11} {name}: {what}" for first, name, what in numbered(found["backends"])]
    lines += [
        f"CPU         {cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads, "
        f"{', '.join(cpu['instruction_sets'])}"
    ]
    described = [
        f"{gpu['name']}, compute capability {'.'.join(map(str, gpu['capability']))}, {gpu['memory'] / 2**30:.0f} GiB"
        for gpu in found["gpus"]
    ]
    lines += [f"GPU         {text}" for text in described or ["none that torch can use"]]
    lines += [
        f"cache       {found['cache']['folder'] or 'no home folder to keep one in'}",
        f"GHNs here   {', '.join(found['cache']['ghns']) or 'none'}",
        f"variables   {', '.join(f'{name}={value}' for name, value in found['variables'].items()) or 'none'}",
    ]
    return "\n".join(lines)


def numbered(values: dict[str, str]) -> list[tuple[bool, str, str]]:
    return [(index == 0, name, value) for index, (name, value) in enumerate(values.items())]
