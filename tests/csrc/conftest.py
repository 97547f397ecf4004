"""The tests in this folder use numpy only, so that they also run against a sanitized build of the extension."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """The C++ extension: the installed one, or the one in the folder GHNFAST_TEST_EXTENSION."""
    folder = os.environ.get("GHNFAST_TEST_EXTENSION")
    if folder is None:
        from ghnfast import _C

        return _C
    (path,) = Path(folder).glob("_C*.so")
    loader = importlib.machinery.ExtensionFileLoader("_C", str(path))
    spec = importlib.util.spec_from_file_location("_C", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instruction_set(core: ModuleType, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    available = core.instruction_sets()
    if request.param not in available:
        pytest.skip(f"this machine has {', '.join(available)}")
    core.use_instruction_set(request.param)
    yield request.param
    core.use_instruction_set(available[-1])
