"""Every kernel compiles for the GPUs that people have, fits, and keeps its values in registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes of shared memory that a program may have without asking for more; registers of a multiprocessor, of a thread.
SHARED, REGISTERS, MOST_REGISTERS = 48 * 1024, 65536, 255
KERNELS = {
    "sweep_kernel", "sweep_backward_kernel", "decode_kernel", "check_kernel", "decode_backward_kernel",
    "layers_kernel", "embed_kernel", "largest_kernel", "attention_kernel", "queries_backward_kernel",
    "keys_backward_kernel", "hidden_gradient_kernel", "weight_gradient_kernel",
}  # fmt: skip


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_kernels_compile(architecture: int, tmp_path: Path) -> None:
    """In a process of its own: in this one, kernels may be interpreted."""
    settings = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "LD_PRELOAD")}
    settings |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    command = [sys.executable, "-m", "helpers.compiled", str(architecture)]
    run = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {entry["kernel"] for entry in found} == KERNELS
    for entry in found:
        assert entry["stack"] == 0, entry
        assert entry["shared"] <= SHARED, entry
        assert 0 < entry["registers"] <= MOST_REGISTERS, entry
        assert entry["registers"] * entry["threads"] <= REGISTERS, entry
        # Neighbours in a row of a matrix are neighbours in memory: a warp's lanes move them together.
        for matrix in entry["matrices"]:
            if matrix["does"] == "store" or entry["kernel"] == "decode_backward_kernel":
                assert matrix["order"] == "1, 0", (entry["kernel"], entry["for"], matrix)
    assert any(entry["matrices"] for entry in found if entry["kernel"] == "decode_kernel")
