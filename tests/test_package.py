"""What the package is as a package: light to import, typed, complete."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ghnfast

HEAVY = ("triton", "torchvision", "h5py", "networkx", "timm", "transformers", "torch._dynamo")


IMPORTS = f"""
import importlib, json, sys, torch
before = set(sys.modules)
import ghnfast
said = {{"heavy": [name for name in {HEAVY!r} if name in sys.modules and name not in before]}}
import ghnfast.kernels
said["triton"] = "triton" in sys.modules and "triton" not in before
import ghnfast.vision
said["torchvision"] = "torchvision" in sys.modules
import torchvision
said["classes"] = torchvision.models.resnet18().fc.out_features
importlib.reload(ghnfast.vision)
said["reloaded"] = True
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def imports() -> dict[str, Any]:
    """What a process says that imports one after the other."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_import_loads_nothing_heavy(imports: dict[str, Any]) -> None:
    assert imports["heavy"] == []


def test_importing_vision_makes_torchvision_importable(imports: dict[str, Any]) -> None:
    assert imports["classes"] == 1000


def test_importing_vision_does_not_import_torchvision(imports: dict[str, Any]) -> None:
    assert not imports["torchvision"]


def test_vision_after_torchvision_changes_nothing(imports: dict[str, Any]) -> None:
    assert imports["reloaded"]


def test_version_and_types() -> None:
    assert ghnfast.__version__ == importlib.metadata.version("ghnfast")
    assert (Path(ghnfast.__file__).parent / "py.typed").exists()


def test_public_names() -> None:
    for name in ghnfast.__all__:
        assert getattr(ghnfast, name) is not None


def test_kernels_are_part_of_the_package(imports: dict[str, Any]) -> None:
    assert not imports["triton"]
