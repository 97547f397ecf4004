"""What the package is as a package: light to import, typed, complete."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import ghnfast

HEAVY = ("triton", "torchvision", "h5py", "networkx", "timm", "transformers", "torch._dynamo")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    code = f"""
import sys, torch
before = set(sys.modules)
import ghnfast
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])
"""
    assert run_python(code) == "[]"


def test_importing_vision_makes_torchvision_importable() -> None:
    code = "import ghnfast.vision, torchvision; print(torchvision.models.resnet18().fc.out_features)"
    assert run_python(code) == "1000"


def test_importing_vision_does_not_import_torchvision() -> None:
    assert run_python("import sys, ghnfast.vision; print('torchvision' in sys.modules)") == "False"


def test_vision_after_torchvision_changes_nothing() -> None:
    code = """
import ghnfast.vision, torchvision, importlib
importlib.reload(ghnfast.vision)
print('fine')
"""
    assert run_python(code) == "fine"


def test_version_and_types() -> None:
    assert ghnfast.__version__ == importlib.metadata.version("ghnfast")
    assert (Path(ghnfast.__file__).parent / "py.typed").exists()


def test_public_names() -> None:
    for name in ghnfast.__all__:
        assert getattr(ghnfast, name) is not None


def test_kernels_are_part_of_the_package() -> None:
    assert run_python("import sys, ghnfast.kernels; print('triton' in sys.modules)") == "False"
