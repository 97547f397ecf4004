"""What processes that tests start find: these helpers, and all that is on the path of whoever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).parents[1]


def environment(*folders: str | Path, **settings: str) -> dict[str, str]:
    """This process's own, with settings, and with folders, or these helpers, before what is on its PYTHONPATH."""
    paths = [*map(str, folders or (SUPPORT,)), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **settings}


def without_an_interpreter(**settings: str) -> dict[str, str]:
    """The same, where Triton compiles kernels."""
    found = environment(**settings)
    return {key: value for key, value in found.items() if key not in ("TRITON_INTERPRET", "LD_PRELOAD")}
